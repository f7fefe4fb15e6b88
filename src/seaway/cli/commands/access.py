"""seaway tokens: create, list, revoke."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import typer

from seaway.cli.client import Doc
from seaway.cli.errors import CliError
from seaway.cli.group import ListingGroup
from seaway.cli.session import OutputOption, command, connect, parse_seconds
from seaway.cli.show import Output, age, dig, moment, print_json, print_note, print_table, print_text, span
from seaway.model import Role


def add(root: typer.Typer) -> None:
    """Add `tokens` to the root command."""
    group = typer.Typer(cls=ListingGroup, help="Tokens: who may use the API, and for what.")
    group.command("list")(list_tokens)
    group.command("create")(create)
    group.command("revoke")(revoke)
    root.add_typer(group, name="tokens")


@command
async def list_tokens(*, output: OutputOption = Output.TEXT) -> None:
    """List the tokens; their secrets are known to nobody but their owners."""
    async with connect() as api:
        tokens: list[Doc] = await api.get("/tokens")
    if output is Output.JSON:
        print_json(tokens)
        return
    rows = [
        (dig(t, "meta.name"), dig(t, "spec.role", ""), dig(t, "spec.team", "every team"),
         age(dig(t, "meta.created_at")), _expiry(t), dig(t, "spec.created_by", ""))
        for t in tokens
    ]  # fmt: skip
    print_table(("token", "role", "team", "created", "expires", "by"), rows, empty="no tokens")


def parse_lifetime(text: str | float) -> float:
    """Parse a duration that may also be in days (90d); return seconds."""
    if isinstance(text, str) and text.endswith("d") and text[:-1].isascii() and text[:-1].isdigit():
        return int(text[:-1]) * 86400.0
    return parse_seconds(text)


def _expiry(token: Doc) -> str:
    at = moment(dig(token, "spec.expires_at"))
    if at is None:
        return "never"
    left = (at - datetime.now(UTC)).total_seconds()
    return f"in {span(left)}" if left > 0 else "expired"


@command
async def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the token is for, for example ci.")],
    *,
    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = Role.DEVELOPER,
    team: Annotated[str | None, typer.Option("--team", help="Whose apps; admins may leave it out.")] = None,
    expires: Annotated[
        float | None,
        typer.Option(
            "--expires",
            parser=parse_lifetime,
            metavar="TIME",
            help="Valid this long, for example 8h or 90d; by default for ever.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create a token. Its secret is printed once, alone on standard output, and kept nowhere."""
    body: Doc = {"name": name, "role": role}
    if team is not None:
        body["team"] = team
    if expires is not None:
        body["expires_in"] = expires
    async with connect() as api:
        answer: Doc = await api.post("/tokens", body)
    if output is Output.JSON:
        print_json(answer)
        return
    secret = dig(answer, "secret")
    if not isinstance(secret, str):
        raise CliError("the API made the token but sent no secret", hint=f"revoke it: seaway tokens revoke {name}")
    print_note(f"token {name} ({role}); keep it now, it is not shown again:")
    print_text(secret)


@command
async def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")],
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Revoke a token: from now on it is refused."""
    async with connect() as api:
        answer = await api.call("DELETE", f"/tokens/{quote(name, safe='')}")
    if output is Output.JSON:
        print_json(answer if answer is not None else {"revoked": name})
    else:
        print_text(f"revoked {name}")
