"""Where the page is."""

from django.urls import path

from guestbook.views import book

urlpatterns = [path("", book)]
