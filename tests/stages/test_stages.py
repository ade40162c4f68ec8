"""Stage descriptions: what they may say, and what episodes cost by them."""

import math

import numpy as np
import pytest

from pbrl.data.rollout import make_environment
from pbrl.stages.costs import measure_cost, parts_of, score_stages
from pbrl.stages.description import Cost, Stage, keypoints_of, load_stages, parse_stages
from pbrl.types import UserError
from sim.multitask import SETS
from tests.parts import config

HZ = 10.0
T = 20


def line(begin, end, steps: int = T) -> np.ndarray:
    """A straight way [T+1, 3] at constant speed."""
    return np.linspace(begin, end, steps + 1)


KEYPOINTS = {
    "hand": line([0, 0, 0.1], [1, 0, 0.1]),  # 1 m in 2 s
    "puck": np.tile([0.5, 0, 0.1], (T + 1, 1)),
    "high": line([0, 0, 0.0], [0, 0, 1.0]),
    "goal": np.tile([1.0, 0, 0.1], (T + 1, 1)),
}


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (Cost("distance", ("hand", "goal")), 0.0),
        (Cost("distance", ("puck", "goal")), 1.0),  # of all that there was
        (Cost("distance", ("hand", "puck")), 0.0),  # it went past
        (Cost("speed", ("hand",), 0.4), 1.0),  # 0.5 m/s throughout
        (Cost("speed", ("hand",), 0.6), 0.0),
        (Cost("height", ("high",), 0.49), 11 / 21),  # rows of 0.5 to 1
        (Cost("height", ("high",), 0.49, is_above=False), 10 / 21),
        (Cost("collision", ("hand", "puck"), 0.12), 5 / 21),  # 0.4 to 0.6
        (Cost("contact", ("hand", "puck"), 0.12), 16 / 21),
        (Cost("path", ("hand",)), 0.0),
        (Cost("path", ("puck",)), 0.0),  # it did not move
    ],
    ids=str,
)
def test_costs_are_what_they_say(cost, expected):
    assert measure_cost(cost, KEYPOINTS, HZ) == pytest.approx(expected, abs=1e-9)


def test_a_way_there_and_half_back_costs_what_it_is_longer():
    there = np.concatenate([line([0, 0, 0], [1, 0, 0], 10), line([1, 0, 0], [0.5, 0, 0], 10)[1:]])
    assert measure_cost(Cost("path", ("hand",)), {"hand": there}, HZ) == pytest.approx(1.5 / 0.5 - 1)


def test_seen_from_above_heights_do_not_count():
    points = {"hand": line([0, 0, 1], [0, 0, 2]), "glass": np.zeros((T + 1, 3))}
    assert measure_cost(Cost("collision", ("hand", "glass"), 0.1), points, HZ) == 0
    assert measure_cost(Cost("collision", ("hand", "glass"), 0.1, flat=True), points, HZ) == 1


def stage_costs(*given) -> list[float]:
    return [part.cost for part in parts_of(*given)]


def test_stages_follow_each_other():
    """The first is done at step 10, where the hand comes to the puck; costs are of a stage's own steps."""
    first = Stage("approach", (Cost("height", ("high",), 0.44),), ("hand", "puck"), 0.01)
    second = Stage("carry", (Cost("height", ("high",), 0.44), Cost("distance", ("hand", "goal"), weight=2.0)))
    costs = stage_costs([first, second], KEYPOINTS, HZ)
    assert costs == pytest.approx([2 / 11, 1.0])  # rows 9 and 10 of 0 to 10; all of 10 to 20
    parts = parts_of([first, second], KEYPOINTS, HZ)
    assert [(part.begin, part.end, part.is_done) for part in parts] == [(0, 10, True), (10, 20, False)]
    assert score_stages([first, second], KEYPOINTS, HZ) == pytest.approx(math.exp(-2 / 11 - 1))
    tolerant = Stage("approach", (Cost("height", ("high",), 0.44, tolerance=0.1, weight=3.0),), ("hand", "puck"), 0.01)
    assert stage_costs([tolerant, second], KEYPOINTS, HZ)[0] == pytest.approx(3 * (2 / 11 - 0.1))


def test_a_stage_that_is_never_begun_costs_one_and_later_ones_too():
    never = Stage("approach", (), ("puck", "goal"), 0.01)
    costs = stage_costs([never, Stage("b", (), ("hand", "goal"), 0.01), Stage("c", ())], KEYPOINTS, HZ)
    assert costs == [0.0, 1.0, 1.0]


def test_every_stage_can_be_reached():
    """GRAPE's released code never comes to its third stage."""
    stages = [Stage("a", (), ("hand", "puck"), 0.01), Stage("b", (), ("hand", "goal"), 0.06), Stage("c", ())]
    assert stage_costs(stages, KEYPOINTS, HZ) == [0.0, 0.0, 0.0]


def test_keypoints_are_those_of_the_step_and_not_of_the_beginning():
    """GRAPE's released code takes objects to stay where they were: a puck that is carried shows the difference."""
    carried = {**KEYPOINTS, "puck": KEYPOINTS["hand"]}
    assert measure_cost(Cost("contact", ("hand", "puck"), 0.01), carried, HZ) == 0


DESCRIPTION = {"lift": [
    {"name": "approach", "done": {"between": ["hand", "puck"], "within": 0.02},
     "costs": [{"kind": "speed", "of": "hand", "above": 1}]},
    {"name": "lift", "costs": [{"kind": "height", "of": "puck", "below": 0.1, "weight": 2}]},
]}  # fmt: skip


def test_a_description_is_read():
    approach, lift = parse_stages(DESCRIPTION, "mine")["lift"]
    assert approach == Stage("approach", (Cost("speed", ("hand",), 1.0),), ("hand", "puck"), 0.02)
    assert lift == Stage("lift", (Cost("height", ("puck",), 0.1, is_above=False, weight=2.0),))
    assert keypoints_of([approach, lift]) == {"hand", "puck"}


def changed(stage: int, **changes):
    stages = [dict(one) for one in DESCRIPTION["lift"]]
    stages[stage] |= changes
    return {"lift": [{k: v for k, v in one.items() if v is not None} for one in stages]}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "a list of stages for each task"),
        ({"lift": []}, "a list of stages for each task"),
        (changed(0, done=None), "lift, stage 1: what ends it"),
        (changed(1, done={"between": ["a", "b"], "within": 1}), "stage 2: the last stage is over with the episode"),
        (changed(0, done={"between": ["a", "b"]}), "done has between, two keypoints, and within"),
        (changed(0, done={"between": ["a"], "within": 1}), r"as \[hand, puck\]"),
        (changed(0, done={"between": ["a", "b"], "within": -1}), "within=-1 is no number from 0 on"),
        (changed(0, done={"between": ["a", "b"], "within": float("nan")}), "within=nan is no number"),
        (changed(0, costs="fast"), "a stage has a name, costs"),
        (changed(0, cost=[]), "a stage has a name, costs"),
        (changed(0, costs=[{"kind": "beauty"}]), "a cost is of kind distance, .*not beauty"),
        (changed(0, costs=[{"kind": "speed", "of": "hand"}]), "a speed has above, of"),
        (changed(0, costs=[{"kind": "speed", "of": "hand", "above": 1, "flat": True}]), "a speed has"),
        (changed(0, costs=[{"kind": "height", "of": "a", "above": 1, "below": 2}]), "a height has of, above or below"),
        (changed(0, costs=[{"kind": "speed", "of": "hand", "above": True}]), "above=True is no number"),
    ],
)
def test_what_is_no_description_is_refused_with_its_place(found, message):
    with pytest.raises(UserError, match=message):
        parse_stages(found, "mine")


def test_files(tmp_path):
    (tmp_path / "own.yaml").write_text("lift:\n  - costs: [{kind: path, of: hand}]\n")
    assert load_stages(str(tmp_path / "own.yaml"))["lift"][0].costs[0].kind == "path"
    (tmp_path / "own.yaml").write_text("lift: [")
    with pytest.raises(UserError, match="is no yaml"):
        load_stages(str(tmp_path / "own.yaml"))
    with pytest.raises(UserError, match="there is no stage description nowhere .*or one of clutter, mt10"):
        load_stages("nowhere")


def test_unknown_keypoints_are_named():
    with pytest.raises(UserError, match="speak of cat, .*no such keypoint: it has hand, puck"):
        score_stages([Stage("a", (Cost("path", ("cat",)),))], KEYPOINTS, HZ)


@pytest.mark.parametrize(("env", "task", "tells"), [("multitask/mt10", task, 0.3) for task in SETS["mt10"]]
                         + [("franka/clutter", "clutter", 0.2)])  # fmt: skip
def test_experts_score_higher_than_standing_still(env, task, tells):
    """The descriptions that come with pbrl, on the tasks they are of; keypoints are what the simulator says."""
    made = make_environment(config(f"env={env}")["env"])
    stages = load_stages("mt10" if "mt10" in env else "clutter")[task]
    seed = SETS["mt10"].index(task) if "mt10" in env else 3
    scores = []
    for is_expert in (True, False):
        made.reset(seed=seed)
        assert made.task == task
        expert, states = made.expert(), [made.save_state()]
        done = False
        while not done:
            action = expert.act(made.full_obs) if is_expert else np.zeros(made.action_space.shape, np.float32)
            _, _, terminated, truncated, _ = made.step(action)
            done = terminated or truncated
            states.append(made.save_state())
        keypoints = made.keypoints(seed, np.stack(states))
        assert all(path.shape == (len(states), 3) and np.isfinite(path).all() for path in keypoints.values())
        scores.append(score_stages(stages, keypoints, made.control_hz))
    made.close()
    assert scores[0] > scores[1] + tells
