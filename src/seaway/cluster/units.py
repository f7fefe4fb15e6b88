"""systemd units of the components, for clusters without kubeadm. Pure."""

from __future__ import annotations

from seaway.cluster.config import Cluster, Master, Node
from seaway.cluster.flags import (
    Flags,
    apiserver_flags,
    controller_manager_flags,
    etcd_flags,
    kubelet_flags,
    proxy_flags,
    scheduler_flags,
)
from seaway.cluster.machine import File, Places, fill

UNITS = "/etc/systemd/system"


def list_units(cluster: Cluster, machine: Master | Node) -> list[File]:
    """Return the units of a machine."""
    programs = Places.of(cluster, machine).programs
    made: list[File] = []

    def add(name: str, program: str, flags: Flags, **more: str) -> None:
        made.append(File(machine.name, f"{UNITS}/{name}.service", make_unit(name, program, flags, **more)))

    if isinstance(machine, Node):
        add("kubelet", f"{programs}/kubelet", kubelet_flags(cluster, machine), after="containerd.service")
        add("kube-proxy", f"{programs}/kube-proxy", proxy_flags(cluster, machine))
        return made
    if "etcd" in machine.roles:
        add("etcd", fill(cluster.paths.etcd, machine), etcd_flags(cluster, machine), notify="yes")
    if "api" in machine.roles:
        apiserver = apiserver_flags(cluster, machine)
        logs = Places.of(cluster, machine).logs
        add("kube-apiserver", f"{programs}/kube-apiserver", apiserver, notify="yes", after="etcd.service", folder=logs)
    if "controllers" in machine.roles:
        for name, flags in (
            ("kube-controller-manager", controller_manager_flags(cluster, machine)),
            ("kube-scheduler", scheduler_flags(cluster, machine)),
        ):
            add(name, f"{programs}/{name}", flags, after="kube-apiserver.service")
    return made


def make_unit(name: str, program: str, flags: Flags, *, after: str = "", notify: str = "", folder: str = "") -> str:
    """Return a unit that keeps a program running and, except for what runs pods, hardens it.

    `after` is a unit to wait for, `notify` whether the program says when it is ready, `folder` what to make first.
    """
    command = " \\\n  ".join([program, *(f"--{flag}={quote(value)}" for flag, value in flags.items())])
    make = f"\nExecStartPre=/usr/bin/mkdir -p -m 0700 {folder}" if folder else ""
    hardening = "" if name in {"kubelet", "kube-proxy"} else HARDENING
    return f"""\
[Unit]
Description={name} (rendered by seaway)
After=network-online.target{f" {after}" if after else ""}
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type={"notify" if notify else "exec"}{make}
ExecStart={command}
Restart=always
RestartSec=2
LimitNOFILE=65536
TimeoutStartSec=120
{hardening}
[Install]
WantedBy=multi-user.target
"""


HARDENING = """\
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectHome=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
RestrictSUIDSGID=yes
UMask=0077
"""


def quote(value: str) -> str:
    """Return a flag's value as systemd reads it back."""
    escaped = value.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(letter.isspace() for letter in escaped) else escaped
