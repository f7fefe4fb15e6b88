"""Runs a command in a virtual machine: Debian 12's own kernel with control groups of version 2 alone, all else as here.

    .venv/bin/python scripts/guest.py -- .venv/bin/python -m pytest -q tests/contract/test_limits.py

The command runs as root in the repository's folder; its output and exit code are this script's. The guest sees this
machine's files at their own paths and writes to memory only: nothing that it does is seen here. It has a loopback
device and no other network. Its processors are emulated, several times slower than here, unless `--kvm` is given: a
/dev/kvm that is there need not work. The kernel comes from Debian's package into the user's cache, once; it is not
installed, so what this machine boots stays as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_IFDIR, S_IFREG
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the list of packages is the tests' own

from tests.kube.lab.binaries import hold  # noqa: E402
from tests.packages import GUEST, SYSTEM_PATH, PackagesError, ensure_packages, find_program  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seaway" / "guest"
KERNEL = "linux-image-amd64"  # not the smaller one for clouds: that has no 9p
PROCESSORS = 2
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What Debian's kernel lacks to reach this machine's files and write beside them."""
TIMED_OUT, NO_ANSWER = 124, 125  # as timeout(1) has them: out of time; no exit code came
SAID = "seaway: exit code "

INIT = """\
#!/busybox sh
set -e
for word in cat echo insmod ip ln mkdir mount switch_root; do /busybox ln -s /busybox /bin/$word; done
export PATH=/bin
for module in /*.ko; do insmod $module; done
mkdir /host /written /guest
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
mount -t tmpfs tmpfs /written
mkdir /written/upper /written/work
mount -t overlay -o lowerdir=/host,upperdir=/written/upper,workdir=/written/work overlay /guest
mount -t proc proc /guest/proc
mount -t sysfs sysfs /guest/sys
mount -t devtmpfs devtmpfs /guest/dev
mkdir /guest/dev/pts /guest/dev/shm
mount -t devpts devpts /guest/dev/pts
for folder in dev/shm run tmp; do mount -t tmpfs -o mode=1777 tmpfs /guest/$folder; done
for link in fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  ln -s /proc/self/${{link#*:}} /guest/dev/${{link%:*}}
done
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /guest/sys/fs/cgroup
echo +cpu +memory +pids >/guest/sys/fs/cgroup/cgroup.subtree_control
echo localhost >/guest/proc/sys/kernel/hostname
ip link set lo up
exec switch_root /guest /bin/sh -c {script}
"""
"""The guest's first program, from the initramfs; the second is `SCRIPT`, which stays process 1 to the end."""

SCRIPT = """\
export PATH={path} HOME={home} TERM=dumb
cd {folder}
stty -F /dev/ttyS1 raw
({command}) </dev/null >/dev/ttyS1 2>&1
echo "{said}$?"
busybox poweroff -f
"""
"""The command has a line of its own: the kernel talks on the console."""


@dataclass(frozen=True)
class Guest:
    """What is asked for: memory in MiB, a time limit in seconds from the start of the machine."""

    memory: int
    limit: float
    kvm: bool

    def run(self, command: list[str]) -> int:
        """Run a command with its output on ours; return its exit code, or one of timeout(1)'s, saying why."""
        with TemporaryDirectory(prefix="seaway-guest-") as name:
            initramfs, console = Path(name, "initramfs"), Path(name, "console")
            initramfs.write_bytes(pack(list_initial_files(command)))
            try:
                words = self._words(initramfs, console)
                subprocess.run(words, check=False, stdin=subprocess.DEVNULL, timeout=self.limit)
                why, code = "the guest ended before its command", NO_ANSWER
            except subprocess.TimeoutExpired:
                why, code = f"the guest did not end within {self.limit:.0f} s", TIMED_OUT
            told = console.read_text(errors="replace") if console.exists() else ""
        if found := re.search(rf"{SAID}(\d+)", told):
            return int(found[1])
        print(f"{told[-4000:]}\n{why}; above is the end of what its kernel said", file=sys.stderr)
        return code

    def _words(self, initramfs: Path, console: Path) -> list[str]:
        """Return the command of the machine: it ends with us, however we do."""
        return [
            "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-accel", "kvm" if self.kvm else "tcg,thread=multi", "-cpu", "max",
            "-smp", str(PROCESSORS), "-m", str(self.memory),
            "-kernel", str(CACHE / "vmlinuz"), "-initrd", str(initramfs),
            "-append", "console=ttyS0 panic=-1 quiet",  # -1: at once, and with -no-reboot that is the end
            "-serial", f"file:{console}", "-serial", "stdio",
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]  # fmt: skip


def list_initial_files(command: list[str]) -> dict[str, bytes]:
    """Return the files of the initramfs by name."""
    script = SCRIPT.format(
        path=SYSTEM_PATH, home=Path.home(), folder=shlex.quote(str(ROOT)), command=shlex.join(command), said=SAID
    )
    modules = {path.name: path.read_bytes() for path in CACHE.glob("*.ko")}
    busybox = Path(find_program("busybox")).read_bytes()
    return {"init": INIT.format(script=shlex.quote(script)).encode(), "busybox": busybox, **modules}


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return programs as an archive for the kernel: Documentation/driver-api/early-userspace/buffer-format.rst."""
    programs = [pack_one(name, S_IFREG | 0o755, data) for name, data in files.items()]
    return b"".join([pack_one("bin", S_IFDIR | 0o755), *programs, pack_one("TRAILER!!!", 0)])


def pack_one(name: str, mode: int, data: bytes = b"") -> bytes:
    """Return one entry: magic number, 13 numbers of 8 digits, name and data, the last two up to a multiple of 4."""
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, data))


def ensure_kernel() -> None:
    """Take the kernel and its modules out of Debian's package, unless the cache has them."""
    with hold(CACHE / "lock"):
        if (CACHE / "vmlinuz").exists():
            return
        # Lists may be missing or old; who may not renew them takes what they name.
        subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
        with TemporaryDirectory(dir=CACHE) as name:
            folder = Path(name)
            newest = ask(["dpkg-deb", "-f", str(download(KERNEL, folder)), "Depends"], folder).split()[0]
            ask(["dpkg-deb", "-x", str(download(newest, folder)), "."], folder)
            there = {path.stem: path for path in folder.glob("lib/modules/*/kernel/**/*.ko")}
            for number, module in enumerate(put_in_order(MODULES, there)):  # their names keep the order
                there[module].replace(CACHE / f"{number:02d}-{module}.ko")
            next(folder.glob("boot/vmlinuz-*")).replace(CACHE / "vmlinuz")  # the last: it says that all are there


def put_in_order(names: Iterable[str], there: Mapping[str, Path]) -> list[str]:
    """Return modules and all that they need, each after what it needs itself: that changes from kernel to kernel."""
    found: dict[str, None] = {}
    for name in names:
        needs = re.search(rb"\0depends=([^\0]*)\0", there[name].read_bytes())
        before = needs[1].decode().split(",") if needs and needs[1] else []
        found |= dict.fromkeys([*put_in_order(before, there), name])
    return list(found)


def download(package: str, folder: Path) -> Path:
    """Fetch a package into a folder, by the machine's own lists; return its file."""
    ask(["apt-get", "-q", "-oAPT::Sandbox::User=root", "download", package], folder)
    return next(folder.glob(f"{package}_*.deb"))


def ask(command: list[str], folder: Path) -> str:
    """Return what a command prints; its errors are ours."""
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB")
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS")
    parser.add_argument("--kvm", action="store_true", help="processors of the machine's own, by /dev/kvm")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that its folder is removed
    try:
        ensure_packages("processes", GUEST)
        ensure_kernel()
    except (PackagesError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return NO_ANSWER
    return Guest(given.memory, given.limit, given.kvm).run(given.command)


if __name__ == "__main__":
    sys.exit(main())
