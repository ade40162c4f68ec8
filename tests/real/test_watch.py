"""How old a topic's messages are, by hand: silent, repeated, with clocks that are set back or ahead, without stamps."""

import math

import numpy as np
import pytest

from real.robot import Reading, State
from real.watch import Watch, explain_no_way, find_slow_topics, worst

PERIOD = 0.02


class Topic:
    """A topic that a watch looks at every 20 ms; `now` is ours, and the robot's clock `offset` s ahead of it."""

    def __init__(self, latest_s: float = 0.1):
        self.now, self.offset, self.latest_s, self.stamped = 100.0, 0.0, latest_s, True
        self.watch, self.last = Watch(lambda: self.now), Reading("/goal", None, 100.0, latest_s)

    def go(self, seconds, speaks=True, repeats=False):
        """The age after so long."""
        age = None
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            if repeats:
                self.last = self.last._replace(t=self.now)
            elif speaks:
                self.last = Reading("/goal", self.now + self.offset if self.stamped else None, self.now, self.latest_s)
            (age,) = self.watch.look([self.last], self.now)
        assert age is not None
        return age


@pytest.mark.parametrize("stamped", [True, False])
def test_a_silent_topic_is_held_for_and_then_too_old(stamped):
    topic = Topic()
    topic.stamped = stamped
    assert not topic.go(0.2).is_old
    age = topic.go(0.1, speaks=False)
    assert age.age_s == pytest.approx(0.1) and worst([age._replace(latest_s=0.11)]) is None
    age = topic.go(0.02, speaks=False)
    assert age.is_old and not age.is_too_old and not age.is_clock and worst([age]) is age
    assert age.sentence == "the newest message on /goal is 0.12 s old"
    assert topic.go(0.42, speaks=False).is_too_old


def test_a_topic_that_repeats_one_message_is_named_so():
    topic = Topic()
    topic.go(0.2)
    age = topic.go(0.2, repeats=True)
    assert age.age_s == pytest.approx(0.2) and not age.is_clock
    assert age.sentence == "the newest message on /goal is 0.20 s old, and comes again and again with one stamp"


@pytest.mark.parametrize("offset, old, too_old, clock", [
    (-0.05, False, False, False), (-0.3, True, False, True), (-2.0, True, True, True), (0.04, False, False, False),
    (0.06, False, False, True), (3600.0, False, False, True),
])  # fmt: skip
def test_a_clock_that_is_set_is_a_clock_s_fault(offset, old, too_old, clock):
    topic = Topic()
    topic.go(0.3)
    topic.offset = offset
    age = topic.go(PERIOD)
    assert (age.is_old, age.is_too_old, age.is_clock) == (old, too_old, clock)
    assert ("clock" in age.sentence) == clock and (worst([age]) is age) == clock
    assert f"{abs(offset):.2f}" in age.sentence or not clock


def test_messages_that_come_in_a_burst_after_silence_are_old_and_no_clock_s_fault():
    topic = Topic()
    topic.go(0.3)
    topic.go(0.4, speaks=False)
    topic.offset = -0.3  # sent a while ago
    assert topic.go(PERIOD).is_old and not topic.go(PERIOD).is_clock
    assert topic.go(0.12).is_clock, "but if they keep coming so, it is"


def test_what_is_published_when_it_changes_is_never_old():
    topic = Topic(math.inf)
    topic.go(0.1)
    topic.offset = -5.0
    age = topic.go(600.0 * PERIOD, speaks=False)
    assert not (age.is_old or age.is_clock) and worst([age]) is None


def test_the_worst_is_the_oldest_for_its_own_limit():
    watch = Watch(lambda: 10.0)
    readings = [Reading("/a", 9.8, 9.8, 0.1), Reading("/b", 9.3, 9.3, 0.5), Reading("/c", None, 9.99, 0.1)]
    ages = watch.look(readings, 10.0)
    found = worst(ages)
    assert found is not None and found.topic == "/a", "twice its limit; /b is 1.4 times"
    found = worst([*ages, Watch(lambda: 10.0).look([Reading("/d", 10.2, 10.0, 0.1)], 10.0)[0]])
    assert found is not None and found.topic == "/d", "a clock that is ahead stops at once"


def observed(period_s, limit_s=0.5):
    """States of a second, whose goal came every `period_s`."""

    def state(now):
        goal_t = now // period_s * period_s
        readings = (Reading("/joint_states", now, now, 0.1), Reading("/goal", None, goal_t, limit_s))
        zero = np.zeros(7)
        return State(zero, zero, 0.0, "move", 0.0, 1.0, np.zeros((0, 7)), np.zeros(3), now, now, readings)

    return [state(20 + i / 100) for i in range(101)]


@pytest.mark.parametrize("period, limit, words", [
    (0.033, 0.1, ""), (0.4, 0.5, ""), (0.03, math.inf, ""), (9.0, math.inf, ""),
    (0.25, 0.1, "4 messages on /goal in 1.0 s, and 10 are needed"),
    (9.0, 0.5, "0 messages on /goal in 1.0 s, and 2 are needed"),
])  # fmt: skip
def test_slow_topics_are_found_before_anything_moves(period, limit, words):
    assert find_slow_topics(observed(period, limit)) == ([words] if words else [])
    assert find_slow_topics([state._replace(readings=()) for state in observed(period, limit)]) == []


def test_why_a_pose_was_not_reached():
    before = {"held": 5, "held:echo": 5, "workspace": 1}
    after = {"held": 605, "held:echo": 585, "held:/goal": 20, "workspace": 1}
    why = explain_no_way(before, after, 1000)
    assert why.startswith(
        "the arm was held in 600 of 1000 cycles, 580 for want of a command's echo, 20 for want of a new"
    )
    assert "new message on /goal" in why and "blocked" not in why
    assert explain_no_way(before, {**before, "workspace": 41, "collision": 2}, 1000) == (
        "the way is blocked (workspace 40, collision 2); move the arm nearer by hand"
    )
    assert explain_no_way({}, {}, 10) == "the way is blocked; move the arm nearer by hand"


@pytest.mark.parametrize("stamp", [1e12, 5.0])
def test_stamps_of_another_unit_or_beginning_are_no_clock_to_be_set(stamp):
    watch = Watch(lambda: 1.7e9)
    (age,) = watch.look([Reading("/goal", stamp, 10.0, 0.5)], 10.0)
    assert worst([age]) is age and (age.is_ahead or age.is_too_old)
    assert age.sentence.startswith("the stamps on /goal are ") and "chrony" not in age.sentence
    assert "no wall clock's" in age.sentence and "use_sim_time" in age.sentence
