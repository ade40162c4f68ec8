"""States that cannot be of one robot: joints that jump, a goal that goes to and fro. Two nodes publish on a topic.

A node that was left running, one that publishes zeros for a description's sake, a simulation beside the robot: each
message of theirs is a good one, and its stamp is new, so that nothing but the next message tells.
"""

from collections.abc import Sequence

import numpy as np

from real.robot import State
from robots.arm import Arm

SLACK_RAD = 0.05  # that a joint may move at once: noise, and what a driver rounds
FASTER = 2.0  # times a joint's limit of velocity, which stamps that are a little off make of it
TURNS = 3  # so often a value gives way to another one and comes back, in a second: chance does not do that


def describe_jump(before: State, state: State, arm: Arm) -> str:
    """How the joints of one state and the next are further apart than the arm can have moved; else nothing."""
    apart = np.abs(state.q - before.q)
    within_s = max(state.t_robot - before.t_robot, 0.0)
    beyond = apart - SLACK_RAD - FASTER * arm.limits.velocity * within_s
    joint = int(np.argmax(beyond))
    if beyond[joint] <= 0:
        return ""
    topic = state.readings[0].topic if state.readings else "the arm's connection"
    return (
        f"{arm.joints[joint]} on {topic} jumps by {apart[joint]:.2f} rad within {1e3 * within_s:.0f} ms, which the arm "
        "cannot: does another node publish there too?"
    )


def find_jumps(states: Sequence[State], arm: Arm) -> list[str]:
    """The first jump of an arm's joints among states that were observed one after another, if there is one."""
    jumps = (describe_jump(a, b, arm) for a, b in zip(states, states[1:], strict=False))
    return [jump for jump in jumps if jump][:1]


def find_disputes(states: Sequence[State]) -> list[str]:
    """A sentence for the goal, and for each object, that goes to and fro between places during these states."""
    tracks = {"the goal": [state.goal for state in states]}
    tracks |= {f"object {i}": [s.objects[i, :3] for s in states] for i in range(min(len(s.objects) for s in states))}
    return [
        f"{what} goes to and fro between {places[0]} and {places[1]} m: do two nodes publish it?"
        for what, track in tracks.items()
        if (places := disputed_places(track))
    ]


def disputed_places(track: Sequence[np.ndarray]) -> list[list[float]]:
    """The last two places [3] of a track that returns to the place before, to the digit, TURNS times or more."""
    places = [tuple(map(float, place)) for place in track]
    changed = [b for a, b in zip([None, *places], places, strict=False) if a != b]
    returns = sum(a == c for a, c in zip(changed, changed[2:], strict=False))
    return [np.round(place, 3).tolist() for place in changed[-2:]] if returns >= TURNS else []
