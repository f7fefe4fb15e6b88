"""Walks the table of limits: each has what a reader needs, and a test that hits it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from seaway.limits import LIMITS, Limit

ROOT = Path(__file__).parents[2]
EVERY = [limit for limits in LIMITS.values() for limit in limits]


@cache
def list_tests(path: str) -> frozenset[str]:
    """Return the names of a file's tests."""
    tree = ast.parse((ROOT / path).read_text())
    found = (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in found if name.startswith("test_"))


@pytest.mark.parametrize("limit", EVERY, ids=lambda limit: limit.name)
def test_a_limit_is_told_whole_and_has_a_test(limit: Limit) -> None:
    """In one line of the page; the test is there."""
    words = (limit.name, limit.bounds, limit.default, limit.change, limit.at_it)
    assert all(words)
    assert not any(mark in word for word in words for mark in "|\n")
    path, _, name = limit.test.partition("::")
    assert name in list_tests(path)


def test_names_of_limits_are_unique() -> None:
    """Who speaks of one means one."""
    names = [limit.name for limit in EVERY]
    assert sorted(set(names)) == sorted(names)
