"""Several seeds at once are what each of them is alone."""

import copy
import json
from typing import Any

import pytest
import torch
import yaml
from torch.utils._pytree import tree_map

from pbrl.models.layers import Dropout
from pbrl.training import log
from pbrl.training.engine import Engine
from pbrl.training.vmap import LearnerStack, tensors
from pbrl.types import Update
from tests.algos.test_learners import CASES, CPU, title
from tests.parts import build, draw_batches, phases, without_chance
from tests.training.test_loop import RUNS, train

SEEDS, UPDATES = 3, 4


def is_noisy(case) -> bool:
    """Whether each of its updates draws noise, as those of diffusion do."""
    policy = case[1].get("policy") or ""
    return case[0] == "algo/aligndiff" or policy.startswith("diffusion") or policy in ("vla_flow", "best_of_n")


def seeds_of(case) -> list:
    """Learners of one kind with different parameters; their random numbers, which differ between seeds, are off."""
    name, changes = case
    learners = [build(name, **without_chance(name), **changes) for _ in range(SEEDS)]
    for i, learner in enumerate(learners):
        torch.manual_seed(i)
        for parameter in learner.parameters():
            parameter.data.add_(0.01 * torch.randn_like(parameter))
    return learners


def batches_of_each(learner) -> list[list]:
    """[UPDATES][SEEDS] batches, all different."""
    batches = draw_batches(learner, SEEDS * UPDATES)
    return [batches[i * SEEDS : (i + 1) * SEEDS] for i in range(UPDATES)]


def prepare(learners: list, batch: Any, compile: bool = False) -> Update:
    """The update of all learners at once, in their last phase."""
    engine = Engine(CPU, compile=compile, bf16=False)
    return engine.prepare_stack(LearnerStack(learners), phases(learners[0])[-1], batch)


@pytest.mark.parametrize("case", [case for case in CASES if not is_noisy(case)], ids=title)
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stack_of_learners_is_each_of_them_alone(case, compile, monkeypatch, request):
    if compile and case not in (("algo/iql", {}), ("algo/cpl", {}), ("reward/ensemble", {})):
        pytest.skip("compiled, three learners stand for all")
    if compile and case[0] != "algo/cpl":
        request.getfixturevalue("graph_alone")
    draw, low = torch.rand, torch.tensor(0.25)  # the same of two critics pulls
    monkeypatch.setattr(torch, "rand", lambda *shape, **to: low.clone() if shape == ((),) else draw(*shape, **to))
    torch.compiler.reset()
    learners = seeds_of(case)
    begun = {key: value.clone() for key, value in tensors(learners[0]).items()}
    alone = copy.deepcopy(learners)
    data = batches_of_each(learners[0])
    stacked = [tree_map(lambda *parts: torch.stack(parts), *batches) for batches in data]
    update = prepare(learners, stacked[0], compile)
    for batches, batch in zip(data, stacked, strict=True):
        found = update(batch)
        wanted = [learner.update(own) for learner, own in zip(alone, batches, strict=True)]
        for key in found:
            if key == "train_accuracy" and "ratio" in found:
                continue  # so near the policy that played, scores are zero but for rounding
            torch.testing.assert_close(found[key], torch.stack([own[key] for own in wanted]), rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(begun[key], value) for key, value in tensors(learners[0]).items())
    for one, other in zip(learners, alone, strict=True):
        for key, value in tensors(one).items():
            # where a gradient is zero but for rounding, Adam makes a step of it
            torch.testing.assert_close(
                value, tensors(other)[key], rtol=1e-3, atol=2e-4, msg=lambda s, k=key: f"{k} {s}"
            )


def test_each_is_saved_and_loaded_by_itself():
    """What is loaded into one seed is what goes on, and the others keep theirs."""
    learners = seeds_of(("algo/iql", {}))
    data = batches_of_each(learners[0])
    stacked = [tree_map(lambda *parts: torch.stack(parts), *batches) for batches in data]
    update = prepare(learners, stacked[0])
    kept = copy.deepcopy([learner.state_dict() for learner in learners])
    update(stacked[0])
    moved = copy.deepcopy([learner.state_dict() for learner in learners])
    learners[1].load_state_dict(kept[1])
    update(stacked[0])
    for key, value in learners[1].state_dict().items():
        assert torch.equal(value, moved[1][key]), key
    assert not torch.equal(learners[0].state_dict()["v.layers.0.weight"], moved[0]["v.layers.0.weight"])


def test_dropout_differs_between_seeds():
    learners = [build("algo/bc") for _ in range(2)]
    for learner in learners:
        learner.policy.net.dropout = Dropout(0.5)
    batch = tree_map(lambda x: torch.stack([x, x]), draw_batches(learners[0], 1)[0])
    found = prepare(learners, batch)(batch)
    assert found["bc"][0] != found["bc"][1]


@pytest.mark.parametrize("name", ["iql", "three-seeds", "cpl", "dtr"])
def test_a_run_of_seeds_is_as_many_runs(tmp_path, without_report, name):
    extra = [flag for flag in RUNS[name] if not flag.startswith(("seeds", "policy.dropout"))]
    extra += ["bf16=false", "compare=false", "steps=80"] + (["algo.dropout=0", "algo.eta=0"] if name == "dtr" else [])
    several = train(tmp_path, *extra, "seed=3", "seeds=2", f"run={tmp_path / 'several'}")["seeds"]
    for seed in (3, 4):
        alone = train(tmp_path, *extra, f"seed={seed}", f"run={tmp_path / str(seed)}")
        place = tmp_path / "several" / f"seed{seed}"
        wanted, found = (
            torch.load(folder / "policy.pt", weights_only=True) for folder in (tmp_path / str(seed), place)
        )
        for key, value in wanted["state"].items():
            torch.testing.assert_close(found["state"][key], value, rtol=1e-2, atol=1e-4)
        sizes = [(folder / "policy.pt").stat().st_size for folder in (tmp_path / str(seed), place)]
        assert sizes[1] < 1.1 * sizes[0]  # a policy takes nothing of the other seeds along
        result = json.loads((place / "result.json").read_text())
        assert result == json.loads(json.dumps(several[seed - 3])) and result["seed"] == alone["seed"] == seed
        assert result["answers"] == alone["answers"]
        settings = yaml.safe_load((place / "config.yaml").read_text())
        assert settings["seed"] == seed and settings["seeds"] == 1
        assert [e["phase"] for e in log.read(place)] == [e["phase"] for e in log.read(tmp_path / str(seed))]
    first, second = (torch.load(tmp_path / "several" / f"seed{s}" / "policy.pt", weights_only=True) for s in (3, 4))
    assert any(not torch.equal(value, second["state"][key]) for key, value in first["state"].items())
