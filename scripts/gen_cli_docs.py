"""Writes docs/cli.md from the commands."""

from pathlib import Path

from seaway.cli.reference import write_reference

if __name__ == "__main__":
    target = Path(__file__).parent.parent / "docs" / "cli.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(write_reference())
