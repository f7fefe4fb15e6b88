"""Words of apps, wherever they are printed for people: nothing in them is obeyed by a terminal, no line is forged."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from seaway.cli.logline import CUT, format_line
from seaway.cli.progress import LiveProgress, PlainProgress
from seaway.cli.show import Screen
from seaway.cli.words import HARMFUL, escape_styled, show_line, show_lines
from seaway.model import BuildState, InstanceState, Phase
from tests.unit.cli_recorded import NOW, Bench, Events, Lines, app, bench, build, instance, recorder, release, rollout

__all__ = ["bench", "recorder"]

EVIL = "a\x1b[2J\x9b31m\x00\r\x08\x7f\x85\u2028\u202eb\x1b]0;title\x07\x1b]8;;http://x\x1b\\c"
SHOWN = r"a\x1b[2J\x9b31m\x00\r\x08\x7f\x85\u2028\u202eb\x1b]0;title\x07\x1b]8;;http://x\x1b\c"
FORGED = f"first\nforged {EVIL}"

texts = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\x1b[]0m;8\n\r\x9b\u202e")))


def logged(message: str, **more: object) -> dict[str, object]:
    """A log line of shop."""
    return {
        "@timestamp": "2026-11-23T10:00:00.000Z", "message": message, "service.name": "shop", "service.version": "v3",
        "service.node.name": "shop-v3-web-1a2b", "labels.process": "web", **more,
    }  # fmt: skip


def render(text: Text, *, terminal: bool) -> str:
    """What a terminal (or a pipe) gets."""
    out = io.StringIO()
    screen = Screen(file=out, force_terminal=terminal, color_system="truecolor" if terminal else None, width=100_000)
    screen.print(text, soft_wrap=True)
    return out.getvalue()


@given(texts)
def test_no_line_of_output_leaves_its_line_or_commands_the_terminal(line: str) -> None:
    """No control character is left in a pipe; on a terminal none but the colours that Seaway writes, closed again."""
    line = line.replace("\n", "")
    printed = render(show_line(line), terminal=False)
    assert printed.endswith("\n")
    assert not HARMFUL.search(printed[:-1].replace("\t", ""))
    coloured = render(show_line(line), terminal=True)
    assert re.sub(r"\x1b\[[0-9;]+m(.*?)\x1b\[0m", r"\1", coloured) == printed
    assert "\x1b[8m" not in coloured


@given(texts)
def test_every_line_of_a_message_says_whose_it_is(message: str) -> None:
    """However many there are; the newline at the end makes none."""
    lines = [line.plain for line in format_line(logged(message))]
    assert all(line.startswith("2026-11-23T10:00:00.000Z shop[web.v3.1a2b] ") for line in lines)
    assert len(lines) == max(1, message.count("\n") + (not message.endswith("\n")))


@given(texts, st.integers(0, 20), st.integers(0, 20))
def test_styles_stay_where_they_were(text: str, start: int, length: int) -> None:
    """Escapes are longer than what they stand for."""
    styled = Text(text)
    styled.stylize("red", start, start + length)
    red = "".join(shown.plain for shown in [escape_styled(styled)[i] for i in range(len(escape_styled(styled)))]
                  if any(span.style == "red" for span in shown.spans))  # fmt: skip
    assert red == escape_styled(Text(Text(text).plain[start : start + length])).plain


def test_colours_of_apps_are_kept_and_nothing_else() -> None:
    """Bold red, and back; concealed text is shown."""
    line = show_line("\x1b[1;31mred\x1b[0m plain \x1b[8mhidden\x1b[2K")
    assert line.plain == r"red plain hidden\x1b[2K"
    assert "\x1b[1;31mred\x1b[0m plain hidden" in render(line, terminal=True)
    assert render(line, terminal=False) == "red plain hidden\\x1b[2K\n"
    assert [shown.plain for shown in show_lines("10%\r20%\r\nb\n")] == [r"10%\r20%", "b"]


def test_a_line_that_is_cut_is_marked() -> None:
    """One that is whole is not, whatever its app says."""
    cut = logged("half", **{"log.flags": ["partial"]})
    assert format_line(cut)[-1].plain.endswith(f"half{CUT}")
    assert not format_line(logged("half"))[-1].plain.endswith(CUT)


def test_logs(bench: Bench) -> None:
    """As text; JSON means what was written, and harms no terminal either."""
    bench.api.on("GET", "/apps/shop/logs", Lines([logged(FORGED)]))
    prefix = "2026-11-23T10:00:00.000Z shop[web.v3.1a2b]"
    assert bench.run("logs", "-a", "shop").stdout == f"{prefix} first\n{prefix} forged {SHOWN}\n"
    raw = bench.run("logs", "-a", "shop", "-o", "json").stdout
    assert json.loads(raw) == logged(FORGED)
    assert not HARMFUL.search(raw.removesuffix("\n"))


def test_output_of_builds(bench: Bench) -> None:
    """In `builds log`."""
    bench.api.on("GET", "/apps/shop/builds/7/log", Events([("message", EVIL), ("end", {})]))
    bench.api.on("GET", "/apps/shop/builds/7", build(7, BuildState.SUCCEEDED))
    assert SHOWN in bench.run("builds", "log", "b7", "-a", "shop").stdout


REASON = f"exited with code 1: {FORGED}"


@pytest.mark.parametrize("args", [
    ["apps", "info", "shop"], ["ps", "-a", "shop"], ["events", "-a", "shop"], ["rollouts", "-a", "shop"],
    ["rollouts", "show", "v4", "-a", "shop"], ["builds", "-a", "shop"], ["restart", "-a", "shop"],
    ["ps", "restart", "-a", "shop"],
])  # fmt: skip
def test_reasons_and_events(bench: Bench, args: list[str]) -> None:
    """An app's words in Seaway's own sentences: no control character, and no line of the app's own."""
    crashing = instance(1, state=InstanceState.CRASHING, ready=False, reason=REASON)
    spec = {"at": NOW.isoformat(), "app": "shop", "about": "instance", "reason": "X", "message": REASON, "by": "loop"}
    failed = rollout(4, Phase.FAILED, REASON)
    bench.api.on("GET", "/apps/shop/instances", [crashing])
    bench.api.on("GET", "/apps/shop/run", [])
    bench.api.on("GET", "/apps/shop", app(state="degraded", reason=REASON))
    bench.api.on("GET", "/apps", [app(state="degraded", reason=REASON)])
    bench.api.on("GET", "/apps/shop/rollouts", [failed])
    bench.api.on("GET", "/apps/shop/rollouts/4", failed)
    bench.api.on("GET", "/apps/shop/builds", [build(7, BuildState.FAILED)])
    bench.api.on("GET", "/events", [{"meta": {"name": "e"}, "spec": spec}])
    bench.api.on("POST", "/apps/shop/restart", release(4))
    result = bench.run(*args)
    for printed in (result.stdout, result.stderr):
        assert not HARMFUL.search(printed.replace("\n", ""))
        assert not any(line.startswith("forged") for line in printed.splitlines())
    assert args[0] in {"builds", "restart"} or r"\x1b[2J\x9b31m" in result.stdout + result.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool) -> None:
    """On a terminal and in a pipe: phases with their reasons, sentences and output."""
    out = io.StringIO()
    screen = Screen(file=out, force_terminal=terminal, color_system=None, width=200)
    progress = LiveProgress(screen) if terminal else PlainProgress(screen)
    progress.output(EVIL)
    progress.say(FORGED)
    progress.phase("starting", FORGED)
    progress.settle()
    lines = out.getvalue().splitlines()
    assert sum("forged" in line for line in lines) >= 2
    assert not any(line.lstrip("\r").startswith("forged") for line in lines)
    for bad in ("\x1b[2J", "\x9b", "\x00", "\u202e", "\x1b]"):
        assert bad not in out.getvalue()
