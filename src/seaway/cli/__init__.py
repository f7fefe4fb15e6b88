"""The command line: every command goes through the HTTP API."""

from seaway.cli.app import build_cli
from seaway.cli.commands.install import InstallAnswer, InstallCommands, InstallOptions, UninstallOptions
from seaway.cli.commands.platform import Part, PlatformCommands
from seaway.cli.errors import CliError, ExitCode

__all__ = [
    "CliError", "ExitCode", "InstallAnswer", "InstallCommands", "InstallOptions", "Part", "PlatformCommands",
    "UninstallOptions", "build_cli",
]  # fmt: skip
