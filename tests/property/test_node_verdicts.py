"""Verdicts about nodes, on a simulated network: the dead are found in time, the slow and the cut off are let be."""

from __future__ import annotations

import pytest

from seaway.health.decide import DEFAULT, decide_nodes, find_hold_end
from seaway.health.facts import NodeFacts, Probes
from seaway.model import NodeState
from tests.node_kit import NodeLab, at

S = NodeState


def break_one(lab: NodeLab, name: str = "n1", warm: float = 3.0) -> float:
    """Let all be well for a while, then take a node's link down; return when."""
    lab.run(warm)
    lab.nodes[name].up = False
    return lab.seconds


def lose_one(seconds: float) -> NodeLab:
    """Return three nodes, `seconds` after the first of them was cut off."""
    lab = NodeLab(3)
    break_one(lab)
    lab.run(seconds)
    return lab


def test_a_dead_link_is_found_in_time() -> None:
    """Whenever it breaks: suspect within 1.7 s, lost after 4 s at the earliest and 4.8 s at the latest."""
    for seed in range(60):
        lab = NodeLab(3, seed)
        begun = break_one(lab, warm=3 + seed * 0.01)
        lab.run(5.5)
        (suspect, lost) = ((when - begun, state) for when, state in lab.nodes["n1"].states)
        assert (suspect[1], lost[1]) == (S.SUSPECT, S.LOST)
        assert suspect[0] < 1.7
        assert 3.9 < lost[0] < 4.8
        assert {lab.state("n2"), lab.state("n3")} == {S.WELL}


def test_heavy_packet_loss_loses_nobody() -> None:
    """30 % of all packets lost, for 2.5 hours of a node: no run of lost probes comes near the limit of 40."""
    longest = 0
    for seed in range(3):
        lab = NodeLab(20, seed, loss=0.3)
        lab.run(150)
        assert all(state is not S.LOST for node in lab.nodes.values() for _, state in node.states)
        longest = max(longest, lab.longest)
    assert 8 < longest < 30


def test_a_dead_link_is_found_under_packet_loss_too() -> None:
    """The others' answers come through often enough to know that it is not the control plane."""
    for seed in range(30):
        lab = NodeLab(3, seed, loss=0.3)
        begun = break_one(lab)
        lab.run(7)
        lost = [when for when, state in lab.nodes["n1"].states if state is S.LOST]
        assert lost
        assert lost[0] - begun < 5.5


def test_a_stalled_engine_loses_nobody() -> None:
    """While the API server does not answer nobody is lost; a node that is still silent afterwards is, at once."""
    lab = NodeLab(3)
    lab.api_alive = False
    break_one(lab)
    lab.run(15)
    assert lab.state("n1") is S.SUSPECT
    lab.api_alive = True
    lab.run(0.1)
    assert lab.state("n1") is S.LOST


def test_a_control_plane_that_is_cut_off_judges_nobody() -> None:
    """It reaches no node at all: that says nothing about nodes."""
    lab = NodeLab(3)
    lab.run(3)
    lab.cut_off = True
    lab.run(30)
    assert {lab.state(name) for name in lab.nodes} <= {S.WELL, S.SUSPECT}
    assert "cut off" in lab.nodes["n1"].verdict.why


def test_a_single_node_is_never_lost() -> None:
    """There is nobody to tell whether it is the node or the control plane, and nowhere to go."""
    lab = NodeLab(1)
    break_one(lab)
    lab.run(60)
    assert lab.nodes["n1"].states == []


def test_a_router_that_reaches_it_vetoes() -> None:
    """Routers see it while the control plane does not: suspect for as long as that lasts, and not a moment longer."""
    lab = NodeLab(3)
    break_one(lab)
    for _ in range(60):
        lab.run(0.5)
        lab.nodes["n1"].seen_at = at(lab.seconds - 2)
    assert lab.state("n1") is S.SUSPECT
    assert "router" in lab.nodes["n1"].verdict.why
    lab.run(5)
    assert lab.state("n1") is S.LOST


@pytest.mark.parametrize(("heard", "vetoes"), [(0.5, False), (3.0, True)])
def test_a_renewed_lease_vetoes(heard: float, vetoes: bool) -> None:
    """One heard of well after the silence began is life, for 15 s; one from about its beginning may be older."""
    lab = NodeLab(3)
    begun = break_one(lab)
    lab.nodes["n1"].renewed_at = at(begun + heard)
    lab.run(heard + 10)
    assert lab.state("n1") is (S.SUSPECT if vetoes else S.LOST)
    lab.run(8)
    assert lab.state("n1") is S.LOST


def test_life_takes_the_verdict_back() -> None:
    """A lost node that renews its lease was not dead: its instances are used again, after those of others."""
    lab = lose_one(6)
    lab.nodes["n1"].renewed_at = at(lab.seconds)
    lab.judge()
    assert lab.state("n1") is S.SUSPECT


def test_a_lost_node_comes_back_after_a_while_of_answers() -> None:
    """A single answer is not enough."""
    lab = lose_one(10)
    lab.nodes["n1"].up = True
    lab.run(1.5)
    assert lab.state("n1") is S.LOST
    lab.run(2)
    assert lab.state("n1") is S.WELL


def test_flapping_nodes_are_held_for_longer_each_time() -> None:
    """Two losses in an hour are forgiven; then 1, 2, 4 minutes, while what it carries serves."""
    lab = NodeLab(3)
    held = []
    for _ in range(5):
        break_one(lab)
        lab.run(8)
        lab.nodes["n1"].up = True
        lab.run(5)
        verdict = lab.nodes["n1"].verdict
        until = find_hold_end(lab.nodes["n1"].losses, verdict.back_at, lab.now)
        held.append((verdict.state, bool(verdict.hold), until and (until - (verdict.back_at or until)).total_seconds()))
    assert held[:2] == [(S.WELL, False, None)] * 2
    assert held[2:] == [(S.HELD, True, 60.0), (S.HELD, True, 120.0), (S.HELD, True, 240.0)]
    lab.run(240)
    assert lab.state("n1") is S.WELL


@pytest.mark.parametrize(
    ("total", "gone", "stopped"), [(2, 1, False), (3, 1, False), (3, 2, True), (5, 2, False), (5, 3, True)]
)
def test_many_nodes_at_once_stop_the_replacing(total: int, gone: int, stopped: bool) -> None:
    """More than half, and at least two. Nobody is lost before it is known how many."""
    lab = NodeLab(total, seed=3)
    lab.run(2)
    for number in range(gone):
        lab.nodes[f"n{number + 1}"].up = False
    seen = set()
    for _ in range(400):
        lab.step()
        lost = [name for name in lab.nodes if lab.state(name) is S.LOST]
        if lost and stopped:
            seen.add((len(lost), bool(lab.verdicts.outage)))
    assert bool(lab.verdicts.outage) is stopped
    assert seen == ({(gone, True)} if stopped else set())
    assert sum(lab.state(name) is S.LOST for name in lab.nodes) == gone


def test_replacing_resumes_when_enough_are_back() -> None:
    """Not by time alone: the outage lasts until nodes return."""
    lab = NodeLab(3)
    lab.run(2)
    lab.nodes["n1"].up = lab.nodes["n2"].up = False
    lab.run(400)
    assert lab.verdicts.outage.startswith("2 of 3 nodes vanished at once (n1, n2), so nothing is replaced")
    lab.nodes["n2"].up = True
    lab.run(5)
    assert (lab.state("n2"), bool(lab.verdicts.outage)) == (S.WELL, True)
    lab.run(10)
    assert (lab.state("n1"), lab.verdicts.outage) == (S.LOST, "")


@pytest.mark.parametrize("by_lease", [False, True])
@pytest.mark.parametrize("later", [0.3, 2.0, 6.0])
def test_nodes_of_an_outage_come_back_one_after_another(by_lease: bool, later: float) -> None:
    """Nothing is replaced meanwhile, whichever sign of life comes first; when all are back it is over at once."""
    lab = NodeLab(3)
    lab.run(2)
    lab.nodes["n1"].up = lab.nodes["n2"].up = False
    lab.run(8)
    lab.nodes["n2"].up = True
    if by_lease:
        lab.nodes["n2"].renewed_at = lab.now
    lab.run(later)
    lab.nodes["n1"].up = True
    while S.LOST in {lab.state("n1"), lab.state("n2")}:
        assert lab.verdicts.outage
        lab.step()
    lab.run(0.5)
    assert lab.verdicts.outage == ""


def test_nodes_lost_long_ago_do_not_count() -> None:
    """A dead machine that nobody removed makes no outage of the next loss."""
    lab = lose_one(310)
    lab.nodes["n2"].up = False
    lab.run(6)
    assert (lab.state("n2"), lab.verdicts.outage) == (S.LOST, "")


def test_after_a_restart_every_node_is_watched_anew() -> None:
    """No verdict without 40 probes of this process's own."""
    lab = lose_one(10)
    lab.forget()
    lab.run(3)
    assert lab.state("n1") is not S.LOST
    lab.run(2)
    assert lab.state("n1") is S.LOST
    assert lab.state("n2") is S.WELL


def test_a_late_answer_is_life() -> None:
    """An answer after 0.25 s clears what was sent before it, and not what was sent after."""
    probes = Probes().send(at(0)).send(at(0.1)).send(at(0.2)).answer(at(0.1), 0.3)
    assert (probes.unanswered, probes.silent_since, probes.answers) == ((at(0.2),), at(0.2), 1)
    assert probes.answer(at(0), 0.3) == probes


def test_nothing_to_look_at_again_when_all_is_well() -> None:
    """A quiet cluster costs no verdicts."""
    node = NodeFacts("n1", Probes().send(at(0)).answer(at(0), 0.3))
    assert decide_nodes([node], at(1), api_alive=True, policy=DEFAULT).look_again is None
