"""Every algorithm and reward model that a yaml names: its keys, compiled = eager, saved and resumed = uninterrupted."""

import copy

import pytest
import torch

from pbrl import objectives
from pbrl.run.build import check_part, fit_to_segments
from pbrl.training.engine import Engine
from pbrl.types import Phase, UserError
from tests.parts import build, config_of, draw_batches, names, phases

ELSEWHERE = ("image", "rapl", "preference_inversion")  # they need pictures, or a planner: see their own tests
LEARNERS = [f"{part}/{name}" for part in ("algo", "reward") for name in names(part) if name not in ("none", *ELSEWHERE)]
CLONED = {"reference": True}  # what some objectives ask for
RELATIVE = {objective.__name__ for objective in objectives.RELATIVE}
VARIANTS = {
    "algo/cpl": [
        {},
        CLONED,
        {"bc_weight": 1.0},
        {"policy": "diffusion"},
        *({"objective": name} | (CLONED if name in RELATIVE else {}) for name in names("objective")),
    ],
    "algo/bc": [{}, {"fraction": 0.1}, {"policy": "diffusion"}, {"policy": "vla_flow"}],
    "algo/cfgrl": [{"policy": "diffusion quality"}],
    "algo/idql": [{"policy": "best_of_n"}],
    "algo/sopo": [{"policy": "diffusion"}, {"policy": "diffusion", "own": "reference"}],
    "algo/uapa": [{"objective": "bradley_terry"}, {"objective": "bradley_terry", "policy": "diffusion"}],
    "algo/tpo": [{"policy": "diffusion whole"}, {"policy": "vla"}, {"policy": "vla", "objective": "kto"}],
    "algo/filtered_bc": [{"policy": "vla"}],
    "algo/fdpp": [{"policy": "diffusion"}],
    "reward/ensemble": [{}, *({"objective": name} for name in names("objective"))],
    "reward/transformer": [{}, {"objective": "plackett_luce"}],
    "reward/lstm": [{}, {"objective": "plackett_luce"}],
}
CASES = [(name, changes) for name in LEARNERS for changes in VARIANTS.get(name, [{}])]
COMPILED = [case for case in CASES if "objective" not in case[1]]  # losses: see tests/test_objectives.py
BY_INDUCTOR = ("algo/cpl", "algo/iql", "reward/ensemble")  # of the others the graph alone is made
CPU = torch.device("cpu")


def title(case):
    return f"{case[0]}{case[1] or ''}"


@pytest.mark.parametrize("case", COMPILED, ids=title)
def test_compiled_is_eager(case, request):
    if title(case) not in BY_INDUCTOR:
        request.getfixturevalue("graph_alone")
    torch.compiler.reset()  # else the many learners count as too many recompilations of one
    eager = build(case[0], **case[1])
    # deepcopy severs an optimiser from its network's parameters unless both are copied together, as they are here
    compiled = copy.deepcopy(eager)
    pairs = list(zip(phases(eager), phases(compiled), strict=True))
    for k, (one, other) in list(enumerate(pairs))[0 if not case[1] else -1 :]:  # of variants the last phase
        plain = Engine(CPU, compile=False, bf16=False).prepare(one)
        fast = Engine(CPU, compile=True, bf16=False).prepare(other)
        for i, batch in enumerate(draw_batches(eager, 5, k)):
            torch.manual_seed(i)
            a = plain(batch)
            torch.manual_seed(i)
            b = fast(batch)
            for key in a:
                torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-5)
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(value, compiled.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=title)
def test_saved_and_resumed_is_uninterrupted(case, tmp_path):
    name, changes = case
    learner = build(name, **changes)
    batches = draw_batches(learner, 6)
    torch.manual_seed(6)
    for batch in batches[:3]:
        phases(learner)[-1].update(batch)
    torch.save(learner.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(7)
    for batch in batches[3:]:
        phases(learner)[-1].update(batch)
    again = build(name, **changes)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.manual_seed(7)
    for batch in batches[3:]:
        phases(again)[-1].update(batch)
    for key, value in learner.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("case", CASES, ids=title)
def test_metrics_stay_on_the_device(case):
    learner = build(case[0], **case[1])
    for k, phase in enumerate(phases(learner)):
        for value in phase.update(draw_batches(learner, 1, k)[0]).values():
            assert isinstance(value, torch.Tensor) and value.ndim == 0 and not value.requires_grad


@pytest.mark.parametrize(
    "name",
    [f"{part}/{name}" for part in ("algo", "reward", "policy", "feedback", "objective") for name in names(part)],
)
def test_every_yaml_key_is_a_parameter(name):
    found = fit_to_segments(config_of(name), 8)
    if not found["_target_"]:
        return
    check_part(found)
    with pytest.raises(UserError, match="has no wings"):
        check_part({**found, "wings": 2})
    if len(found) > 2:
        with pytest.raises(UserError, match="needs"):
            check_part({"_target_": found["_target_"]})


def test_autocast_follows_a_stepped_network():
    """Within one update in bfloat16 a network that has just been stepped is read anew, not from autocast's cache."""
    weight = torch.nn.Parameter(torch.ones(4, 4))

    def update(batch):
        before = batch @ weight
        with torch.no_grad():
            weight.mul_(3.0)
        return {"ratio": ((batch @ weight) / before).mean().detach()}

    phase = Phase("policy", 1, lambda data: data, update)
    found = Engine(CPU, compile=False, bf16=True).prepare(phase)(torch.ones(2, 4))
    assert found["ratio"].item() == pytest.approx(3.0, rel=1e-2)
