"""Looking into base images: made of a few files here; the real Debian is in tests/contract."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from seaway.builder.base import BuildError
from seaway.builder.base_image import BaseFacts
from seaway.builder.probing import probe_layers

Entry = str | bytes | None
"""Content, or a link's target, or None for a folder."""


def layer(path: Path, entries: dict[str, Entry], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, entry in entries.items():
            info = tarfile.TarInfo(name)
            if entry is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(entry, str):
                info.type, info.linkname = tarfile.SYMTYPE, entry
            else:
                info.size = len(entry)
            archive.addfile(info, io.BytesIO(entry) if isinstance(entry, bytes) else None)
    return path


def probe(tmp_path: Path, *layers: dict[str, Entry]) -> BaseFacts:
    files = [layer(tmp_path / str(number), entries) for number, entries in enumerate(layers)]
    return probe_layers("base:1", "sha256:x", files)


DEBIAN: dict[str, Entry] = {
    "bin": "usr/bin",
    "./usr/bin/dash": b"x",
    "./usr/bin/sh": "dash",
    "./usr/bin/env": b"x",
    "./usr/bin/python3.11": b"x",
    "./usr/bin/python3": "python3.11",
    "./usr/lib/x86_64-linux-gnu/libc.so.6": b"..GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n",
}


def test_debian(tmp_path: Path) -> None:
    """Interpreter, libc and its version, and a shell by way of a folder that is a link."""
    facts = probe(tmp_path, DEBIAN)
    assert facts == BaseFacts("base:1", "sha256:x", {"3.11": "/usr/bin/python3.11"}, "3.11", "glibc", (2, 36))
    assert BaseFacts.read(facts.write()) == facts


def test_upper_layers_change_lower_ones(tmp_path: Path) -> None:
    """A newer Python above is the default; what is whited out is gone, alone or with its folder."""
    newer: dict[str, Entry] = {"usr/local/bin/python3.12": b"x", "usr/local/bin/python3": "python3.12"}
    both = probe(tmp_path, DEBIAN, newer)
    assert (both.default, sorted(both.pythons)) == ("3.12", ["3.11", "3.12"])
    one = probe(tmp_path, DEBIAN, newer, {"usr/bin/.wh.python3.11": b"", "usr/bin/.wh.sh": b""})
    assert (list(one.pythons), one.has_shell) == (["3.12"], False)
    assert probe(tmp_path, DEBIAN, {"usr/bin/.wh..wh..opq": b""}).pythons == {}


def test_alpine(tmp_path: Path) -> None:
    """musl is told from glibc, and /bin/sh is busybox by an absolute link."""
    facts = probe(tmp_path, {"lib/ld-musl-x86_64.so.1": b"x", "bin/busybox": b"x", "bin/sh": "/bin/busybox"})
    assert (facts.libc, facts.glibc, facts.has_shell, facts.default) == ("musl", (), True, None)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """A dangling interpreter and a loop are none."""
    facts = probe(tmp_path, {"usr/bin/python3.11": "gone", "bin/sh": "dash", "bin/dash": "sh"})
    assert (facts.pythons, facts.has_shell) == ({}, False)


def test_a_layer_that_cannot_be_read(tmp_path: Path) -> None:
    """zstd, or damage: the image's name, and what to do."""
    (tmp_path / "odd").write_bytes(b"\x28\xb5\x2f\xfd" + b"x" * 600)
    with pytest.raises(BuildError, match="the base image base:1 has a layer that cannot be looked into"):
        probe_layers("base:1", "sha256:x", [tmp_path / "odd"])
