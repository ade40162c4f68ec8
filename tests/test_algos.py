"""Every learner and reward model that a yaml names: keys, eager = compiled, saved and gone on with, what it learns."""

import copy
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pbrl import run
from pbrl.engine import Engine
from pbrl.objectives import bradley_terry
from pbrl.types import PreferenceBatch, Spec, Transitions, UserError

SPEC = Spec(5, 2, (0.0,) * 5, (1.0,) * 5)
CONFIGS = [
    path for part in ("algo", "reward") for path in sorted(Path("configs", part).glob("*.yaml")) if path.stem != "none"
]
OBJECTIVES = [path.stem for path in sorted(Path("configs/objective").glob("*.yaml"))]
VARIANTS = {
    "cpl": [{}, {"reference": True}, {"bc_weight": 1.0}, *({"objective": name} for name in OBJECTIVES)],
    "bc": [{}, {"fraction": 0.1}],
    "td3bc": [{"target_noise": 0.0}],
}
CASES = [
    pytest.param((path, changes), marks=pytest.mark.slow) if "objective" in changes else (path, changes)
    for path in CONFIGS for changes in VARIANTS.get(path.stem, [{}])
]  # fmt: skip
CPU = torch.device("cpu")


def build(path: Path, spec: Spec = SPEC, **changes):
    """The learner of a yaml on a small network."""
    torch.manual_seed(0)
    config = OmegaConf.to_container(OmegaConf.create({"steps": 100, "part": OmegaConf.load(path)}), resolve=True)[
        "part"
    ]
    objective = changes.pop("objective", "logistic")
    config = {**config, **({"hidden": [16]} if "hidden" in config else {}), **changes}
    if path.parent.name == "reward":
        return instantiate(config, spec)
    policy = instantiate({**OmegaConf.load("configs/policy/mlp.yaml"), "hidden": [16, 16]}, spec)
    given = {}
    if "objective" in run.signature(config):
        given["objective"] = (
            objective if callable(objective) else instantiate(OmegaConf.load(f"configs/objective/{objective}.yaml"))
        )
    return instantiate(config, spec, policy, **given)


def batches(kind: type, count: int, spec: Spec = SPEC) -> list:
    g = torch.Generator().manual_seed(1)
    o, a = spec.obs_dim, spec.action_dim

    def rand(*shape):
        return torch.rand(*shape, generator=g) * 2 - 1

    if kind is PreferenceBatch:
        return [
            PreferenceBatch(rand(4, 2, 8, o), rand(4, 2, 8, a), torch.tensor([0.0, 1.0, 0.5, 1.0]))
            for _ in range(count)
        ]
    return [
        Transitions(rand(16, o), rand(16, a), rand(16), rand(16, o), (rand(16) > 0.8).float()) for _ in range(count)
    ]


def name(case):
    return f"{case[0].stem}{case[1] or ''}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_compiled_is_eager(case):
    torch.compiler.reset()  # else the many learners count as too many recompilations of one
    path, changes = case
    eager = build(path, **changes)
    compiled = copy.deepcopy(eager)
    # deepcopy severs an optimiser from its network's parameters unless both are copied together, as they are here
    plain, fast = (
        Engine(CPU, compile=False, bf16=False).prepare(eager.update),
        Engine(CPU, compile=True, bf16=False).prepare(compiled.update),
    )
    for batch in batches(eager.batch, 5):
        a, b = plain(batch), fast(batch)
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-5)
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(value, compiled.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_saved_and_gone_on_with(case, tmp_path):
    path, changes = case
    learner = build(path, **changes)
    data = batches(learner.batch, 6)
    for batch in data[:3]:
        learner.update(batch)
    torch.save(learner.state_dict(), tmp_path / "state.pt")
    for batch in data[3:]:
        learner.update(batch)
    again = build(path, **changes)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in data[3:]:
        again.update(batch)
    for key, value in learner.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("case", CASES, ids=name)
def test_metrics_stay_on_the_device(case):
    learner = build(case[0], **case[1])
    for value in learner.update(batches(learner.batch, 1)[0]).values():
        assert isinstance(value, torch.Tensor) and value.ndim == 0 and not value.requires_grad


@pytest.mark.parametrize(
    "path",
    [
        p
        for part in ("algo", "reward", "policy", "feedback", "objective")
        for p in sorted(Path("configs", part).glob("*.yaml"))
    ],
    ids=str,
)
def test_every_yaml_key_is_a_parameter(path):
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    run.check_keys(path.parent.name, config)
    if config["_target_"]:
        with pytest.raises(UserError, match="has no wings"):
            run.check_keys(path.parent.name, {**config, "wings": 2})
        if len(config) > 2:
            with pytest.raises(UserError, match="needs"):
                run.check_keys(path.parent.name, {"_target_": config["_target_"]})


def test_cpl_is_its_formula():
    cpl = build(Path("configs/algo/cpl.yaml"), alpha=0.3, bc_weight=0.7)
    batch = batches(PreferenceBatch, 1)[0]
    mean = cpl.policy.mean(batch.obs)
    score = -0.3 * (mean - batch.action).square().sum((-1, -2))  # [B, 2]
    a, b = score.detach().double().unbind(1)
    y = batch.label.double()
    expected = (
        -y * torch.log(b.exp() / (b.exp() + (0.5 * a).exp()))
        - (1 - y) * torch.log(a.exp() / (a.exp() + (0.5 * b).exp()))
    ).mean()
    metrics = cpl.update(batch)
    assert metrics["cpl"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_cpl_kl_starts_at_indifference():
    """Relative to itself the cloned policy scores every segment zero: the loss is log 2 for any label."""
    cpl = build(Path("configs/algo/cpl.yaml"), reference=True, objective=bradley_terry)
    for batch in batches(PreferenceBatch, 3):
        cpl.pretrain(batch)
    cpl.begin()
    assert cpl.update(batches(PreferenceBatch, 1)[0])["cpl"].item() == pytest.approx(0.6931, abs=1e-4)
    assert all(not p.requires_grad for p in cpl.reference.parameters())


def test_iql_is_its_formulas():
    iql = build(Path("configs/algo/iql.yaml"), expectile=0.8, beta=2.0)
    batch = batches(Transitions, 1)[0]
    with torch.no_grad():
        pair = torch.cat([batch.obs, batch.action], -1)
        q, v = iql.q_target(pair).amin(0)[:, 0], iql.v(batch.obs)[:, 0]
        error = q - v
        v_loss = (torch.where(error > 0, 0.8, 0.2) * error**2).mean()
        target = batch.reward + 0.99 * (1 - batch.done) * iql.v(batch.next_obs)[:, 0]
        q_loss = ((iql.q(pair)[..., 0] - target) ** 2).mean()
        weight = torch.exp(2.0 * error).clamp(max=100)
        actor = (weight * (iql.policy.mean(batch.obs) - batch.action).square().sum(-1)).mean()
        before = [p.clone() for p in iql.q_target.parameters()]
    metrics = iql.update(batch)
    for key, expected in (("v_loss", v_loss), ("q_loss", q_loss), ("actor_loss", actor)):
        torch.testing.assert_close(metrics[key], expected)
    for old, target, online in zip(before, iql.q_target.parameters(), iql.q.parameters(), strict=True):
        torch.testing.assert_close(target, old + 0.005 * (online - old))


def test_td3bc_is_its_formulas():
    td3bc = build(Path("configs/algo/td3bc.yaml"), target_noise=0.0, alpha=2.0)
    batch = batches(Transitions, 1)[0]
    with torch.no_grad():
        next_pair = torch.cat([batch.next_obs, td3bc.policy.mean(batch.next_obs)], -1)
        target = batch.reward + 0.99 * (1 - batch.done) * td3bc.q_target(next_pair).amin(0)[:, 0]
        q_loss = ((td3bc.q(torch.cat([batch.obs, batch.action], -1))[..., 0] - target) ** 2).mean()
        action = td3bc.policy.mean(batch.obs)
        size = td3bc.q(torch.cat([batch.obs, batch.action], -1))[0].abs().mean()
    metrics = td3bc.update(batch)
    torch.testing.assert_close(metrics["q_loss"], q_loss)
    with torch.no_grad():
        q = td3bc.q(torch.cat([batch.obs, action], -1))[0, :, 0]  # the critic has moved before the policy does
        expected = ((action - batch.action) ** 2).mean() - 2.0 * q.mean() / size
    torch.testing.assert_close(metrics["actor_loss"], expected)


def test_td3bc_wants_a_deterministic_policy():
    policy = instantiate({**OmegaConf.load("configs/policy/mlp.yaml"), "hidden": [4], "std": 0.2}, SPEC)
    with pytest.raises(UserError, match="policy.std=0"):
        run.build(dict(OmegaConf.load("configs/algo/td3bc.yaml")), SPEC, policy)


def test_td3bc_moves_its_policy_at_every_second_update():
    td3bc, moved = build(Path("configs/algo/td3bc.yaml")), []
    for batch in batches(Transitions, 4):
        parts = (td3bc.policy, td3bc.policy_target, td3bc.q_target, td3bc.q)
        before = [torch.cat([p.flatten() for p in part.parameters()]).clone() for part in parts]
        td3bc.update(batch)
        after = [torch.cat([p.flatten() for p in part.parameters()]) for part in parts]
        moved.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
    assert moved == [[True] * 4, [False, False, False, True]] * 2
    assert td3bc.actor_optim.count == 2


def test_td3bc_clips_the_noise_on_its_targets():
    """With a critic that is the action itself, targets lie within the clip of the target policy's action."""
    td3bc = build(Path("configs/algo/td3bc.yaml"), target_noise=9.0, target_clip=0.1)
    batch = batches(Transitions, 1)[0]
    seen = []
    td3bc.q_target.forward = lambda pair: (seen.append(pair[:, 5:]), torch.zeros(2, len(pair), 1))[1]  # type: ignore
    with torch.no_grad():
        mean = td3bc.policy_target.mean(batch.next_obs)
    td3bc.update(batch)
    assert 0.09 < (seen[0] - mean).abs().max() <= 0.1 + 1e-6


def test_awac_is_its_formulas():
    awac = build(Path("configs/algo/awac.yaml"), temperature=0.5)
    batch = batches(Transitions, 1)[0]
    with torch.no_grad():
        next_pair = torch.cat([batch.next_obs, awac.policy.mean(batch.next_obs)], -1)
        target = batch.reward + 0.99 * (1 - batch.done) * awac.q_target(next_pair).amin(0)[:, 0]
        q = awac.q(torch.cat([batch.obs, batch.action], -1))[..., 0]
        value = awac.q(torch.cat([batch.obs, awac.policy.mean(batch.obs)], -1)).amin(0)[:, 0]
        weight = ((q.amin(0) - value) / 0.5).exp().clamp(max=100)
        actor = (weight * (awac.policy.mean(batch.obs) - batch.action).square().sum(-1)).mean()
    metrics = awac.update(batch)
    torch.testing.assert_close(metrics["q_loss"], ((q - target) ** 2).mean())
    torch.testing.assert_close(metrics["actor_loss"], actor)


def test_a_policy_with_a_deviation_is_sampled():
    policy = instantiate({**OmegaConf.load("configs/policy/mlp.yaml"), "hidden": [4], "std": 0.2}, SPEC)
    torch.manual_seed(0)
    obs = torch.zeros(4000, 5)
    drawn, mean = policy.sample(obs), policy.mean(obs)
    assert (drawn - mean).std().item() == pytest.approx(0.2, rel=0.05)
    torch.testing.assert_close((drawn - mean).mean().item(), 0.0, atol=0.01, rtol=0)


def test_reward_members_learn_apart():
    """One update of the ensemble is the update of each member alone."""
    together = build(Path("configs/reward/ensemble.yaml"))
    batch = batches(PreferenceBatch, 1)[0]
    singles = []
    for e in range(3):
        torch.manual_seed(0)
        one = instantiate({**OmegaConf.load("configs/reward/ensemble.yaml"), "members": 1, "hidden": [16]}, SPEC)
        one.net.load_state_dict({k: v[e : e + 1] for k, v in together.net.state_dict().items()})
        singles.append(one)
    for batch in batches(PreferenceBatch, 3):
        together.update(batch)
        for one in singles:
            one.update(batch)
    for e, one in enumerate(singles):
        for key, value in one.net.state_dict().items():
            torch.testing.assert_close(together.net.state_dict()[key][e : e + 1], value, rtol=1e-4, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_cuda_graph_is_eager(case):
    device = torch.device("cuda")
    eager = build(case[0], **case[1]).to(device)
    captured = copy.deepcopy(eager)
    plain, fast = (
        Engine(device, compile=False, bf16=False).prepare(eager.update),
        Engine(device, compile=True, bf16=False).prepare(captured.update),
    )
    for batch in batches(eager.batch, 10):
        batch = type(batch)(*(t.to(device) for t in batch))
        a, b = plain(batch), fast(batch)
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-2, atol=1e-4)
