"""Certificates that never run out: what `seaway install` does about them, done by the leader as well."""

from __future__ import annotations

import asyncio

import structlog

from seaway.install.secrets import renew_certificates, utc_now
from seaway.kube.client import KubeClient
from seaway.kube.errors import KubeError

log = structlog.get_logger("seaway.install")

LOOK_EVERY = 6 * 3600.0  # seconds; certificates are renewed 60 days before they end


async def keep_certificates(client: KubeClient, namespace: str) -> None:
    """Look at the certificates now and every few hours, until cancelled. Only an installation makes an authority."""
    while True:
        try:
            for change in await renew_certificates(client, namespace, utc_now()):
                if change.action != "unchanged":
                    log.warning("made a certificate anew", secret=change.name, action=change.action)
        except KubeError as error:
            log.warning("the certificates could not be looked at", error=str(error))
        await asyncio.sleep(LOOK_EVERY)
