"""Looking at what there is, to judge what somebody asks for: the way from store and engine to rollout/capacity.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from seaway.engine.base import EngineUnavailable
from seaway.model import App, Observation, Quotas, Release, ReleaseSpec, Role, Rollout, Token
from seaway.rollout.capacity import (
    Scene,
    Shortage,
    Wish,
    asks_more,
    find_shortages,
    list_shortages,
    refuse_copy,
    refuse_deploy,
    wish_release,
    wish_scale,
)
from seaway.rollout.releases import ReleaseRefused, select_live
from seaway.store.base import NotFound, Store, Unreadable


@dataclass(frozen=True)
class CapacityJudge:
    """Says what does not fit.

    Raises EngineUnavailable if more is asked for, without force, and nobody can tell what there is now.
    """

    store: Store
    observe: Callable[[], Awaitable[Observation]]
    quotas: Quotas

    async def judge_scale(
        self, app: App, counts: dict[str, int], known: Sequence[ReleaseSpec], *, force: bool
    ) -> tuple[Shortage, ...]:
        """Judge a change of an app's scale; each process is in one of the `known` releases."""
        return await self._judge(app, lambda live: wish_scale(app, counts, live, known), force)

    async def check_release(self, app: App, release: Release, *, deploy: bool, force: bool) -> str:
        """Raise ReleaseRefused if a release that is not stored yet does not fit; forced: return what is to be said.

        `deploy`: it has a new image. Only those who may force it are told how.
        """
        wish = wish_release(app, release.spec, deploy=deploy)
        shortages = await self._judge(app, lambda _: wish, force)
        if not shortages or force:
            return tell_forced(shortages)
        may_force = await self._is_admin(release.spec.by)
        if not deploy:
            raise ReleaseRefused("does-not-fit", refuse_copy(shortages, may_force=may_force))
        in_place = wish.beside and not await self._judge(app, lambda _: replace(wish, beside=False), force)
        raise ReleaseRefused("does-not-fit", refuse_deploy(shortages, in_place=in_place, may_force=may_force))

    async def _is_admin(self, name: str) -> bool:
        """Return whether a token is an admin's; a build may end when its is long revoked."""
        try:
            return (await self.store.get(Token, name)).spec.role is Role.ADMIN
        except (NotFound, Unreadable):
            return False

    async def _judge(
        self, app: App, make_wish: Callable[[Sequence[ReleaseSpec]], Wish], force: bool
    ) -> tuple[Shortage, ...]:
        apps = (await self.store.list(App)).documents
        releases, rollouts = (await self.store.list(Release)).documents, (await self.store.list(Rollout)).documents
        scene = Scene(Observation(), apps, select_live(apps, releases, rollouts), self.quotas)
        live = scene.live_of(app)
        wish = make_wish(live)
        if not asks_more(wish, live):
            return ()
        try:
            return find_shortages(replace(scene, seen=await self.observe()), wish)
        except EngineUnavailable:
            if force:
                return ()
            raise


def tell_forced(shortages: Sequence[Shortage]) -> str:
    """Return what an event adds of what was forced; "": everything fits."""
    return f" Forced: {list_shortages(shortages)}." if shortages else ""
