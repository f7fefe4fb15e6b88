"""Creating an app: when told to, and for a deploy of one that is not there."""

from __future__ import annotations

import signal
import sys

from seaway.cli.client import Api, Doc
from seaway.cli.errors import ApiError, CliError, ExitCode
from seaway.cli.show import Output, console, print_text


async def create_app(api: Api, name: str, team: str | None = None) -> Doc:
    """Create an app; without a team it is the token's."""
    app: Doc = await api.post("/apps", {"name": name} | ({"team": team} if team else {}))
    return app


async def require_app(api: Api, name: str, *, create: bool, output: Output) -> None:
    """See that an app is there: create it if told to, or if who sits at the terminal says so.

    Raises CliError if it is not there then.
    """
    try:
        await api.get(f"/apps/{name}")
    except ApiError as error:
        if error.exit_code != ExitCode.NOT_FOUND:
            raise
        if not create and not (output is Output.TEXT and _offer(name, error.hint)):
            raise _explain(name, error) from error
    else:
        return
    await create_app(api, name)
    if output is Output.TEXT:
        print_text(f"created {name}")


def _offer(name: str, hint: str) -> bool:
    """Ask on a terminal whether to create the app; where there is none the answer is no."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    near = f" ({hint.rstrip('?')}?)" if hint.startswith("did you mean") else ""
    return _ask(f"there is no app {name}{near}; create it? [Y/n]")


def _ask(question: str) -> bool:
    """Return whether the answer is yes, which it is by default; the end of input is a no."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the event loop's waits for what blocks
    try:
        while True:
            console().print(question, end=" ", soft_wrap=True)
            sys.stdout.flush()
            answer = sys.stdin.readline()
            if (word := answer.strip().lower()) in ("y", "yes", "n", "no", ""):
                return bool(answer) and word in ("y", "yes", "")
    except KeyboardInterrupt as error:
        raise CliError("nothing was created or deployed", exit_code=ExitCode.INTERRUPTED, code="interrupted") from error
    finally:
        signal.signal(signal.SIGINT, before)


def _explain(name: str, error: ApiError) -> CliError:
    hint = f"create it first: `seaway apps create {name}`, or let the deploy do it: add --create"
    return CliError(
        error.message,
        hint=hint + (f" ({error.hint})" if error.hint else ""),
        exit_code=ExitCode.NOT_FOUND,
        code=error.code,
        field=error.field,
    )
