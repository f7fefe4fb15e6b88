"""Commands that make a release and wait until it serves: rollback, config, restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from seaway.cli.client import Api, Doc
from seaway.cli.outcome import bring_release
from seaway.cli.progress import show_progress
from seaway.cli.session import connect
from seaway.cli.show import Output, dig, print_json, print_text, version
from seaway.cli.waiting import Waiter, limit


async def release_and_wait(
    app: str, request: Callable[[Api], Awaitable[Any]], *, wait: bool, timeout: float, output: Output
) -> None:
    """Send a request whose answer is the new Release; follow its rollout; print how it stands."""
    async with connect() as api:
        release: Doc = await request(api)
        name = version(dig(release, "spec.number"))
        if not wait:
            if output is Output.JSON:
                print_json({"app": app, "result": "started", "release": release})
            else:
                print_text(f"release {name} of {app}: {dig(release, 'spec.description', '')}")
            return
        with show_progress(quiet=output is Output.JSON) as progress:
            progress.say(f"release {name} of {app}: {dig(release, 'spec.description', '')}")
            hint = f"stop it with `seaway rollouts cancel {name} -a {app}`"
            async with limit(timeout, progress, what=f"the rollout of {name}", cancel=hint):
                outcome = await bring_release(Waiter(api, app, progress), release)
    if output is Output.JSON:
        print_json(outcome.document())
    else:
        print_text(outcome.sentence())
