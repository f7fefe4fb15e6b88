"""How a rollout ended, as sentences and exit codes."""

from __future__ import annotations

from dataclasses import dataclass

from seaway.cli.client import Doc
from seaway.cli.errors import CliError
from seaway.cli.show import dig, seconds_text, version
from seaway.cli.waiting import SERVES, Waiter, find_serving
from seaway.model import WEB, Phase


@dataclass(frozen=True)
class Outcome:
    """A release and how its rollout stands; `rollout` is None for a release that holds config only."""

    app: str
    release: Doc
    rollout: Doc | None

    @property
    def number(self) -> int:
        """The release's number."""
        return int(dig(self.release, "spec.number", 0))

    @property
    def phase(self) -> str:
        """The rollout's phase, or "none"."""
        return str(dig(self.rollout, "status.phase", "none"))

    @property
    def has_web(self) -> bool:
        """Whether the release has a process that takes requests."""
        return WEB in dig(self.release, "spec.processes", {})

    def document(self) -> Doc:
        """Return the JSON answer of the commands that wait."""
        return {"app": self.app, "result": self.phase, "release": self.release, "rollout": self.rollout}

    def sentence(self) -> str:
        """Return the sentence for a rollout that went well."""
        name = version(self.number)
        if self.rollout is None:
            return f"{name} of {self.app} holds config only; it takes effect with the first deploy"
        base = dig(self.rollout, "status.base")
        serves = "serves all traffic" if self.has_web else "runs; it takes no requests, as it has no web process"
        if self.phase == Phase.KEEPING and base is not None:
            kept = seconds_text(float(dig(self.release, "spec.rollout.keep", 30.0)))
            return f"{name} {serves}; {version(base)} is kept for {kept} for instant return"
        return f"{name} {serves}"

    def failure(self, serving: int | None) -> CliError:
        """Return the error for a rollout that did not bring its release; `serving` is what the app serves now."""
        name, app = version(self.number), self.app
        verdict = {Phase.ROLLED_BACK: "was rolled back", Phase.CANCELLED: "was cancelled"}.get(
            Phase(self.phase), "failed"
        )
        reason = dig(self.rollout, "status.reason", "")
        still = f"; {version(serving)} serves" if serving is not None and serving != self.number else ""
        if self.phase == Phase.CANCELLED:
            hint = f"`seaway releases list -a {app}` and `seaway rollouts show {name} -a {app}` tell more{still}"
        else:
            hint = (
                f"see `seaway logs -a {app} --release {name}` and `seaway rollouts show {name} -a {app}`, "
                f"correct it and deploy again{still}"
            )
        return CliError(f"{name} of {app} {verdict}: {reason}", hint=hint, code=f"rollout-{self.phase}")


async def bring_release(waiter: Waiter, release: Doc) -> Outcome:
    """Follow a release's rollout; return its outcome, or raise what went wrong."""
    number = int(dig(release, "spec.number", 0))
    if dig(release, "spec.image") is None:
        return Outcome(waiter.app, release, None)
    outcome = Outcome(waiter.app, release, await waiter.follow_rollout(number))
    if outcome.phase not in SERVES:
        app = await waiter.get("")
        raise outcome.failure(find_serving(app))
    return outcome
