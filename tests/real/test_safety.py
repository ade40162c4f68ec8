"""Under any target the commands to an arm keep its limits, can be stopped, and report changes."""

import math

import numpy as np
import pytest

from pbrl.types import UserError
from real.robot import Motion
from real.safety import REASONS, SafetyFilter, SafetySettings
from robots import arm

DT = 0.01


@pytest.fixture(params=arm.NAMES)
def safe(request) -> SafetyFilter:
    return SafetyFilter(arm.load(request.param))


def wild(random: np.random.Generator, q: np.ndarray) -> np.ndarray | None:
    """A target as a broken policy has it."""
    kind = random.integers(8)
    if kind == 0:
        return np.full(len(q), random.choice([np.nan, np.inf, -np.inf, 1e308]))
    if kind == 1:
        return random.normal(size=random.integers(0, 12))
    if kind == 2:
        return q + random.normal(size=len(q)) * 10 ** random.uniform(-6, 6)
    if kind == 3:
        return random.uniform(-4, 4, len(q))
    return None if kind == 4 else q + random.uniform(-0.5, 0.5, len(q))


def drive(safe: SafetyFilter, n: int, seed: int = 0) -> list[tuple[Motion, float]]:
    """What is sent over n wild targets, each held for a while, at times that jitter."""
    random = np.random.default_rng(seed)
    last, sent = Motion.at_rest(safe.arm.home), []
    target = None
    for i in range(n):
        if i % 7 == 0:
            target = wild(random, last.q)
        dt = DT * random.choice([0.0, 0.5, 1.0, 1.0, 3.0])
        last = safe(target, last, dt, expired=random.random() < 0.01, force=40.0 * (random.random() < 0.01)).motion
        sent.append((last, dt))
    return sent


def check(safe: SafetyFilter, sent: list[tuple[Motion, float]]) -> None:
    limits, before = safe.arm.limits, Motion.at_rest(safe.arm.home)
    low, high = safe.workspace
    for motion, dt in sent:
        assert np.isfinite(np.concatenate(motion)).all()
        assert (motion.q >= limits.position_min).all() and (motion.q <= limits.position_max).all()
        assert (np.abs(motion.dq) <= safe.speed * (1 + 1e-6)).all()
        assert (np.abs(motion.ddq) <= safe.acceleration * (1 + 1e-6)).all()
        assert (np.abs(motion.q - before.q) <= safe.speed * dt + 1e-9).all(), "no jump, across seams neither"
        assert (np.abs(motion.dq - before.dq) <= safe.acceleration * dt + 1e-9).all()
        assert (np.abs(motion.ddq - before.ddq) <= safe.jerk * dt + 1e-6).all()
        where, _ = safe.arm.kinematics.pose(motion.q)
        assert (where >= np.array(low) - 1e-9).all() and (where <= np.array(high) + 1e-9).all()
        assert safe.violation(motion.q) is None, "neither the table nor itself"
        before = motion


def test_wild_targets_keep_every_limit(safe):
    check(safe, drive(safe, 4000))
    assert all(safe.count[reason] for reason in ("not_finite", "expired", "joint_limit", "step", "workspace", "force"))


@pytest.mark.slow
def test_many_wild_targets_keep_every_limit():
    for seed in range(5):
        safe = SafetyFilter(arm.load("panda"))
        check(safe, drive(safe, 8_000, seed))


def test_it_comes_to_rest_where_it_may_be(safe):
    sent = drive(safe, 500)
    for start, _ in sent[::50]:
        motion = start
        for _ in range(400):
            motion = safe(None, motion, DT).motion
        assert np.abs(motion.dq).max() < 1e-9 and np.abs(motion.ddq).max() < 1e-9
        assert safe.violation(motion.q) is None
        np.testing.assert_array_equal(safe(None, motion, DT).motion.q, motion.q)


def test_a_good_target_is_followed_and_not_touched(safe):
    target, last = safe.arm.home + 0.1, Motion.at_rest(safe.arm.home)
    for _ in range(300):
        last, why = safe(target, last, DT)
        assert why == ()
    np.testing.assert_allclose(last.q, target, atol=1e-6)
    assert not safe.count


def test_it_starts_from_what_was_commanded_not_from_what_is_measured(safe):
    moving = Motion(safe.arm.home, 0.5 * safe.speed, np.zeros(safe.arm.dof))
    after = safe(safe.arm.home + 0.2, moving, DT).motion
    np.testing.assert_allclose(after.q, safe.arm.home + 0.5 * safe.speed * DT, atol=2e-3)
    assert (after.q > safe.arm.home).all()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"target": np.full(7, np.nan)}, "not_finite"), ({"target": np.zeros(6)}, "not_finite"), ({"dt": 5.0}, "late"),
        ({"expired": True}, "expired"), ({"dt": math.nan}, "late"), ({"dt": -1.0}, "late"), ({"force": 30.0}, "force"),
        ({"force": math.nan}, "force"), ({"target": 9.0}, "joint_limit"), ({"target": 0.4}, "step"),
    ],
)  # fmt: skip
def test_changes_are_reported(changed, reason):
    safe = SafetyFilter(arm.load("panda"))
    given = {"target": 0.05, "dt": DT, "expired": False, "force": 0.0} | changed
    if isinstance(given["target"], float):
        given["target"] = safe.arm.home + given["target"]
    sent = safe(last=Motion.at_rest(safe.arm.home), **given)
    assert reason in sent.reasons and set(sent.reasons) <= set(REASONS) and safe.count[reason] == 1
    if reason in ("not_finite", "expired", "force"):
        np.testing.assert_array_equal(sent.motion.q, safe.arm.home)


def test_a_motion_that_was_never_sent_is_named():
    safe = SafetyFilter(arm.load("panda"))
    for odd in (np.full(7, np.nan), np.full(7, np.inf)):
        sent = safe(safe.arm.home, Motion(safe.arm.home, odd, np.zeros(7)), DT)
        assert sent.reasons == ("no_plan",) and np.array_equal(sent.motion.q, safe.arm.home)


def test_neither_the_table_nor_itself_is_touched():
    safe = SafetyFilter(
        arm.load("panda"), SafetySettings(workspace=((-2, -2, -2), (2, 2, 2)), step=3.0, speed=1, acceleration=1)
    )
    down = safe.arm.kinematics.inverse(
        np.array([0.5, 0, 0.001]), safe.arm.kinematics.pose(safe.arm.home)[1], safe.arm.home
    )
    folded = np.array([0, 1.6, 0, -3.0, 0, 0.1, 0])
    for target in (down, folded):
        last, why = Motion.at_rest(safe.arm.home), ()
        for _ in range(300):
            last, said = safe(target, last, DT)
            why += said
            assert safe.violation(last.q) is None
        assert "collision" in why
    assert safe.violation(down) == safe.violation(folded) == "collision" and safe.violation(safe.arm.home) is None


def test_the_wrong_arms_limits_are_wrong():
    """A target that a Panda may have is cut on a Research 3."""
    target = arm.load("panda").home.copy()
    target[5] = 0.6
    assert arm.load("panda").limits.position_min[5] < target[5] < arm.load("fr3").limits.position_min[5]
    safe = SafetyFilter(arm.load("fr3"), SafetySettings(step=2.0))
    assert "joint_limit" in safe(target, Motion.at_rest(safe.arm.home), DT).reasons


def limits(arm_, **joints):
    """[J, 2] rad of a description that differs from an arm's own in the joints given."""
    found = np.stack([arm_.limits.position_min, arm_.limits.position_max], axis=1)
    for name, pair in joints.items():
        found[int(name.removeprefix("j")) - 1] = pair
    return found


def test_a_research_3_may_describe_itself_by_either_documented_set():
    """The rectangular one, and the wider one, within which the speed that is allowed depends on the position."""
    fr3 = arm.load("fr3")
    wide = np.array([[-2.7437, 2.7437], [-1.7837, 1.7837], [-2.9007, 2.9007], [-3.0421, -0.1518], [-2.8065, 2.8065],
                     [0.5445, 4.5169], [-3.0159, 3.0159]])  # fmt: skip
    assert fr3.explain_limits(limits(fr3)) == fr3.explain_limits(wide) == ""
    assert (wide[:, 0] <= fr3.limits.position_min).all() and (wide[:, 1] >= fr3.limits.position_max).all()
    between = fr3.explain_limits(limits(fr3, j1=(-2.5, 2.5)))
    assert "fr3_joint1: [-2.5, 2.5] there, [-2.3093, 2.3093] here" in between and "no documented set" in between
    assert "fr3_joint6 may go less far there" in fr3.explain_limits(limits(fr3, j6=(0.9, 4.5)))
    panda = arm.load("panda")
    assert "panda_joint6" in panda.explain_limits(limits(panda, j6=(0.5445, 4.5169)))
    assert panda.explain_limits(limits(panda, j2=(-1.7625, 1.7631))) == "", "rounded"


def test_invalid_settings():
    for wrong in ({"speed": 0}, {"jerk": 2}, {"joint_margin": -1}, {"latest": 0}):
        with pytest.raises(UserError, match="safety"):
            SafetySettings(**wrong)
