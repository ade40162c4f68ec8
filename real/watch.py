"""How old each message is that a robot's state was read from: by its own stamp, and by when it came.

A publisher that ends, one that sends the same message again and again, a clock that is set back or ahead: each is
another sentence. A message without a stamp is watched by when it came alone.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from real.robot import Reading, State

TOO_OLD = 5  # times a topic's limit: no longer held for, but stopped
OTHER_TIME_S = 3e7  # a year: no clock is off by that, so it is no wall clock
AHEAD = 0.5  # of a topic's limit is how far a stamp may lie ahead of our clock


class Age(NamedTuple):
    """How old the newest message of a topic is, in s."""

    topic: str
    latest_s: float  # its limit
    silent_s: float  # since a message came that had another stamp than the one before
    behind_s: float  # of its stamp behind our clock; negative: ahead of it; 0 without a stamp
    is_repeated: bool  # messages come, and all have the same stamp
    is_steady: bool  # messages with new stamps have come without a gap for as long as the limit
    noun: str = "message"

    @property
    def age_s(self) -> float:
        """The larger of both."""
        return max(self.silent_s, self.behind_s)

    @property
    def is_old(self) -> bool:
        """Whether it must not be moved on any more."""
        return not self.age_s <= self.latest_s

    @property
    def is_too_old(self) -> bool:
        """Whether it is so old that a robot is stopped."""
        return not self.age_s <= TOO_OLD * self.latest_s

    @property
    def is_ahead(self) -> bool:
        """Whether its stamp lies further ahead of our clock than a delay could make up for."""
        return -self.behind_s > AHEAD * self.latest_s

    @property
    def is_clock(self) -> bool:
        """Whether clocks differ: messages keep coming, and their stamps are old, or ahead."""
        return self.is_ahead or (self.is_steady and self.silent_s <= self.latest_s < self.behind_s)

    @property
    def sentence(self) -> str:
        """What is wrong with it."""
        if abs(self.behind_s) > OTHER_TIME_S:
            return (
                f"the stamps on {self.topic} are {-self.behind_s:+.3g} s from our clock, and so no wall clock's: in "
                "another unit than seconds, or counted from a start (use_sim_time)"
            )
        if self.is_ahead:
            return f"the clock that stamps {self.topic} is {-self.behind_s:.3f} s ahead of ours: run chrony on both"
        if self.is_clock:
            return (
                f"{self.noun}s keep coming on {self.topic}, with stamps that are {self.behind_s:.2f} s old: its clock "
                "is behind ours (run chrony on both), or the way is that slow"
            )
        again = ", and comes again and again with one stamp" if self.is_repeated else ""
        return f"the newest {self.noun} on {self.topic} is {self.age_s:.2f} s old{again}"


@dataclass
class Seen:
    """What a watch remembers of a topic, in s: its last stamp, and by `time.monotonic` when messages came."""

    stamp: float | None
    came: float  # the newest message
    changed: float  # the newest with another stamp
    since: float  # the first of those that came without a gap


class Watch:
    """Remembers of each topic what came, from look to look. `clock`: the wall clock that stamps are compared with."""

    def __init__(self, clock: Callable[[], float] = time.time, noun: str = "message"):
        self.clock, self.noun = clock, noun
        self.seen: dict[str, Seen] = {}

    def look(self, readings: Sequence[Reading], now: float) -> list[Age]:
        """How old each of the newest messages is at `now` (s, `time.monotonic`)."""
        return [self._age(reading, now) for reading in readings]

    def _age(self, reading: Reading, now: float) -> Age:
        seen = self._remember(reading)
        behind = 0.0 if reading.stamp is None else self.clock() - reading.stamp
        return Age(
            topic=reading.topic,
            latest_s=reading.latest_s,
            silent_s=now - seen.changed,
            behind_s=behind if math.isfinite(reading.latest_s) else 0.0,
            is_repeated=now - seen.came <= reading.latest_s < now - seen.changed,
            is_steady=seen.changed - seen.since >= reading.latest_s,
            noun=self.noun,
        )

    def _remember(self, reading: Reading) -> Seen:
        seen = self.seen.get(reading.topic)
        if seen is None:
            seen = self.seen[reading.topic] = Seen(reading.stamp, reading.t, reading.t, reading.t)
        is_new = reading.t != seen.changed if reading.stamp is None else reading.stamp != seen.stamp
        seen.came = reading.t
        if is_new:
            if reading.t - seen.changed > reading.latest_s:
                seen.since = reading.t
            seen.stamp, seen.changed = reading.stamp, reading.t
        return seen


def worst(ages: Sequence[Age]) -> Age | None:
    """Of those that must not be moved on the one that is the oldest for its limit, clocks first; None: all are new."""
    wrong = [age for age in ages if age.is_old or age.is_ahead]
    return max(wrong, key=lambda age: (age.is_too_old or age.is_ahead, age.age_s / age.latest_s), default=None)


def find_slow_topics(states: Sequence[State]) -> list[str]:
    """Of states that were observed for a second or so: a sentence for each topic that comes too seldom to move on."""
    came: dict[str, set[float]] = {}
    limits: dict[str, float] = {}
    for reading in (reading for state in states for reading in state.readings):
        came.setdefault(reading.topic, set()).add(reading.t)
        limits[reading.topic] = reading.latest_s
    moments = [t for times in came.values() for t in times if t >= states[0].t]
    seconds = max(moments, default=0.0) - min(moments, default=0.0)
    return [
        f"{len(times) - 1} messages on {topic} in {seconds:.1f} s, and {math.floor(seconds / limits[topic])} are needed"
        for topic, times in came.items()
        if math.isfinite(limits[topic]) and (len(times) - 1) * limits[topic] < seconds - limits[topic]
    ]


def describe_holds(before: Mapping[str, int], after: Mapping[str, int], cycles: int) -> str:
    """For want of what an arm was held in so many cycles, by a report's counts before and after; empty: it was not."""
    held = {key: n - before.get(key, 0) for key, n in after.items() if key.split(":")[0] == "held"}
    causes = [f"{n} {describe_cause(key)}" for key, n in sorted(held.items(), key=lambda p: -p[1]) if ":" in key and n]
    return f"held in {held['held']} of {cycles} cycles, {', '.join(causes)}" if held.get("held") else ""


def describe_cause(key: str) -> str:
    """What a count of holds is of, in words."""
    cause = key.split(":", 1)[1]
    return "for want of a command's echo" if cause == "echo" else f"for want of a new message on {cause}"


def explain_no_way(before: Mapping[str, int], after: Mapping[str, int], cycles: int) -> str:
    """Why an arm did not come to a pose in so many cycles, by a report's counts before and after."""
    holds = describe_holds(before, after, cycles)
    changed = {name: after.get(name, 0) - before.get(name, 0) for name in ("joint_limit", "workspace", "collision")}
    blocks = ", ".join(f"{name} {n}" for name, n in changed.items() if n)
    blocked = f"the way is blocked{f' ({blocks})' if blocks else ''}; move the arm nearer by hand"
    if not holds:
        return blocked
    return f"the arm was {holds}" + (f"; {blocked}" if blocks else ": look at the link and the robot's publishers")
