"""`python -m seaway` is the `seaway` command."""

from seaway.main import run

run()
