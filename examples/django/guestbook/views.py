"""One page: what was written, and a form to write more."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from guestbook.models import Entry


def book(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        Entry.objects.create(text=request.POST.get("text", "")[:200])
        return redirect("/")
    return render(request, "book.html", {"entries": Entry.objects.order_by("-at")[:100]})
