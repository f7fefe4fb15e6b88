"""Keeps apps from each other's ports: nobody else binds a port that is an app's, nor connects to it on loopback.

Loopback is everybody's. So an app could take the port of one that has just crashed, or the one of Seaway's API while
that is away, and get what is meant for them. Small programs in the kernel, attached to the control group that holds all
instances of a home, look each port up in a table: port -> user id whose it is. Sources: bpf(2), `struct bpf_sock_addr`
in include/uapi/linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst of Linux.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SYS_BPF = {"x86_64": 321, "aarch64": 280}  # little-endian both, as the programs are
MAP_CREATE, MAP_UPDATE, MAP_DELETE, PROG_LOAD, PROG_ATTACH = 0, 2, 3, 5, 8
HASH, CGROUP_SOCK_ADDR = 1, 18
BIND4, BIND6, CONNECT4, CONNECT6 = 8, 9, 10, 11  # where programs are attached
LOOKUP, GET_USER = 1, 15  # the kernel's functions
IP4, IP6, PORT = 4, 8, 24  # offsets in the context
MOST_PORTS = 65536
ATTRIBUTES = 128  # bytes of union bpf_attr; what is not set is zero
STACK = -4  # where the port lies, from register 10
OURS = 0  # Seaway's own user id: nobody may bind its ports, everybody may connect to them

LOAD, STORE, MOVE, MOVE32, SET, ADD, AND32, OR32, TO_HOST, CALL, EXIT = (
    0x61, 0x63, 0xBF, 0xBC, 0xB7, 0x07, 0x54, 0x4C, 0xDC, 0x85, 0x95,
)  # fmt: skip
IF_ZERO, IF_SAME, IF_32, GOTO = 0x15, 0x1D, 0x16, 0x05

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Op:
    """One instruction; `to` names the label that it jumps to."""

    code: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0
    to: str = ""


def assemble(lines: Sequence[Op | str]) -> bytes:
    """Return a program; strings are labels for the instruction after them."""
    ops = [line for line in lines if isinstance(line, Op)]
    labels: dict[str, int] = {}
    count = 0
    for line in lines:
        if isinstance(line, str):
            labels[line] = count
        else:
            count += 1
    return b"".join(
        struct.pack("<BBhI", o.code, o.src << 4 | o.dst, labels[o.to] - n - 1 if o.to else o.off, o.imm)
        for n, o in enumerate(ops)
    )


def make_programs(table: int) -> dict[int, bytes]:
    """Return the programs for the table (a descriptor) by where they are attached."""
    look_up: list[Op | str] = [
        "look up",
        Op(LOAD, 2, 1, PORT), Op(TO_HOST, 2, imm=16), Op(STORE, 10, 2, STACK),
        Op(0x18, 1, 1, imm=table), Op(0),  # register 1 = the table; takes the place of two
        Op(MOVE, 2, 10), Op(ADD, 2, imm=STACK & 0xFFFFFFFF), Op(CALL, imm=LOOKUP),
        Op(IF_ZERO, 0, to="allow"),  # nobody's
        Op(LOAD, 6, 0),
    ]  # fmt: skip
    judge: list[Op | str] = [
        Op(CALL, imm=GET_USER), Op(MOVE32, 0, 0),  # the group id is in the upper half
        Op(IF_SAME, 0, 6, to="allow"),
        Op(SET, 0, imm=0), Op(EXIT),
        "allow", Op(SET, 0, imm=1), Op(EXIT),
    ]  # fmt: skip
    bind, connect = [*look_up, *judge], [*look_up, Op(IF_ZERO, 6, imm=OURS, to="allow"), *judge]
    of_loopback4: list[Op | str] = [
        Op(LOAD, 3, 1, IP4), Op(IF_32, 3, imm=0, to="look up"),
        Op(AND32, 3, imm=0xFF), Op(IF_32, 3, imm=127, to="look up"), Op(GOTO, to="allow"),
    ]  # fmt: skip
    of_loopback6: list[Op | str] = [
        *(Op(LOAD, 3 + word, 1, IP6 + 4 * word) for word in range(3)), Op(LOAD, 7, 1, IP6 + 12),
        Op(OR32, 3, 4), Op(IF_32, 3, imm=0, to="low"), Op(GOTO, to="allow"),
        "low", Op(IF_32, 5, imm=0xFFFF0000, to="mapped"), Op(IF_32, 5, imm=0, to="plain"), Op(GOTO, to="allow"),
        "mapped", Op(AND32, 7, imm=0xFF), Op(IF_32, 7, imm=127, to="look up"), Op(IF_32, 7, imm=0, to="look up"),
        Op(GOTO, to="allow"),
        "plain", Op(IF_32, 7, imm=0, to="look up"), Op(IF_32, 7, imm=1 << 24, to="look up"), Op(GOTO, to="allow"),
    ]  # fmt: skip
    parts = {
        BIND4: bind,
        BIND6: bind,
        CONNECT4: [*of_loopback4, *connect],
        CONNECT6: [*of_loopback6, *connect],
    }
    return {where: assemble(lines) for where, lines in parts.items()}


class PortGuard:
    """The ports of one home and whose they are. All methods raise OSError where the kernel refuses."""

    def __init__(self) -> None:
        self._table = _call(MAP_CREATE, struct.pack("<IIII", HASH, 4, 4, MOST_PORTS))
        self._programs = {where: _load(code, where) for where, code in make_programs(self._table).items()}

    def keep(self, port: int, user: int) -> None:
        """Keep a port for one user id."""
        self._change(MAP_UPDATE, port, user)

    def release(self, port: int) -> None:
        """Leave a port to everybody."""
        try:
            self._change(MAP_DELETE, port)
        except FileNotFoundError:
            return

    def attach(self, group: Path) -> None:
        """Guard a control group and all below it, in the place of an earlier guard, until it is removed."""
        folder = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for where, program in self._programs.items():
                _call(PROG_ATTACH, struct.pack("<III", folder, program, where))
        finally:
            os.close(folder)

    def close(self) -> None:
        """Let go; what is attached stays in force."""
        for fd in (self._table, *self._programs.values()):
            os.close(fd)

    def _change(self, command: int, port: int, user: int | None = None) -> None:
        key, value = ctypes.c_uint32(port), ctypes.c_uint32(user or 0)
        addresses = ctypes.addressof(key), ctypes.addressof(value) if user is not None else 0
        _call(command, struct.pack("<IxxxxQQ", self._table, *addresses))


def _load(code: bytes, where: int) -> int:
    program, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    what = struct.pack(
        "<IIQQ44xI", CGROUP_SOCK_ADDR, len(code) // 8, ctypes.addressof(program), ctypes.addressof(licence), where
    )
    return _call(PROG_LOAD, what)


def _call(command: int, attributes: bytes) -> int:
    number = SYS_BPF.get(platform.machine())
    if number is None:
        raise OSError(f"ports are not guarded on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes, ATTRIBUTES)
    result = int(libc.syscall(ctypes.c_long(number), ctypes.c_long(command), buffer, ctypes.c_long(ATTRIBUTES)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf: {os.strerror(ctypes.get_errno())}")
    return result
