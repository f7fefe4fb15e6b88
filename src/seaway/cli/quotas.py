"""Options that `seaway up` and `seaway install` share: how much apps, teams and tokens may have; who is trusted."""

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
TeamAppsOption = Annotated[
    int | None,
    typer.Option("--team-apps", metavar="N", help="How many apps a team may have; 0: no limit. [1000]"),
]
TokenRateOption = Annotated[
    int | None,
    typer.Option("--token-rate", metavar="N", help="Requests a second that a token may send; 0: no limit. [50]"),
]

TrustedProxiesOption = Annotated[
    str | None,
    typer.Option(
        "--trusted-proxies",
        metavar="ADDRESS,...",
        help="Balancers before the routers, as addresses or networks (10.0.0.0/8), whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed; `none`: nobody's are. [none]",
    ),
]
