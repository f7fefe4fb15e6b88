"""Builds Kubernetes from Debian's source package into the user's cache, once.

Debian 12 carries the complete source of v1.20.2 but no packages of its servers. About 6 minutes on 2 cores.
`KUBEBUILDER_ASSETS` (a folder that holds the programs) saves the build.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.kube.lab.errors import LabError
from tests.packages import SOURCE, ensure_packages

VERSION = "v1.20.2"
PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)
EXTRAS = ("kubeadm", "kubemark")  # built too, but not asked of KUBEBUILDER_ASSETS
REVISION = "2"  # of this way to build: another one makes the cache stale
REFLECT = "golang-github-modern-go-reflect2-dev"
"""The copy that the source carries cannot walk maps under Debian's Go: a server that is asked for indented JSON, by
curl for example, would die. Debian's own package can."""
VERSION_VARIABLES = (
    "k8s.io/component-base/version",
    "k8s.io/kubernetes/vendor/k8s.io/component-base/version",
    "k8s.io/client-go/pkg/version",
    "k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version",
)
DEBIAN_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
DEBIAN_LIST = Path("/etc/apt/sources.list")


def cache_home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which everything that the lab keeps between runs lies."""
    base = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "seaway" / "kubernetes" / VERSION


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure_binaries(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the programs, building them first if the cache lacks one.

    Raises LabError naming what `KUBEBUILDER_ASSETS` lacks.
    """
    given = env.get("KUBEBUILDER_ASSETS")
    if given:
        lacking = [name for name in PROGRAMS if not os.access(Path(given) / name, os.X_OK)]
        if lacking:
            raise LabError(
                f"KUBEBUILDER_ASSETS={given} lacks {', '.join(lacking)}: add them, or unset it to build them"
            )
        return Path(given)
    target = cache_home(env) / "bin"
    if list_lacking((*PROGRAMS, "pause"), target):
        ensure_built((*PROGRAMS, *EXTRAS, "pause"), target)
    return target


def ensure_extra(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """Return `kubeadm` or `kubemark`, building it if the cache lacks it (KUBEBUILDER_ASSETS may well lack it)."""
    target = cache_home(env) / "bin"
    ensure_built((name,), target)
    return target / name


def list_lacking(names: Iterable[str], target: Path) -> list[str]:
    """Return which programs are not there, or were built in another way than now."""
    return [
        name
        for name in names
        if not (target / name).exists()
        or not (target / f".{name}").exists()
        or (target / f".{name}").read_text() != REVISION
    ]


def ensure_built(names: Iterable[str], target: Path) -> None:
    """Build what the cache lacks; another process that builds at the moment is waited for."""
    with hold(target.parent / "build.lock"):
        lacking = list_lacking(names, target)
        if lacking:
            build(target.parent, lacking)


def build(cache: Path, names: list[str]) -> None:
    """Download the source, build the programs named and move each into place; leaves no source behind."""
    ensure_packages(SOURCE)
    work = cache / "src"
    shutil.rmtree(work, ignore_errors=True)
    began = time.monotonic()
    print(f"builds Kubernetes {VERSION} into {cache}/bin: about 6 minutes, once", flush=True)
    tree = unpack(download(work), work)
    made = work / "bin"
    made.mkdir()
    compile_programs(tree, work, made, names)
    (cache / "bin").mkdir(exist_ok=True)
    for program in made.iterdir():
        program.replace(cache / "bin" / program.name)
        (cache / "bin" / f".{program.name}").write_text(REVISION)
    shutil.rmtree(work)
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)


def debian_mirror() -> str:
    """Return the address of the Debian archive that this machine's apt uses."""
    for path, pattern in (
        (DEBIAN_SOURCES, r"^URIs:\s*(\S+)"),
        (DEBIAN_LIST, r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+bookworm\s"),
    ):
        if path.exists() and (found := re.search(pattern, path.read_text(), re.MULTILINE)):
            return found.group(1)
    raise LabError(f"neither {DEBIAN_SOURCES} nor {DEBIAN_LIST} names a Debian 12 archive to take the source from")


def download(work: Path) -> Path:
    """Fetch the source package through apt with lists of its own, so that the machine's stay as they are."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    source = work / "sources.list"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source.write_text(f"deb-src [signed-by={keyring}] {debian_mirror()} bookworm main\n")
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    run([*apt, "update"], work)
    run([*apt, "source", "--download-only", "kubernetes"], work)
    run(["apt-get", "-q", "download", REFLECT], work)
    return next(work.glob("kubernetes_*.orig.tar.*"))


def unpack(archive: Path, work: Path) -> Path:
    """Unpack the source where Go without modules looks for it; return the folder."""
    home = work / "go" / "src" / "k8s.io"
    home.mkdir(parents=True)
    run(["tar", "-xf", str(archive), "-C", str(home)], work)
    tree = home / "kubernetes"
    next(home.glob("kubernetes-*")).rename(tree)
    run(["git", "init", "-q", "."], tree)  # the makefiles ask git where they are
    patched = work / "patched"
    run(["dpkg-deb", "-x", str(next(work.glob(f"{REFLECT}_*.deb"))), str(patched)], work)
    name = "github.com/modern-go/reflect2"
    shutil.rmtree(tree / "vendor" / name)
    shutil.copytree(patched / "usr/share/gocode/src" / name, tree / "vendor" / name)
    return tree


def compile_programs(tree: Path, work: Path, made: Path, names: list[str]) -> None:
    """Compile the programs named into `made`; `pause` is C, all others are Go."""
    env = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": str(work / "go"),
        "GOCACHE": str(work / "gocache"),
        "CGO_ENABLED": "0",
    }
    major, minor, _ = VERSION.removeprefix("v").split(".")
    values = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
    flags = ["-s", "-w", *(f"-X {name}.{key}={value}" for name in VERSION_VARIABLES for key, value in values.items())]
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in names if name != "pause"]
    if packages:
        print("generates code (1 of 3)", flush=True)
        run(["make", "generated_files"], tree, env)
        print("compiles the servers (2 of 3)", flush=True)
        run(["go", "build", "-ldflags", " ".join(flags), "-o", f"{made}/", *packages], tree, env)
    if "pause" in names:
        print("compiles pause (3 of 3)", flush=True)
        files = (tree / "build/pause/linux/pause.c", tree / "build/pause/pause.c")
        source = next(path for path in files if path.exists())
        run(["gcc", "-Os", "-static", "-o", str(made / "pause"), str(source)], tree)


def run(command: list[str], cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a step of the build at the lowest priority; raises LabError with the end of what it said."""
    done = subprocess.run(
        ["nice", "-n", "19", *command], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise LabError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")
