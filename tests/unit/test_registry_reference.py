"""Names of images: what is understood, what is refused and in which words; credentials that do not show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seaway.registry.auth import parse_challenge
from seaway.registry.credentials import NOBODY, CredentialsFile
from seaway.registry.errors import BadReference, Unauthorised
from seaway.registry.reference import Place, Reference, parse_place, parse_reference

DIGEST = "sha256:" + "a" * 64
OWN = Place("registry.example.com:5000", "apps")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("registry.example.com/shop/web:1.2", Reference("registry.example.com", "shop/web", "1.2")),
        ("10.0.0.1:5000/shop", Reference("10.0.0.1:5000", "shop")),
        (f"localhost/shop@{DIGEST}", Reference("localhost", "shop", None, DIGEST)),
        (f"[::1]:5000/a/b_c:latest@{DIGEST}", Reference("[::1]:5000", "a/b_c", "latest", DIGEST)),
        ("python:3.11", Reference("registry.example.com:5000", "apps/python", "3.11")),
        ("library/python", Reference("registry.example.com:5000", "apps/library/python")),
    ],
)
def test_references(text: str, parsed: Reference) -> None:
    """With a host as it is, without one below the platform's own place; as text it is the same again."""
    assert parse_reference(text, OWN) == parsed
    assert parse_reference(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("python:3.11", "names no registry: write HOST/PATH:TAG"),
        ("host.example/a@sha256:12", "after @ comes a digest"),
        ("host.example/a:!", "'!' is not a tag"),
        ("host.example/A", "'A' is not a repository"),
        ("https://host.example/a", "is not a host"),
        ("host.example/" + "a" * 600, "is too long"),
        ("-h.example/a", "is not a host"),
        ("", "names no registry"),
    ],
)
def test_bad_references(text: str, sentence: str) -> None:
    """Each is refused with what is wrong with it."""
    with pytest.raises(BadReference) as caught:
        parse_reference(text)
    assert sentence in str(caught.value)


def test_places() -> None:
    """HOST and HOST/PATH; a scheme is refused."""
    assert parse_place("h.example:5000/team/apps/") == Place("h.example:5000", "team/apps")
    assert str(parse_place("h.example").repository("shop")) == "h.example/shop"
    for text in ("https://h.example", "", "h.example/A"):
        with pytest.raises(BadReference):
            parse_place(text)


def test_credentials_are_found_and_do_not_show(tmp_path: Path) -> None:
    """User and password, or both in base 64, by host or by address; printing them prints nothing."""
    file = tmp_path / "config.json"
    auths = {
        "h.example:5000": {"username": "bob", "password": "hunter2"},
        "https://old.example/v1/": {"auth": "Ym9iOmh1OjI="},
        "empty.example": {},
    }
    file.write_text(json.dumps({"auths": auths, "credHelpers": {"helped.example": "pass"}}))
    found = CredentialsFile(file)
    assert (found.find("h.example:5000").user, found.find("h.example:5000").password) == ("bob", "hunter2")
    assert (found.find("old.example").user, found.find("old.example").password) == ("bob", "hu:2")
    assert "hunter2" not in repr(found.find("h.example:5000"))
    assert found.find("empty.example") == found.find("nobody.example") == NOBODY
    with pytest.raises(Unauthorised, match=r"credential helper for helped\.example"):
        found.find("helped.example")
    assert CredentialsFile(tmp_path / "none").find("h.example") == NOBODY


def test_a_broken_credentials_file_is_not_quoted(tmp_path: Path) -> None:
    """Its content may hold a password."""
    file = tmp_path / "config.json"
    for content in ("hunter2", '{"auths": {"h.example": {"auth": "hunter2!"}}}'):
        file.write_text(content)
        with pytest.raises(Unauthorised) as caught:
            CredentialsFile(file).find("h.example")
        assert "hunter2" not in str(caught.value)


def test_challenges() -> None:
    """Bearer is preferred, its parameters are read; an unknown scheme is none."""
    bearer = parse_challenge('Basic realm="x", Bearer realm="https://a.example/t",service="s",scope="r:a:pull,push"')
    assert (bearer.scheme, bearer.realm, bearer.service, bearer.scope) == (
        "bearer",
        "https://a.example/t",
        "s",
        "r:a:pull,push",
    )
    assert parse_challenge('basic realm="x"').scheme == "basic"
    assert parse_challenge("Negotiate").scheme == parse_challenge("").scheme == ""
