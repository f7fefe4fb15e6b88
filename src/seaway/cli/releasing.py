"""Commands that make a release and wait until it serves: rollback, config, restart."""

from __future__ import annotations

from typing import Any

from seaway.cli.client import Doc
from seaway.cli.errors import ApiError, ExitCode
from seaway.cli.outcome import Outcome, bring_release
from seaway.cli.progress import show_progress
from seaway.cli.session import connect
from seaway.cli.show import Output, dig, print_json, print_text, version
from seaway.cli.waiting import Waiter, limit
from seaway.model import ENDED

UNCHANGED = 200  # HTTP status of a change that made no new release; 201 otherwise


async def release_and_wait(
    app: str, method: str, path: str, body: Any, *, wait: bool, timeout: float, output: Output
) -> None:
    """Send a request whose answer is the new Release; follow its rollout; print how it stands."""
    async with connect() as api:
        answer = await api.request(method, f"/apps/{app}{path}", body=body)
        release: Doc = answer.body
        name, unchanged = version(dig(release, "spec.number")), answer.status == UNCHANGED
        said = f"release {name} of {app}: {dig(release, 'spec.description', '')}"
        if unchanged:
            said = f"nothing to change: {name} of {app} is like that already"
        if not wait:
            _print_started(app, release, said, output)
            return
        with show_progress(quiet=output is Output.JSON) as progress:
            progress.say(said)
            hint = f"stop it with `seaway rollouts cancel {name} -a {app}`"
            async with limit(timeout, progress, what=f"the rollout of {name}", cancel=hint):
                waiter = Waiter(api, app, progress)
                outcome = await _find_ended(waiter, release) if unchanged else None
                ended = outcome is not None
                outcome = outcome or await bring_release(waiter, release)
    if output is Output.JSON:
        print_json(outcome.document())
    elif not ended:
        print_text(outcome.sentence())


def _print_started(app: str, release: Doc, said: str, output: Output) -> None:
    if output is Output.JSON:
        print_json({"app": app, "result": "started", "release": release})
    else:
        print_text(said)


async def _find_ended(waiter: Waiter, release: Doc) -> Outcome | None:
    """Return the outcome of a release whose rollout is over: there is nothing to wait for."""
    try:
        rollout = await waiter.get(f"/rollouts/{dig(release, 'spec.number')}")
    except ApiError as error:
        if error.exit_code == ExitCode.NOT_FOUND:
            return None
        raise
    return Outcome(waiter.app, release, rollout) if dig(rollout, "status.phase") in ENDED else None
