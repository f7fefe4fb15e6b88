"""seaway cluster: render what secured, highly available Kubernetes masters need; check a live cluster."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seaway.cli.errors import CliError, ExitCode
from seaway.cli.session import OutputOption
from seaway.cli.show import Output, print_json, print_note, print_text
from seaway.cluster.config import Cluster, ClusterError, read_cluster

FileOption = Annotated[
    Path, typer.Option("--file", "-f", metavar="FILE", help="The cluster's machines and choices, in TOML.")
]


def add(root: typer.Typer) -> None:
    """Add `cluster` to the root command."""
    group = typer.Typer(no_args_is_help=True, help="Kubernetes clusters: render secured masters, check a live one.")
    group.command("render")(render)
    group.command("check")(check)
    root.add_typer(group, name="cluster")


def read(file: Path) -> Cluster:
    """Read cluster.toml; an error names the key."""
    try:
        return read_cluster(file)
    except ClusterError as error:
        hint = "docs/cluster.md shows every key with an example"
        raise CliError(str(error), hint=hint, exit_code=ExitCode.USAGE, code="invalid") from error


def render(
    *,
    file: FileOption = Path("cluster.toml"),
    folder: Annotated[
        Path, typer.Option("--directory", "-d", metavar="DIR", help="Where to write; keys stay in DIR/pki.")
    ] = Path("cluster"),
    output: OutputOption = Output.TEXT,
) -> None:
    """Make keys, certificates, systemd units, kubeadm files, balancer and firewall of a cluster's machines.

    Run it again to renew: certificates that end soon or no longer fit are replaced, all others stay as they are.
    """
    from seaway.cluster.certificates import list_certificates  # noqa: PLC0415  (cryptography: 0.1 s)
    from seaway.cluster.issuing import Issuer  # noqa: PLC0415
    from seaway.cluster.render import render as render_files  # noqa: PLC0415
    from seaway.cluster.writing import write_files  # noqa: PLC0415

    cluster = read(file)
    try:
        secrets = Issuer(folder / "pki", cluster.certificates).ensure(list_certificates(cluster))
        count = write_files(folder, render_files(cluster, secrets))
    except ClusterError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"{error.filename or folder}: {error.strerror}", hint="choose another --directory") from error
    if output is Output.JSON:
        print_json({"directory": str(folder), "files": count, "changes": list(secrets.log)})
        return
    for line in secrets.log:
        print_text(line)
    if not secrets.log:
        print_text("every certificate stays as it is")
    print_text(f"{count} files in {folder}; copy each machine's with: rsync -a {folder}/machines/NAME/ root@NAME:/")
    print_note(f"{folder}/pki holds every key of the cluster: keep it off the machines, encrypted and backed up")


def check(
    *,
    kubeconfig: Annotated[
        Path | None, typer.Option("--kubeconfig", metavar="FILE", help="An administrator's. [KUBECONFIG]")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="cluster.toml: the masters to look at.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--directory", "-d", metavar="DIR", help="What `render` wrote: its keys open etcd and are checked."
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Audit a live cluster: members and quorum, TLS, expiry, access, encryption at rest, versions, tokens, kubelets.

    It changes nothing. Exit code 1 if there is any finding.
    """
    from seaway.cluster.kubeconfig import find_kubeconfig, read_kubeconfig  # noqa: PLC0415
    from seaway.cluster.looking import Looker  # noqa: PLC0415
    from seaway.cluster.rules import judge, list_possible  # noqa: PLC0415

    described = read(file) if file else None
    try:
        access = read_kubeconfig(find_kubeconfig(kubeconfig))
        facts = Looker(access, described, folder / "pki" if folder else None).look()
    except ClusterError as error:
        raise CliError(str(error)) from error
    findings = judge(facts)
    if output is Output.JSON:
        print_json({"findings": [asdict(finding) for finding in findings], "not_checked": list(facts.unknown)})
    else:
        for finding in findings:
            print_text(f"{finding.check}  {finding.subject}: {finding.problem}; {finding.advice}")
        good = [name for name in list_possible(facts) if all(finding.check != name for finding in findings)]
        print_text(
            f"{len(findings)} findings; nothing found in {', '.join(good)}" if good else f"{len(findings)} findings"
        )
        for line in facts.unknown:
            print_note(f"not checked: {line}")
    raise typer.Exit(ExitCode.FAILED if findings else ExitCode.DONE)
