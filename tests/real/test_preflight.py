"""Descriptions of other robots, and broken ones: refused in words that name the joint."""

import pytest

from real.preflight import check_limits
from tests.real.memory import MemoryRobot

JOINT = '<joint name="panda_joint{}"><limit lower="-1" upper="1"/></joint>'


@pytest.mark.parametrize("text, words", [
    ("<robot/>", "has no joint panda_joint1, panda_joint2"),
    (f"<robot>{''.join(map(JOINT.format, range(1, 7)))}</robot>", "has no joint panda_joint7"),
    ("<robot>" + 7 * '<joint name="panda_joint1"/>' + "</robot>", "has no joint panda_joint2"),
    (f"<robot>{''.join(map(JOINT.format, range(1, 7)))}<joint name='panda_joint7'/></robot>", "panda_joint7 no limits"),
    (f"<robot>{''.join(map(JOINT.format, range(1, 8))).replace('lower', 'effort')}</robot>", "panda_joint1 no limits"),
    (f"<robot>{''.join(map(JOINT.format, range(1, 8))).replace('-1', 'low')}</robot>", "panda_joint1 no limits"),
    (f"<robot>{''.join(map(JOINT.format, range(1, 8)))}</robot>", "differ from the robot's: panda_joint1: [-1.0, 1.0]"),
    ("", "cannot be read as a URDF"), ("<robot>", "cannot be read as a URDF"),
])  # fmt: skip
def test_a_description_that_is_not_this_arms_is_refused_in_words(text, words):
    robot = MemoryRobot()
    robot.driver.description = lambda: text
    check = check_limits(robot.driver)
    assert check.passed is False and words in str(check) and "Error(" not in str(check)
