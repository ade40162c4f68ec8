"""The arm as data, against closed forms; the tasks: limits kept under any action, experts that succeed, styles."""

import math
from itertools import product

import numpy as np
import pytest
import yaml

from pbrl.types import UserError
from robots import arm
from robots.actions import SPEED_SHARE, STEP_M
from sim.tabletop import TASKS, Tabletop
from tests.parts import config

FRANKA = [
    (0, 0, 0.333),
    (0, -90, 0),
    (0, 90, 0.316),
    (0.0825, 90, 0),
    (-0.0825, -90, 0.384),
    (0, 90, 0),
    (0.088, 90, 0),
]
FRANKA_TOOL = 0.107 + 0.1034  # m, from joint 7 to between the finger tips
UR5 = [  # a, alpha, d of the classic convention, by Universal Robots ("DH parameters for calculations of kinematics")
    (0, 90, 0.089159), (-0.425, 0, 0), (-0.39225, 0, 0), (0, 90, 0.10915), (0, -90, 0.09465), (0, 0, 0.0823),
]  # fmt: skip
UR5_BASE, UR5_TOOL = 0.2, 0.15  # m, of the stand; from the flange to between the finger tips


RIGID = tuple(task for task in TASKS if task not in ("rope", "cloth"))  # see test_deformable.py for the others


def make_env(task: str, **changes) -> Tabletop:
    return Tabletop(
        task, **{"robot": "panda", "control": "cartesian", "horizon": 160, "style": {}, "preference": {}, **changes}
    )


def modified_dh(a: float, alpha: float, d: float, theta: float) -> np.ndarray:
    """Craig's convention: a and alpha of the link before, then theta and d of the joint. 4 x 4."""
    ca, sa, ct, st = np.cos(np.radians(alpha)), np.sin(np.radians(alpha)), np.cos(theta), np.sin(theta)
    return np.array([[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]])


def classic_dh(a: float, alpha: float, d: float, theta: float) -> np.ndarray:
    """Denavit and Hartenberg's own: theta and d, then a and alpha. 4 x 4."""
    ca, sa, ct, st = np.cos(np.radians(alpha)), np.sin(np.radians(alpha)), np.cos(theta), np.sin(theta)
    return np.array([[ct, -st * ca, st * sa, a * ct], [st, ct * ca, -ct * sa, a * st], [0, sa, ca, d], [0, 0, 0, 1]])


def along_z(distance: float, turn_deg: float = 0.0) -> np.ndarray:
    return modified_dh(0, 0, distance, math.radians(turn_deg))


def closed_form(name: str, q: np.ndarray) -> np.ndarray:
    """Forward kinematics from the manufacturer's table of Denavit-Hartenberg parameters: a 4 x 4 matrix."""
    if name == "ur5":  # the URDF's base is turned by half a turn against the table's
        chain = [along_z(UR5_BASE, 180), *(classic_dh(*row, theta) for row, theta in zip(UR5, q, strict=True))]
        return np.linalg.multi_dot([*chain, along_z(UR5_TOOL)])
    chain = [modified_dh(*row, theta) for row, theta in zip(FRANKA, q, strict=True)]
    return np.linalg.multi_dot([*chain, along_z(FRANKA_TOOL, -45)])


@pytest.fixture(params=arm.NAMES)
def robot(request):
    return arm.load(request.param)


def anywhere(robot, n: int) -> np.ndarray:
    limits = robot.limits
    return np.random.default_rng(0).uniform(limits.position_min, limits.position_max, (n, robot.dof))


def test_where_the_hand_is(robot):
    for q in anywhere(robot, 50):
        position, rotation = robot.kinematics.pose(q)
        np.testing.assert_allclose(position, closed_form(robot.name, q)[:3, 3], atol=1e-6)
        np.testing.assert_allclose(rotation, closed_form(robot.name, q)[:3, :3], atol=1e-6)
    ready, _ = arm.load("panda").kinematics.pose(arm.load("panda").home)
    np.testing.assert_allclose(ready, [0.306891, 0, 0.486882], atol=1e-4)  # as the arm itself reports


def test_how_the_hand_moves(robot):
    for q in anywhere(robot, 10):
        jacobian, step = robot.kinematics.jacobian(q), 1e-6
        for i in range(robot.dof):
            ahead, behind = (closed_form(robot.name, q + sign * step * np.eye(robot.dof)[i]) for sign in (1, -1))
            np.testing.assert_allclose(jacobian[:3, i], (ahead - behind)[:3, 3] / (2 * step), atol=1e-5)
            spin = (ahead - behind)[:3, :3] / (2 * step) @ closed_form(robot.name, q)[:3, :3].T
            np.testing.assert_allclose(jacobian[3:, i], [spin[2, 1], spin[0, 2], spin[1, 0]], atol=1e-5)


def test_joints_for_a_pose(robot):
    limits, found = robot.limits, 0
    for q in robot.home + np.random.default_rng(1).uniform(-0.4, 0.4, (10, robot.dof)):
        q = np.clip(q, limits.position_min + 0.05, limits.position_max - 0.05)
        position, rotation = robot.kinematics.pose(q)
        joints = robot.kinematics.inverse(position, rotation, robot.home)
        np.testing.assert_allclose(closed_form(robot.name, joints)[:3, 3], position, atol=1e-3)
        assert (joints >= limits.position_min - 1e-6).all() and (joints <= limits.position_max + 1e-6).all()
        found += 1
    assert found == 10
    with pytest.raises(UserError, match="does not reach"):
        robot.kinematics.inverse(np.array([2.0, 0, 0]), rotation, robot.home)


def test_arms_differ_in_both_directions():
    panda, fr3 = arm.load("panda").limits, arm.load("fr3").limits
    assert panda.position_min[5] < fr3.position_min[5] - 0.5 and panda.position_max[5] < fr3.position_max[5]
    for name in arm.NAMES:
        robot = arm.load(name)
        limits = robot.limits
        assert (limits.position_min < robot.home).all() and (robot.home < limits.position_max).all()
        assert all(len(getattr(limits, part)) == robot.dof and (getattr(limits, part) > 0).all()
                   for part in ("velocity", "acceleration", "jerk", "torque"))  # fmt: skip
    assert [arm.load(name).dof for name in ("fr3", "panda", "ur5")] == [7, 7, 6]
    with pytest.raises(UserError, match="fr3, panda, ur5"):
        arm.load("r2d2")


@pytest.mark.parametrize("control", ["cartesian", "joint"])
@pytest.mark.parametrize("name", arm.NAMES)
def test_an_arm_keeps_its_limits_under_any_action(control, name):
    """Commands over a whole range of wild actions: joints, their speeds, the workspace."""
    env = make_env("lift", control=control, robot=name, horizon=1000)
    limits, random = env.arm.limits, np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        action = np.zeros(env.action_space.shape)
        for t in range(120):
            if t % 10 == 0:
                action = random.choice([-1, 1], action.shape) * random.uniform(0, 5, action.shape)
            before = env.joint_targets.copy()
            env.step(action)
            after = env.joint_targets
            assert (after >= limits.position_min).all() and (after <= limits.position_max).all()
            assert (np.abs(after - before) <= SPEED_SHARE * limits.velocity * 0.05 + 1e-9).all()
            if control == "cartesian":
                there, was = env.actions.kinematics.pose(after)[0], env.actions.kinematics.pose(before)[0]
                assert np.linalg.norm(there - was) <= STEP_M * 3**0.5 + 2e-3
                assert (there > env.arm.workspace[0] - 0.03).all() and (there < env.arm.workspace[1] + 0.03).all()


def play(env: Tabletop, seeds: range) -> tuple[list[bool], list[list[dict]]]:
    """Whether the expert had success at the end of each episode, and the infos of all steps."""
    ends, infos = [], []
    for seed in seeds:
        env.reset(seed=seed)
        expert, steps = env.expert(), []
        for _ in range(env.horizon):
            steps.append({**env.step(expert.act(env.full_obs))[4], "obs": env.full_obs})
        ends.append(steps[-1]["success"])
        infos.append(steps)
    return ends, infos


def test_a_reach_by_six_joints():
    ends, _ = play(make_env("reach", robot="ur5"), range(10))
    assert all(ends)


@pytest.mark.slow
@pytest.mark.parametrize("name, task", [*product(("panda",), RIGID), *product(("ur5",), ("reach", "lift", "place"))])
def test_experts_succeed(name, task):
    ends, infos = play(make_env(task, robot=name), range(10))
    assert np.mean(ends) >= 0.95
    assert not any(step["collisions"] for steps in infos for step in steps)


def test_styles_differ_visibly():
    over, around = (play(make_env("place", style={"around": way}), range(2)) for way in (0.0, 1.0))
    assert all(over[0]) and all(around[0])
    highest = [[max(step["height"] for step in steps[40:120]) for steps in infos] for _, infos in (over, around)]
    assert min(highest[0]) > 0.2 > max(highest[1])
    both, each = (play(make_env("group", style={"together": way}, horizon=250), range(2)) for way in (1.0, 0.0))
    apart = [
        [max(abs(step["obs"][7] - step["obs"][14]) for step in steps) for steps in infos] for _, infos in (both, each)
    ]
    assert max(apart[0]) < 0.05 < min(apart[1])
    slow, fast = (play(make_env("reach", style={"speed": s}), range(2))[1] for s in (0.4, 1.0))
    assert max(step["speed"] for steps in slow for step in steps) < 0.7 * max(
        step["speed"] for steps in fast for step in steps
    )


def test_a_touched_glass_is_counted():
    env = make_env("place")
    env.reset(seed=0)
    touched = 0.0
    for _ in range(60):  # straight at it
        target = np.array([0.5, 0.0, 0.06]) if env.full_obs[2] < 0.1 else np.array([0.5, -0.2, 0.06])
        action = np.append(np.clip(20 * (target - env.full_obs[:3]), -1, 1), 1.0)
        touched = max(touched, env.step(action)[4]["collisions"])
    assert touched > 0


def test_invalid_settings_are_refused():
    for changes, sentence in (({"control": "torque"}, "or joint"), ({"style": {"zeal": 1}}, "no zeal"),
                              ({"style": {"speed": 2}}, "speed lies in"), ({"horizon": 0}, "at least 1")):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            make_env("lift", **changes)
    with pytest.raises(UserError, match="move the tool"):
        make_env("lift", control="joint").expert()


@pytest.mark.parametrize("group, task", product(("franka", "tabletop"), TASKS))
def test_every_task_is_a_flag(group, task):
    found = config(f"env={group}/{task}", "env.robot=ur5")["env"]
    assert found["task"] == task and found["robot"] == "ur5" and found["_target_"] == "sim.tabletop.Tabletop"


def test_missing_parts_of_an_arm_are_reported(tmp_path, monkeypatch):
    found = yaml.safe_load((arm.HERE / "ur5" / "arm.yaml").read_text())
    monkeypatch.setattr(arm, "HERE", tmp_path)
    (tmp_path / "ur5").mkdir()
    for change, sentence in (({"home": [0.0] * 7}, "home needs one number for each of the 6 joints"),
                             ({"limits": {**found["limits"], "jerk": [1.0]}}, "jerk needs one number"),
                             ({"wings": 2}, "wings")):  # fmt: skip
        (tmp_path / "ur5" / "arm.yaml").write_text(yaml.safe_dump({**found, **change}))
        with pytest.raises(UserError, match=sentence):
            arm.load("ur5")
    missing = {**found, "model": {**found["model"], "package": "no-such-package"}}
    (tmp_path / "ur5" / "arm.yaml").write_text(yaml.safe_dump(missing))
    with pytest.raises(UserError, match="pip install no-such-package"):
        arm.load("ur5").kinematics.pose(np.zeros(6))


@pytest.mark.parametrize("task", TASKS)
def test_tasks_have_instructions(task):
    env = Tabletop(task, robot="panda", control="cartesian", horizon=5, style={}, preference={})
    _, info = env.reset(seed=0)
    assert info["instruction"] == env.instruction and env.instruction.split()[0] in (
        "move",
        "lift",
        "push",
        "put",
        "straighten",
        "fold",
    )
