"""Config values on their way: what is read, what is refused and told, what is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.cli.envfile import Mistake, Setting, read_env
from seaway.cli.words import HARMFUL, quote
from seaway.model.environment import LONGEST_KEY, LONGEST_VALUE, check_value, find_change
from tests.unit.cli_recorded import Bench, bench, recorder, release

__all__ = ["bench", "recorder"]

CONFIG = {"app": "shop", "release": 4, "masked": False}


def read(text: str) -> dict[str, str]:
    """The values of lines that are all understood."""
    found = list(read_env(text))
    assert all(isinstance(each, Setting) for each in found), found
    return {each.key: each.value for each in found if isinstance(each, Setting)}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b c", "b c"),
        ("export A=b", "b"),
        (" A = b ", "b"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ("A= # nothing", ""),
        ("A=", ""),
        ("A=b=c", "b=c"),
        ("A=b\\nc", "b\\nc"),
        ("A=it's", "it's"),
        ("A='b # c'  # why", "b # c"),
        ("A='b\\n$c ${d}'", "b\\n$c ${d}"),
        ('A="b\\nc\\t\\"d\\" \\\\n \\$ \\q"', 'b\nc\t"d" \\n $ \\q'),
        ('A="b\nc"', "b\nc"),
        ("A='b\r\nc'\r\n", "b\nc"),
        ("A=b\r\n", "b"),
        ('A="\\${b}"', "${b}"),
        ("A=b\u2028c", "b\u2028c"),
    ],
)
def test_lines_of_an_env_file(line: str, value: str) -> None:
    """Quotes, export, comments, CRLF and a byte order mark, beside lines that say nothing."""
    assert read(f"# first\n\n{line}") == {"A": value}
    assert read(f"\ufeff{line}\n  # last\nZ=1") == {"A": value, "Z": "1"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("hunter2", "is not KEY=VALUE: it has no ="),
        ("A: hunter2", "it has no ="),
        ("hunter-2=", "has no config key before ="),
        ("A='hunter2' more", "has more behind the closing quote of A"),
        ("A=b-${hunter2}", "has ${...} in the value of A"),
        ('A="b ${hunter2}"', "has ${...} in the value of A"),
    ],
)
def test_lines_that_are_not_understood_are_told(line: str, problem: str) -> None:
    """With their number, and without what may be a secret; the others are read."""
    found = list(read_env(f"A1=1\n\n{line}\nZ='2\n2'\n"))
    assert [each.value for each in found if isinstance(each, Setting)] == ["1", "2\n2"]
    (mistake,) = (each for each in found if isinstance(each, Mistake))
    assert mistake.line == 3
    assert problem in mistake.problem
    assert "hunter" not in mistake.problem


def test_a_quote_that_is_not_closed_ends_the_reading() -> None:
    """Nobody can tell where it was meant to end; a long one takes no time."""
    mistake = Mistake(2, 'begins the value of B with a quote (") that is not closed')
    assert list(read_env('A=1\nB="' + "\\\\" * 100_000 + "\nC=2")) == [Setting(1, "A", "1"), mistake]


@given(st.text(st.characters(codec="utf-8", exclude_characters="'\r")))
def test_what_is_in_single_quotes_is_taken_as_it_is(value: str) -> None:
    """Whatever it is."""
    assert read(f"A='{value}'\nB=1") == {"A": value, "B": "1"}


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_values_are_shown_on_one_line_and_no_two_alike(value: str, other: str) -> None:
    """And nothing of them is obeyed by a terminal."""
    assert not HARMFUL.search(quote(value))
    assert (quote(value) == quote(other)) == (value == other)


def test_plain_values_are_shown_as_they_are() -> None:
    """Others in quotes."""
    values = ["blue", 'a "b" \\n', "", " a", "a\nb", '"a"', "\x1b[2J\x9b\u202e"]
    shown = ["blue", 'a "b" \\n', '""', '" a"', '"a\\nb"', '"\\"a\\""', '"\\x1b[2J\\x9b\\u202e"']
    assert [quote(value) for value in values] == shown


def test_config_set_takes_files_exactly_and_lines_without_their_quotes(bench: Bench) -> None:
    """All in one change."""
    bench.api.on("PATCH", "/apps/shop/config", release(4))
    Path("pem").write_bytes(b"a\r\nb\n")
    line = ["config", "set", "A=@pem", "B=@@x", "-", "--no-wait", "-a", "shop"]
    result = bench.run(*line, stdin="export C='c c' # c\r\nD=\"d\\nd\"\r\n")
    assert result.exit_code == 0, result.stderr
    want = {"A": "a\r\nb\n", "B": "@x", "C": "c c", "D": "d\nd"}
    assert bench.api.sent("PATCH", "/apps/shop/config") == [{"set": want, "unset": []}]


def test_config_set_tells_all_that_is_wrong(bench: Bench) -> None:
    """Each with its argument, line or key; then nothing is sent."""
    Path("raw").write_bytes(b"\xff")
    big = "😀" * (LONGEST_VALUE // 4) + "x"
    line = ["config", "set", "hunter2", "1A=hunter2", "PORT=1", f"BIG={big}", "R=@raw", "N=@nowhere", "-", "-a", "shop"]
    result = bench.run(*line, stdin="OK=1\nhunter3\nSEAWAY_X=1\n")
    assert (result.exit_code, bench.api.requests) == (2, [])
    assert result.stderr.startswith("seaway: 8 things are wrong, so nothing was done:\n")
    for said in (
        "argument 1 is not KEY=VALUE", "argument 2: '1A' is not", "argument 3: 'PORT' is reserved",
        "BIG has 130,049 bytes",
        "R: the file 'raw' cannot be read: it is not text in UTF-8", "N: the file 'nowhere' cannot be read",
        "line 2 of standard input is not KEY=VALUE", "line 3 of standard input: 'SEAWAY_X' is reserved",
    ):  # fmt: skip
        assert f"\n    - {said}" in result.stderr
    assert "hunter" not in result.stderr
    unset = bench.run("config", "unset", "A-B", "OK", "1C", "-a", "shop").stderr
    assert "'A-B' is not" in unset
    assert "'1C' is not" in unset


def test_standard_input_that_is_no_text_is_refused_with_its_line(bench: Bench) -> None:
    """Not as a fault of Seaway."""
    result = bench.run("config", "set", "-", "-a", "shop", stdin=b"A=1\nB=\xff\n")
    assert (result.exit_code, bench.api.requests) == (2, [])
    assert "line 2 of standard input is not text in UTF-8: it holds the byte 0xff" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["config", "set", "-a", "shop", "KEY=caf\udce9"], "argument 5 (KEY=...) is not text in UTF-8"),
        (["apps", "create", "\udcff"], "argument 3 is not text in UTF-8: it holds the byte 0xff"),
        (["deploy", "./\udc80", "-a", "sh\udc81op"], "argument 2 is not text in UTF-8: it holds the byte 0x80"),
        (["run", "-a", "shop", "--", "ls", "\udcff"], "argument 6 is not text in UTF-8"),
        (["\udcff"], "argument 1 is not text in UTF-8"),
    ],
)
def test_an_argument_that_is_no_text_is_refused_in_every_command(bench: Bench, args: list[str], said: str) -> None:
    """By its place and key; not as a fault of Seaway."""
    result = bench.run(*args)
    assert (result.exit_code, bench.api.requests) == (2, [])
    assert said in result.stderr
    assert "fault" not in result.stderr


def test_config_get_prints_one_value_and_nothing_else(bench: Bench) -> None:
    """Exactly, so that it can be set again from a file."""
    value = "a\r\n\x1b[1m é\n"
    bench.api.on("GET", "/apps/shop/config", {**CONFIG, "config": {"PEM": value}})
    assert bench.run("config", "get", "PEM", "-a", "shop").stdout_bytes == value.encode()
    assert bench.api.queries("GET", "/apps/shop/config") == [{"reveal": "1"}]
    wrong = bench.run("config", "get", "PME", "-a", "shop")
    assert (wrong.exit_code, wrong.stdout) == (3, "")
    assert "shop has no config value 'PME'" in wrong.stderr
    assert "did you mean PEM?" in wrong.stderr
    assert "did you mean PEM?" in bench.run("config", "get", "pem", "-a", "shop").stderr


def test_config_list_shows_each_value_on_a_line(bench: Bench) -> None:
    """Escaped where it must be."""
    bench.api.on("GET", "/apps/shop/config", {**CONFIG, "config": {"A": "1\n2\x1b[2J", "B": "", "C": "[red]c"}})
    assert bench.run("config", "--reveal", "-a", "shop").stdout == 'A  "1\\n2\\x1b[2J"\nB  ""\nC  [red]c\n'


def test_a_value_that_breaks_the_app_is_set_with_a_warning(bench: Bench) -> None:
    """One sentence each, to standard error; other keys have none."""
    bench.api.on("PATCH", "/apps/shop/config", release(4))
    result = bench.run("config", "set", "PATH=/tmp", "LD_PRELOAD=x.so", "PATHS=1", "--no-wait", "-a", "shop")
    assert result.exit_code == 0
    assert len(bench.api.sent("PATCH", "/apps/shop/config")) == 1
    told = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert [line.split()[1] for line in told] == ["PATH", "LD_PRELOAD"]
    assert "`seaway config unset PATH` takes that back" in told[0]
    assert (find_change("path"), find_change("OLD_PATH")) == (None, None)


def test_the_longest_value_can_be_started_with() -> None:
    """With the longest key, on the kernel that is here; what the limit was before the bytes were counted cannot."""
    value, key = "😀" * (LONGEST_VALUE // 4), "K" * LONGEST_KEY
    assert check_value(value) == value
    subprocess.run([sys.executable, "-c", ""], env=os.environ | {key: value}, check=True, timeout=60)
    with pytest.raises(ValueError, match="130,052 bytes"):
        check_value(value + "😀")
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run([sys.executable, "-c", ""], env=os.environ | {key: "😀" * 40_000}, check=True, timeout=60)
