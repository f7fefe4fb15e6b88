"""Stories of rollouts, told by the product's own decisions: each is a file in rollouts/told, to be read and compared.

SEAWAY_UPDATE_GOLDEN=1 writes them anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from seaway.model import Phase
from seaway.rollout.transitions import TRANSITIONS
from tests.golden import compare
from tests.unit.rollouts.stage import Stage

TOLD = Path(__file__).parent / "rollouts" / "told"
RECREATE = {"strategy": "recreate"}
Story = Callable[[Stage], Awaitable[None]]


async def first_deploy(stage: Stage) -> None:
    """An app's first release starts, is checked by every router, and gets the traffic."""
    await stage.deploy(scale={"web": 2})
    await stage.until_rest()


async def second_deploy(stage: Stage) -> None:
    """The next one starts beside it; the traffic moves when it is ready; the first stays for a while and then goes."""
    await serve(stage)
    await stage.deploy()
    await stage.until_rest()


async def crashing_release(stage: Stage) -> None:
    """It never gets a request; what served before serves on."""
    await serve(stage)
    stage.world.bad_releases.add(2)
    await stage.deploy("which crashes")
    await stage.until_rest()


async def crashing_first_release(stage: Stage) -> None:
    """There is nothing to go back to."""
    stage.world.bad_releases.add(1)
    await stage.deploy("which crashes")
    await stage.until_rest()


async def never_ready(stage: Stage) -> None:
    """A release that does not listen is given up after its start_timeout."""
    await serve(stage)
    stage.world.stuck_releases.add(2)
    await stage.deploy("which never listens", rollout={"start_timeout": 20})
    await stage.until_rest()


async def a_router_refuses(stage: Stage) -> None:
    """No request is moved to what one of the routers would not know."""
    await serve(stage)
    stage.happen("router-1 takes no new routes")
    stage.world.routers[1].refusal = "no such regex"
    await stage.deploy()
    await stage.until_rest()


async def a_router_is_away(stage: Stage) -> None:
    """It is waited for: it would send requests to what is stopped. When it is back, the rollout goes on."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.SHIFTING, 2)
    stage.happen("router-1 does not answer")
    stage.world.routers[1].away = True
    await stage.run(20)
    stage.happen("router-1 is back")
    stage.world.routers[1].away = False
    await stage.until_rest()


async def a_router_stays_away(stage: Stage) -> None:
    """After router_timeout the traffic goes back to what every router knows."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.SHIFTING, 2)
    stage.happen("router-1 does not answer")
    stage.world.routers[1].away = True
    await stage.until(Phase.RETURNING, 2)
    await stage.run(40)
    stage.happen("router-1 is back")
    stage.world.routers[1].away = False
    await stage.until_rest()


async def cancelled_while_waiting(stage: Stage) -> None:
    """The one that waits for its turn goes; the one before it is not touched."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.STARTING, 2)
    await stage.deploy()
    await stage.until(Phase.QUEUED, 3)
    await stage.ask("cancel", release=3, cancel=True)
    await stage.until_rest()


async def cancelled_while_kept(stage: Stage) -> None:
    """What served before takes the traffic back, without a start."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.KEEPING, 2)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def cancelled_while_starting(stage: Stage) -> None:
    """Its instances go, as they never had a request."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.STARTING, 2)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def cancelled_while_verified(stage: Stage) -> None:
    """The same, though it is ready."""
    await serve(stage)
    await stage.deploy(rollout={"min_ready": 30})
    await stage.until(Phase.VERIFYING, 2)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def cancelled_while_shifting(stage: Stage) -> None:
    """Some routers may know it already: all of them go back, and it drains."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.SHIFTING, 2)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def paused(stage: Stage) -> None:
    """The traffic does not move before somebody resumes it."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.STARTING, 2)
    await stage.ask("pause", paused=True)
    await stage.run(30)
    await stage.ask("resume", paused=False)
    await stage.until_rest()


async def promoted(stage: Stage) -> None:
    """Whoever knows that it is good need not wait until it proved itself."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.KEEPING, 2)
    await stage.ask("promote", promote=True)
    await stage.until_rest()


async def superseded(stage: Stage) -> None:
    """Of those that wait for their turn only the newest gets one."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.STARTING, 2)
    await stage.deploy()
    await stage.deploy()
    await stage.until_rest()


async def it_breaks_after_the_shift(stage: Stage) -> None:
    """While the one before is kept, it takes the traffic back without a start."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.KEEPING, 2)
    stage.crash_for_ever(2)
    await stage.until_rest()


async def recreate(stage: Stage) -> None:
    """What must not run twice stops before the next one starts; requests wait meanwhile."""
    await serve(stage, rollout=RECREATE)
    await stage.deploy(rollout=RECREATE)
    await stage.until_rest()


async def recreate_that_crashes(stage: Stage) -> None:
    """What served before starts again, when nothing is left of what failed."""
    await serve(stage, rollout=RECREATE)
    stage.world.bad_releases.add(2)
    await stage.deploy("which crashes", rollout=RECREATE)
    await stage.until_rest()


async def scaled(stage: Stage) -> None:
    """Up at once; down one that no router sends to any more; to none, and back."""
    await serve(stage)
    for count in (3, 1, 0, 1):
        await stage.scale(web=count)
        await stage.until_rest()


async def destroyed_while_deploying(stage: Stage) -> None:
    """All of it goes, whatever it was about."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.STARTING, 2)
    await stage.destroy()
    await stage.until_rest()


async def the_engine_is_away(stage: Stage) -> None:
    """Nothing is decided about instances that nobody sees; what serves serves on."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.STARTING, 2)
    stage.happen("the engine does not answer")
    stage.world.available = False
    await stage.run(10)
    stage.happen("it answers again")
    stage.world.available = True
    await stage.until_rest()


async def release_command(stage: Stage) -> None:
    """It runs before anything of the release starts."""
    await serve(stage)
    await stage.deploy(release_command="migrate")
    await stage.until_rest()


async def release_command_that_fails(stage: Stage) -> None:
    """Nothing of the release starts."""
    await serve(stage)
    stage.world.failing = True
    await stage.deploy(release_command="migrate")
    await stage.until_rest()


async def a_request_that_lasts(stage: Stage) -> None:
    """An instance with an open WebSocket drains as long as its release says, and no longer."""
    await serve(stage, rollout={"drain": 60})
    stage.happen("WebSockets are opened that nobody closes")
    stage.world.lasting = 1
    await stage.run(2)
    await stage.deploy()
    await stage.until_rest()


async def rolled_back(stage: Stage) -> None:
    """Going back is the same flow: a new release, a copy of what served before."""
    await serve(stage)
    await stage.deploy()
    await stage.until_rest()
    await stage.rollback()
    await stage.until_rest()


async def recreate_cancelled_while_it_clears(stage: Stage) -> None:
    """What was told to stop has stopped by then, or will; it starts again."""
    await serve(stage, rollout=RECREATE)
    await stage.deploy(rollout=RECREATE)
    await stage.until(Phase.CLEARING, 2)
    await stage.run(2)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def recreate_cancelled_before_it_serves(stage: Stage) -> None:
    """It is ready and has no traffic yet; what served before starts when it has stopped."""
    await serve(stage, rollout=RECREATE)
    await stage.deploy(rollout={**RECREATE, "min_ready": 30})
    await stage.until(Phase.VERIFYING, 2)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def recreate_that_routers_do_not_hear_of(stage: Stage) -> None:
    """It is taken back; one release at a time runs on the way there, too."""
    await serve(stage, rollout=RECREATE)
    await stage.deploy(rollout=RECREATE)
    await stage.until(Phase.SHIFTING, 2)
    stage.happen("router-1 does not answer")
    stage.world.routers[1].away = True
    await stage.until(Phase.RESTORING, 2)
    stage.happen("router-1 is back")
    stage.world.routers[1].away = False
    await stage.until_rest()


async def recreate_that_breaks_at_once(stage: Stage) -> None:
    """In the moment after the traffic came: what served before starts again."""
    await serve(stage, rollout=RECREATE)
    await stage.deploy(rollout=RECREATE)
    await stage.until(Phase.KEEPING, 2)
    stage.crash_for_ever(2, times=3)
    await stage.until_rest()


async def recreate_after_a_release_command(stage: Stage) -> None:
    """The command runs beside what serves; only then is that stopped."""
    await serve(stage, rollout=RECREATE)
    await stage.deploy(rollout=RECREATE, release_command="migrate")
    await stage.until_rest()


async def recreate_both_of_which_crash(stage: Stage) -> None:
    """What served before does not come back either, and that is said."""
    await serve(stage, rollout=RECREATE)
    stage.world.bad_releases |= {1, 2}
    await stage.deploy("which crashes, as v1 does by now", rollout=RECREATE)
    await stage.until_end(2)


async def recreate_beside_what_does_not_stop(stage: Stage) -> None:
    """A first release fails, and what is left of it does not stop in time: the next one is not started beside it."""
    stage.world.bad_releases.add(1)
    stage.world.stop_time = 400
    await stage.deploy("which crashes")
    await stage.until(Phase.FAILED, 1)
    await stage.deploy(rollout=RECREATE)
    await stage.until_rest()


async def recreate_cancelled_beside_what_does_not_stop(stage: Stage) -> None:
    """There is nothing to go back to."""
    stage.world.bad_releases.add(1)
    stage.world.stop_time = 400
    await stage.deploy("which crashes")
    await stage.until(Phase.FAILED, 1)
    await stage.deploy(rollout=RECREATE)
    await stage.until(Phase.CLEARING, 2)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def first_deploy_that_routers_do_not_hear_of(stage: Stage) -> None:
    """There is nothing to go back to."""
    await stage.deploy()
    await stage.until(Phase.SHIFTING, 1)
    stage.happen("router-1 does not answer")
    stage.world.routers[1].away = True
    await stage.until_end(1)


async def first_deploy_cancelled_while_shifting(stage: Stage) -> None:
    """There is nothing to go back to."""
    await stage.deploy()
    await stage.until(Phase.SHIFTING, 1)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def a_router_does_not_hear_of_the_way_back(stage: Stage) -> None:
    """It may send requests to what was cancelled, which is therefore kept as long as it may drain."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.KEEPING, 2)
    stage.happen("router-1 does not answer")
    stage.world.routers[1].away = True
    await stage.ask("cancel", cancel=True)
    await stage.until_end(2)


async def both_break_after_the_shift(stage: Stage) -> None:
    """Nothing healthy is left to go back to: the new one stays, and is started again and again."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.KEEPING, 2)
    stage.crash_for_ever(1)
    stage.crash_for_ever(2)
    await stage.until_end(2)


async def cancelled_when_there_is_no_way_back(stage: Stage) -> None:
    """What served before crashes by now: the new one stays."""
    await serve(stage)
    await stage.deploy()
    await stage.until(Phase.KEEPING, 2)
    stage.crash_for_ever(1)
    await stage.run(4)
    await stage.ask("cancel", cancel=True)
    await stage.until_end(2)


async def release_command_cancelled(stage: Stage) -> None:
    """It is killed; nothing of the release starts."""
    await serve(stage)
    stage.world.lasts = True
    await stage.deploy(release_command="migrate")
    await stage.until(Phase.PREPARING, 2)
    await stage.run(3)
    await stage.ask("cancel", cancel=True)
    await stage.until_rest()


async def serve(stage: Stage, **manifest: Any) -> None:
    """Begin with a release that serves; how it came to that is another story."""
    await stage.deploy(**manifest)
    await stage.until_rest()
    stage.lines = ["..."]


STORIES: list[Story] = [
    first_deploy, second_deploy, crashing_release, crashing_first_release, never_ready, a_router_refuses,
    a_router_is_away, a_router_stays_away, cancelled_while_waiting, cancelled_while_kept, cancelled_while_starting,
    cancelled_while_verified, cancelled_while_shifting, paused, promoted, superseded, it_breaks_after_the_shift,
    recreate, recreate_that_crashes, scaled, destroyed_while_deploying, the_engine_is_away, release_command,
    release_command_that_fails, a_request_that_lasts, rolled_back, recreate_cancelled_while_it_clears,
    recreate_cancelled_before_it_serves, recreate_that_routers_do_not_hear_of, recreate_that_breaks_at_once,
    recreate_after_a_release_command, recreate_both_of_which_crash, recreate_beside_what_does_not_stop,
    recreate_cancelled_beside_what_does_not_stop, first_deploy_that_routers_do_not_hear_of,
    first_deploy_cancelled_while_shifting, a_router_does_not_hear_of_the_way_back, both_break_after_the_shift,
    cancelled_when_there_is_no_way_back, release_command_cancelled,
]  # fmt: skip


async def tell(story: Story) -> Stage:
    """Play a story."""
    stage = Stage()
    await stage.open()
    await story(stage)
    return stage


@pytest.mark.parametrize("story", STORIES, ids=[story.__name__ for story in STORIES])
async def test_story(story: Story) -> None:
    stage = await tell(story)
    compare(TOLD / f"{story.__name__}.txt", f"{story.__doc__}\n\n" + "\n".join(stage.lines) + "\n")


async def test_every_edge_of_the_table_is_in_a_story() -> None:
    """What no story shows may never happen."""
    taken = {edge for story in STORIES for edge in await (await tell(story)).steps()}
    assert taken == {(phase, to) for phase, edges in TRANSITIONS.items() for to in edges}


def test_no_story_is_left_over() -> None:
    assert {path.stem for path in TOLD.iterdir()} == {story.__name__ for story in STORIES}
