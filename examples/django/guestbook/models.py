"""What is stored."""

from django.db import models


class Entry(models.Model):
    """A line in the guest book."""

    text = models.CharField(max_length=200)
    at = models.DateTimeField(auto_now_add=True)
