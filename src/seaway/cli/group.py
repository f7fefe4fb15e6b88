"""How the command line is read: space and colon form, bare groups, errors and exit codes."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TextIO

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from seaway.cli.errors import CliError, ExitCode, UsageError, join_errors
from seaway.cli.show import print_error
from seaway.model.problems import say_problem

HELP = frozenset({"--help", "-h"})


class ListingGroup(TyperGroup):
    """A group whose bare form lists: `seaway ps -a shop` is `seaway ps list -a shop`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` in front of nothing and of options."""
        if not args or (args[0].startswith("-") and args[0] not in HELP):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class RootGroup(TyperGroup):
    """The `seaway` command: takes the colon form too, and turns every error into a sentence and an exit code."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Read `config:set` as `config set`."""
        group, colon, name = args[0].partition(":")
        if colon and name and isinstance(self.commands.get(group), TyperGroup):
            args = [group, name, *args[1:]]
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit with the command's code; no traceback is ever shown unless SEAWAY_DEBUG is set."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        given = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # what the terminal cannot show must not end a command
        try:
            check_arguments(given)
            result = super().main(given, prog_name, complete_var, False, windows_expand_args, **extra)
            code = result if isinstance(result, int) else ExitCode.DONE
        except CliError as error:
            code = report(error, given)
        except (KeyboardInterrupt, typer.Abort):
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:
            code = close_broken_pipe()
        except Exception as error:  # the last resort: whatever it is, people get a sentence
            code = report_unexpected(error, given)
        sys.exit(int(code))


def check_arguments(args: Sequence[str]) -> None:
    """Raise UsageError for an argument that is no text: its bytes would fail wherever they are written first."""
    errors = []
    for number, argument in enumerate(args, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            byte = os.fsencode(argument[error.start])[0]
            key = argument.partition("=")[0]
            named = f" ({key}=...)" if key.isidentifier() and key.isascii() and key != argument else ""
            errors.append(UsageError(f"argument {number}{named} is not text in UTF-8: it holds the byte {byte:#04x}"))
    if errors:
        hint = "write names and values in UTF-8 (`iconv` converts them); bytes can be given as base64"
        raise UsageError(join_errors(errors).message, hint=hint)


def report(error: CliError, args: Sequence[str]) -> int:
    """Print the error as the command's -o asks; return its exit code."""
    try:
        print_error(error, as_json=wants_json(args) if error.as_json is None else error.as_json)
    except OSError:  # nobody is there to read it: the terminal was closed
        _leave(sys.stderr)
    return error.exit_code


def report_unexpected(error: Exception, args: Sequence[str]) -> int:
    """Report a parser's usage error, or a fault of Seaway's own."""
    if hasattr(error, "format_message"):
        return _report_usage(error, args)
    if os.environ.get("SEAWAY_DEBUG"):
        traceback.print_exception(error)
    hint = "this is a fault in Seaway: run it again with SEAWAY_DEBUG=1 and report what it prints"
    return report(CliError(f"{type(error).__name__}: {error}", hint=hint, code="internal"), args)


def _report_usage(error: Any, args: Sequence[str]) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return ExitCode.USAGE
    if isinstance(error.__cause__, ValidationError):  # typer's words for a wrong option are pydantic's
        error.message = say_problem(error.__cause__.errors()[0])
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "seaway"
    return report(UsageError(error.format_message(), hint=f"`{path} --help` shows how it is used"), args)


def wants_json(args: Sequence[str]) -> bool:
    """Return whether an unparsed command line asks for JSON; what follows -- is not looked at."""
    words = list(args[: args.index("--")]) if "--" in args else list(args)
    pairs = set(pairwise(words))
    return bool(pairs & {("-o", "json"), ("--output", "json")} or {"-ojson", "-o=json", "--output=json"} & set(words))


def close_broken_pipe() -> int:
    """The reader of our output left (`| head`): stop without a word."""
    _leave(sys.stdout)
    return ExitCode.FAILED


def _leave(stream: TextIO) -> None:
    """Send what is still written there to nobody."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)
