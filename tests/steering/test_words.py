"""Sentences to targets: changes, levels, ends and any; what is unknown, not learnt or ambiguous changes nothing."""

import pytest

from pbrl.steering.words import read_sentence
from pbrl.types import UserError

LEGGED = ("speed", "height", "stride", "contact", "gentleness")  # of sim/attributes.py
PRESENT = {"speed": 0.5, "height": 0.3, "contact": 0.8}


@pytest.mark.parametrize(
    "sentence,changes",
    [
        # a change, from what is asked for, or from the middle
        ("slower but higher", {"speed": 0.3, "height": 0.5}),
        ("Walk much faster!", {"speed": 0.9}),
        ("walk slower but lift your feet", {"speed": 0.3, "contact": 0.6}),
        ("pick up your feet", {"contact": 0.6}),
        ("keep your feet on the ground", {"contact": 1.0}),
        ("a bit gentler", {"gentleness": 0.6}),
        ("more gently, please", {"gentleness": 0.7}),
        ("less jerky", {"gentleness": 0.7}),
        ("a lot less speed", {"speed": 0.1}),
        ("slow down a little and crouch", {"speed": 0.4, "height": 0.1}),
        ("take slightly longer steps", {"stride": 0.6}),
        ("lower the speed", {"speed": 0.3}),
        ("lower", {"height": 0.1}),
        ("increase speed and height", {"speed": 0.7, "height": 0.5}),
        ("faster by 0.1", {"speed": 0.6}),
        ("reduce height by 10%", {"height": 0.2}),
        ("reduce the speed to 0.3", {"speed": 0.3}),
        ("it's too fast", {"speed": 0.3}),
        ("a bit too fast", {"speed": 0.4}),
        ("not so fast", {"speed": 0.3}),
        ("not quite so slow; more smoothly", {"speed": 0.7, "gentleness": 0.7}),
        ("much lower", {"height": 0.0}),  # no further than there are data
        # a level or an end
        ("walk fast", {"speed": 0.8}),
        ("very slowly", {"speed": 0.1}),
        ("as gentle as possible", {"gentleness": 1.0}),
        ("as slow and gentle as you can", {"speed": 0.0, "gentleness": 1.0}),
        ("the fastest", {"speed": 1.0}),
        ("maximum height with minimal speed", {"height": 1.0, "speed": 0.0}),
        ("full speed, half height", {"speed": 1.0, "height": 0.5}),
        ("slow down to a medium speed", {"speed": 0.5}),
        ("speed: 0.25, height=0.7", {"speed": 0.25, "height": 0.7}),
        ("speed 0.25, height to 70 percent", {"speed": 0.25, "height": 0.7}),
        ("feet 0.25", {"contact": 0.75}),  # off the ground
        ("high speed", {"speed": 0.8}),
        # any, and as it is
        ("a bit slower and don't care about height", {"speed": 0.4, "height": None}),
        ("any speed or height", {"speed": None, "height": None}),
        ("the same speed, higher", {"speed": 0.5, "height": 0.5}),
    ],
)
def test_a_sentence_changes_targets(sentence, changes):
    assert read_sentence(sentence, LEGGED, PRESENT) == pytest.approx(changes)


@pytest.mark.parametrize(
    "attributes,sentence,changes",
    [
        (["fast", "calmer"], "slower but much calmer", {"fast": 0.3, "calmer": 0.9}),
        (["slow"], "faster", {"slow": 0.3}),
        (["slow"], "as fast as possible", {"slow": 0.0}),
        (["tail_wagging"], "more tail wagging", {"tail_wagging": 0.7}),
        (["clearance", "spread"], "keep away, and gather", {"clearance": 0.7, "spread": 0.3}),
    ],
)
def test_attributes_have_names_of_people_s_own(attributes, sentence, changes):
    assert read_sentence(sentence, attributes, {}) == pytest.approx(changes)


@pytest.mark.parametrize(
    "sentence,said",
    [
        ("slower unless it rains", '"unless", "rains": not understood. It understands words for speed .fast, slow.'),
        ("gentler", '"gentler" is about gentleness, which this planner has not learnt: it knows speed, height'),
        ("faster but slower", "speaks of speed twice"),
        ("faster higher", "speaks of speed and height at once: put a comma"),
        ("bigger", '"bigger": of what'),
        ("speed", "more or less of speed"),
        ("increase the lower speed", "It says both"),
        ("more speed, and height by 0.2", "by that, or to that"),
        ("0.3 faster", "by that, or to that"),
        ("faster than 0.3", "by that, or to that"),
        ("reduce the speed by half", "by that, or to that"),
        ("faster by 7", "from 0 to 1"),
        ("not speed 0.3", "say what is wanted"),
        ("a bit fast", "Compare, as in"),
        ("not faster", "say what is wanted"),
        ("speed 7", "from 0 to 1"),
        ("speed -0.2", '"-": not understood'),
        ("", "asks for nothing"),
        ("please walk", "asks for nothing"),
    ],
)
def test_what_is_not_clear_changes_nothing(sentence, said):
    with pytest.raises(UserError, match=said):
        read_sentence(sentence, ["speed", "height"], PRESENT)


def test_two_attributes_of_one_meaning_are_told_apart_by_hand():
    with pytest.raises(UserError, match="may be about speed or fast"):
        read_sentence("slower", ["speed", "fast"], {})
