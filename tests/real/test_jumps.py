"""States that cannot be of one robot, by hand: what tells them from an arm that moves fast, and from noise."""

import numpy as np
import pytest

from real.jumps import describe_jump, find_disputes, find_jumps
from real.robot import Reading, State
from robots import arm as arms

PANDA = arms.load("panda")  # joint 1: 2.175 rad/s


def state(t, q0=0.0, goal=(0.5, 0.0, 0.3), objects=()):
    q = np.array([q0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
    poses = np.array([[*place, 1, 0, 0, 0] for place in objects], float).reshape(-1, 7)
    readings = (Reading("/joint_states", t, t, 0.1),)
    return State(q, 0 * q, 0.0, "move", 0.0, 1.0, poses, np.array(goal), t, t, readings)


@pytest.mark.parametrize("passed_s, moved, jumps", [
    (0.01, 0.09, False), (0.01, 0.10, True),  # 0.05 + 2 · 2.175 · 0.01 = 0.0935
    (0.2, 0.9, False), (0.2, 0.95, True),  # 0.92: after an outage an arm may be elsewhere
    (0.0, 0.04, False), (-0.1, 0.06, True),  # two nodes, whose stamps come out of order
])  # fmt: skip
def test_an_arm_is_not_faster_than_it_can_be(passed_s, moved, jumps):
    sentence = describe_jump(state(10.0), state(10.0 + passed_s, moved), PANDA)
    assert bool(sentence) == jumps
    assert not jumps or sentence.startswith(f"panda_joint1 on /joint_states jumps by {moved:.2f} rad within")


def test_two_nodes_that_publish_the_arms_joints_are_found_before_it_moves():
    both = [state(10 + i / 100, 1.5 * (i % 2)) for i in range(100)]
    (sentence,) = find_jumps(both, PANDA)
    assert "jumps by 1.50 rad within 10 ms" in sentence and "another node" in sentence
    assert find_jumps([state(10 + i / 100, 0.001 * (i % 2)) for i in range(100)], PANDA) == []


def test_two_goals_are_found_and_one_that_moves_or_is_measured_is_not():
    goals = [(0.5, 0.0, 0.3) if i // 5 % 2 else (0.4, 0.2, 0.1) for i in range(100)]
    (sentence,) = find_disputes([state(i, goal=goal) for i, goal in enumerate(goals)])
    assert sentence.startswith("the goal goes to and fro between [") and "0.4, 0.2, 0.1" in sentence
    noise = np.random.default_rng(0).normal(0.5, 1e-3, (100, 3))
    for track in (noise, [(0.5, 0, 0.3)] * 100, [(0.5, 0, 0.3)] * 50 + [(0.4, 0, 0.3)] * 50):
        assert find_disputes([state(i, goal=goal, objects=[goal]) for i, goal in enumerate(track)]) == []
    (sentence,) = find_disputes([state(i, objects=[(0.1, 0, 0), (i % 2, 0, 0)]) for i in range(20)])
    assert sentence.startswith("object 1 goes to and fro")
