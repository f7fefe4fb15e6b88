"""Options of `seaway up` and `seaway install` that set how much apps and teams may have."""

from __future__ import annotations

from typing import Annotated

import typer

AppInstancesOption = Annotated[
    int | None,
    typer.Option("--app-instances", metavar="N", help="How many instances an app may have; 0: no limit. [100]"),
]
TeamInstancesOption = Annotated[
    int | None,
    typer.Option("--team-instances", metavar="N", help="How many instances a team's apps may have; 0: no limit. [0]"),
]
AppMemoryOption = Annotated[
    str | None,
    typer.Option("--app-memory", metavar="SIZE", help="How much memory an app may have (4GiB); 0: no limit. [0]"),
]
TeamMemoryOption = Annotated[
    str | None,
    typer.Option("--team-memory", metavar="SIZE", help="How much memory a team's apps may have; 0: no limit. [0]"),
]
