"""seaway install, uninstall, login: Seaway in a Kubernetes cluster, and which platform this command line speaks to."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from seaway.cli.client import Api, Doc
from seaway.cli.clusters import find_way, make_login, read_login, remove_login, write_login
from seaway.cli.errors import CliError, ExitCode, UsageError
from seaway.cli.progress import Progress, show_progress
from seaway.cli.quotas import (
    AppInstancesOption,
    AppMemoryOption,
    TeamAppsOption,
    TeamInstancesOption,
    TeamMemoryOption,
    TokenRateOption,
    TrustedProxiesOption,
)
from seaway.cli.session import OutputOption, command, parse_seconds
from seaway.cli.show import Output, dig, plural, print_json, print_text
from seaway.cli.target import Target
from seaway.home import Home
from seaway.kube.names import ADMIN_TOKEN, NAMESPACE


class InstallOutput(StrEnum):
    """What `-o` of `install` takes; yaml shows the objects."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


class Kept(StrEnum):
    """What becomes of the apps."""

    KEEP = "keep"
    REMOVE = "remove"


class ServiceType(StrEnum):
    """How requests from outside reach the routers."""

    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"


@dataclass(frozen=True)
class InstallOptions:
    """What `install` was told; `settings` by name, None for what was not given."""

    settings: Doc
    kubeconfig: Path | None
    context: str | None
    pull_secret: Path | None
    build: bool
    dry_run: bool
    within: float


@dataclass(frozen=True)
class InstallAnswer:
    """What came of it. `token` is the admin's; it is never printed."""

    document: Doc
    manifests: tuple[Doc, ...]
    token: str


@dataclass(frozen=True)
class UninstallOptions:
    """What `uninstall` was told."""

    namespace: str
    apps: Kept
    kubeconfig: Path | None
    context: str | None
    within: float


@dataclass(frozen=True)
class InstallCommands:
    """What the composition root gives these commands; they raise CliError."""

    install: Callable[[InstallOptions, Progress], Awaitable[InstallAnswer]]
    uninstall: Callable[[UninstallOptions, Progress], Awaitable[list[Doc]]]


KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="Which cluster, as whom. [KUBECONFIG]")
]
ContextOption = Annotated[str | None, typer.Option("--context", help="A context of the kubeconfig. [the current one]")]
WithinOption = Annotated[
    float,
    typer.Option("--timeout", parser=parse_seconds, metavar="TIME", help="How long each step may take (90, 30s, 5m)."),
]


def add(root: typer.Typer, commands: InstallCommands) -> None:
    """Add the commands to the root command."""
    root.command("install")(_make_install(commands))
    root.command("uninstall")(_make_uninstall(commands))
    root.command("login")(login)


def _make_install(commands: InstallCommands) -> Callable[..., None]:
    @command
    async def install(
        *,
        namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where Seaway's own parts go.")] = NAMESPACE,
        image: Annotated[
            str | None, typer.Option("--image", metavar="REF", help="Seaway's image, by digest. [built and pushed]")
        ] = None,
        registry: Annotated[
            str | None,
            typer.Option("--registry", metavar="HOST/PATH", help="Where images are pushed to and pulled from."),
        ] = None,
        base_image: Annotated[
            str | None, typer.Option("--base-image", metavar="REF", help="What images are built upon.")
        ] = None,
        build_image: Annotated[
            str | None, typer.Option("--build-image", metavar="REF", help="What builds Dockerfiles: it has buildah.")
        ] = None,
        domain: Annotated[str | None, typer.Option("--domain", help="Apps are at APP.DOMAIN. [localhost]")] = None,
        routers: Annotated[int | None, typer.Option("--routers", metavar="N", help="How many routers. [2]")] = None,
        control_replicas: Annotated[
            int | None, typer.Option("--control-replicas", metavar="N", help="How many control planes. [2]")
        ] = None,
        service_type: Annotated[
            ServiceType | None, typer.Option("--service-type", help="How routers are reached. [LoadBalancer]")
        ] = None,
        node_port: Annotated[int | None, typer.Option("--node-port", help="The port on every node.")] = None,
        balancer_wait: Annotated[
            float | None,
            typer.Option(
                "--balancer-wait", parser=parse_seconds, metavar="TIME",
                help="What the balancer needs to see that a router stops. [10s]",
            ),
        ] = None,
        trusted_proxies: TrustedProxiesOption = None,
        app_instances: AppInstancesOption = None,
        team_instances: TeamInstancesOption = None,
        app_memory: AppMemoryOption = None,
        team_memory: TeamMemoryOption = None,
        team_apps: TeamAppsOption = None,
        token_rate: TokenRateOption = None,
        insecure_registry: Annotated[
            bool | None, typer.Option("--insecure-registry/--secure-registry", help="The registry speaks plain HTTP.")
        ] = None,
        pull_secret: Annotated[
            Path | None,
            typer.Option("--pull-secret", metavar="FILE", help="The registry's credentials (~/.docker/config.json)."),
        ] = None,
        build: Annotated[bool, typer.Option("--build", help="Build Seaway's image even if one is known.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")] = False,
        no_login: Annotated[
            bool, typer.Option("--no-login", help="Do not make `seaway` speak to this cluster from now on.")
        ] = False,
        kubeconfig: KubeconfigOption = None,
        context: ContextOption = None,
        within: WithinOption = 300.0,
        output: Annotated[
            InstallOutput, typer.Option("--output", "-o", help="How to print; yaml: the objects, Secrets hidden.")
        ] = InstallOutput.TEXT,
    ) -> None:  # fmt: skip
        """Put Seaway into a Kubernetes cluster, or bring what is there up to date.

        Options that are not given are as in the last installation. Running it again changes nothing, and puts back
        what was changed by hand.
        """
        settings: Doc = {
            "namespace": namespace, "image": image, "registry": registry, "base_image": base_image,
            "build_image": build_image, "domain": domain, "routers": routers, "control_replicas": control_replicas,
            "service_type": service_type and service_type.value, "node_port": node_port,
            "balancer_wait": balancer_wait, "insecure_registry": insecure_registry,
            "trusted_proxies": trusted_proxies,
            "app_instances": app_instances, "team_instances": team_instances,
            "app_memory": app_memory, "team_memory": team_memory, "team_apps": team_apps, "token_rate": token_rate,
        }  # fmt: skip
        options = InstallOptions(settings, kubeconfig, context, pull_secret, build, dry_run, within)
        with show_progress(quiet=output is not InstallOutput.TEXT or dry_run) as progress:
            answer = await commands.install(options, progress)
        if answer.token and not no_login:
            write_login(Home.find(), make_login(answer.document["namespace"], answer.token, kubeconfig, context))
        _print_installed(answer, output, logged_in=bool(answer.token) and not no_login)

    return install


def _print_installed(answer: InstallAnswer, output: InstallOutput, *, logged_in: bool) -> None:
    objects = answer.document["objects"]
    if output is InstallOutput.JSON:
        print_json(answer.document)
    elif output is InstallOutput.YAML:
        import yaml  # noqa: PLC0415

        shown = answer.manifests or ({"objects": objects},)
        sys.stdout.write(yaml.safe_dump_all(shown, sort_keys=False))
    elif answer.document["dry_run"]:
        for item in objects:
            word = {"unchanged": "nothing to change", "created": "would be created", "changed": "would be changed"}
            print_text(f"{item['kind']} {item['name']}: {word[item['action']]}")
    else:
        changed = sum(item["action"] != "unchanged" for item in objects)
        what = f"{plural(changed, 'object')} made or changed" if changed else "nothing to change"
        print_text(f"Seaway {answer.document['version']} runs in namespace {answer.document['namespace']}; {what}")
        if logged_in:
            print_text("`seaway` speaks to this cluster now; `seaway login --local` goes back to this machine")
        else:
            print_text("`seaway login --cluster` makes `seaway` speak to it")


def _make_uninstall(commands: InstallCommands) -> Callable[..., None]:
    @command
    async def uninstall(
        *,
        namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where Seaway's own parts are.")] = NAMESPACE,
        apps: Annotated[
            Kept, typer.Option("--apps", help="keep: they run on, without routers; remove: everything goes.")
        ] = Kept.KEEP,
        confirm: Annotated[str, typer.Option("--confirm", metavar="NAMESPACE", help="The namespace, once more.")] = "",
        kubeconfig: KubeconfigOption = None,
        context: ContextOption = None,
        within: WithinOption = 300.0,
        output: OutputOption = Output.TEXT,
    ) -> None:
        """Take Seaway out of a Kubernetes cluster.

        With `--apps keep` what runs stays, and so do all documents: `seaway install` takes it up again.
        """
        if confirm != namespace:
            all_of_it = " and every app in it" if apps is Kept.REMOVE else ""
            raise UsageError(
                f"this takes Seaway{all_of_it} out of the cluster",
                hint=f"if that is meant, add --confirm {namespace}",
                field="--confirm",
            )
        options = UninstallOptions(namespace, apps, kubeconfig, context, within)
        with show_progress(quiet=output is Output.JSON) as progress:
            changes = await commands.uninstall(options, progress)
        if output is Output.JSON:
            print_json({"namespace": namespace, "objects": changes})
        else:
            gone = sum(change["action"] == "removed" for change in changes)
            print_text(f"Seaway is out of the cluster; {plural(gone, 'object')} removed")
            if (kept := read_login(Home.find())) and kept.namespace == namespace:
                print_text("`seaway login --local` makes `seaway` speak to this machine again")

    return uninstall


@command
async def login(
    *,
    cluster: Annotated[bool, typer.Option("--cluster", help="Speak to Seaway in a Kubernetes cluster.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Speak to the platform on this machine.")] = False,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where Seaway's own parts are.")] = NAMESPACE,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the token from standard input. [the admin's, from the cluster]")
    ] = False,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Choose the platform that `seaway` speaks to when SEAWAY_URL is not set.

    The token is read from standard input, or is the admin's if your kubeconfig may read it.
    """
    if cluster is local:
        raise UsageError("which platform?", hint="say --cluster or --local", field="--cluster")
    home = Home.find()
    if local:
        remove_login(home)
        _say_login({"platform": "local", "home": str(home.root)}, "`seaway` speaks to this machine", output)
        return
    token = sys.stdin.readline().strip() if token_stdin else await _read_admin_token(kubeconfig, context, namespace)
    kept = make_login(namespace, token, kubeconfig, context)
    way = find_way(kept)
    async with Api(Target(way.url, token, local=False, way=way)) as api:
        status = await api.get("/status")
    write_login(home, kept)
    document = {"platform": "cluster", "url": way.url, "version": dig(status, "version", "")}
    _say_login(document, f"`seaway` speaks to {way.url}", output)


def _say_login(document: dict[str, Any], sentence: str, output: Output) -> None:
    if output is Output.JSON:
        print_json(document)
    else:
        print_text(sentence)


async def _read_admin_token(kubeconfig: Path | None, context: str | None, namespace: str) -> str:
    """Return the admin's token, which `seaway install` put into a Secret."""
    import base64  # noqa: PLC0415
    import json  # noqa: PLC0415

    from seaway.kube.client import KubeClient  # noqa: PLC0415
    from seaway.kube.errors import KubeError, NotFound  # noqa: PLC0415

    hint = "give a token: seaway login --cluster --token-stdin"
    try:
        client = KubeClient.open(kubeconfig, context)
        try:
            answer = await client.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{ADMIN_TOKEN}")
        finally:
            await client.close()
    except NotFound as error:
        message = f"there is no admin token in namespace {namespace}"
        raise CliError(message, hint=hint, exit_code=ExitCode.NOT_FOUND) from error
    except KubeError as error:
        code = ExitCode.NOT_ALLOWED if error.code in {401, 403} else ExitCode.FAILED
        raise CliError(f"the admin's token cannot be read: {error}", hint=hint, exit_code=code) from error
    return base64.b64decode(json.loads(answer)["data"]["token"]).decode()
