"""What share of the requests is of which kind, and the order in which they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(frozen=True)
class Mix:
    """Shares of the request rate per kind (any numbers >= 0), and how many WebSockets are held open besides.

    get: GET on kept-alive connections; post: POST whose body must come back; new: GET on a connection of its
    own; slow: GET that takes `Shape.slow` seconds; stream: GET of a body that comes in pieces.
    """

    get: float = 60
    post: float = 25
    new: float = 10
    slow: float = 2
    stream: float = 3
    websockets: int = 0

    def __post_init__(self) -> None:
        if any(getattr(self, field.name) < 0 for field in fields(self)):
            raise ValueError(f"{self}: shares and counts are 0 or more")
        if not self.shares and not self.websockets:
            raise ValueError("a mix needs a share above 0 or a WebSocket, for example get=3,post=1")

    @property
    def shares(self) -> dict[str, float]:
        """Return the kinds of request with a share above 0."""
        kinds = {field.name: float(getattr(self, field.name)) for field in fields(self) if field.name != "websockets"}
        return {kind: share for kind, share in kinds.items() if share > 0}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "get=60,post=40,websockets=2"; kinds that are not named have no share."""
        values: dict[str, float] = {}
        known = {field.name for field in fields(cls)}
        for item in text.split(","):
            kind, _, number = item.partition("=")
            try:
                values[kind.strip()] = float(number)
            except ValueError:
                raise ValueError(f"{item!r} in the mix: write KIND=NUMBER, for example get=60,post=40") from None
            if kind.strip() not in known:
                raise ValueError(f"{kind.strip()!r} is no kind of traffic: use {', '.join(sorted(known))}")
        sockets = values.pop("websockets", 0)
        if sockets != int(sockets):
            raise ValueError(f"websockets={sockets}: it is a whole number")
        nothing = replace(cls(), get=0, post=0, new=0, slow=0, stream=0, websockets=1)
        return replace(nothing, **values, websockets=int(sockets))

    def __str__(self) -> str:
        return ",".join(f"{field.name}={getattr(self, field.name):g}" for field in fields(self))

    def kinds(self) -> Iterator[str]:
        """Yield kinds for ever, each as evenly spread as its share allows (smooth weighted round robin)."""
        shares = self.shares
        total = sum(shares.values())
        current = dict.fromkeys(shares, 0.0)
        while True:
            for kind, share in shares.items():
                current[kind] += share
            kind = max(current, key=current.__getitem__)
            current[kind] -= total
            yield kind
