"""The command line: every command goes through the HTTP API."""

from seaway.cli.app import build_cli
from seaway.cli.commands.platform import Part, PlatformCommands
from seaway.cli.errors import CliError, ExitCode

__all__ = ["CliError", "ExitCode", "Part", "PlatformCommands", "build_cli"]
