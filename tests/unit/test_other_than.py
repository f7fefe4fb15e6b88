"""The expression for every text but one."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from seaway.router.bootstrap import UPGRADE, build_other_than

LETTERS = st.text(alphabet="websocktWEBSOCKT ,x", max_size=12)


@given(LETTERS | st.integers(0, 9).map(lambda n: UPGRADE[:n]))
@example(UPGRADE)
@example("WebSocket")
@example("websockets")
@example("")
def test_all_but_the_word_match(text: str) -> None:
    assert bool(re.fullmatch(build_other_than(UPGRADE), text)) == (text.lower() != UPGRADE)
