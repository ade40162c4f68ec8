"""Networks and the optimiser, against PyTorch's own; what a policy offers."""

import copy
from dataclasses import asdict, replace

import pytest
import torch

from pbrl.models.gaussian import GaussianPolicy
from pbrl.models.layers import MLP, Dropout
from pbrl.models.optim import Adam, polyak
from pbrl.models.policy import load_policy, save_policy
from pbrl.types import Observation, Segment, Spec, UserError
from tests.parts import build

SPEC = Spec(3, 2, (1.0, 0.0, -1.0), (2.0, 1.0, 0.5), 30)


def test_an_ensemble_is_its_members():
    torch.manual_seed(0)
    together = MLP(5, 2, [8, 8], ensemble=3)
    x = torch.randn(4, 7, 5)
    out = together(x)
    assert out.shape == (3, 4, 7, 2)
    for e in range(3):
        alone = MLP(5, 2, [8, 8])
        alone.load_state_dict({name: value[e] for name, value in together.state_dict().items()})
        torch.testing.assert_close(out[e], alone(x))


@pytest.mark.parametrize("p", [0.1, 0.25, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(999, 501, requires_grad=True)  # 500,499 places, no multiple of eight
    out = Dropout(p)(x)
    dropped = round(256 * p) / 256
    assert out.unique().tolist() == pytest.approx([0, 1 / (1 - dropped)])
    error = (dropped * (1 - dropped) / x.numel()) ** 0.5  # of the share
    assert (out == 0).float().mean().item() == pytest.approx(dropped, abs=4 * error)
    assert abs(dropped - p) <= 1 / 512
    neighbours = torch.corrcoef(out.detach().flatten().unfold(0, 9, 9).T)  # places that share a random number
    assert (neighbours - torch.eye(9)).abs().max() < 5 * (9 / x.numel()) ** 0.5
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())  # what is kept, and no other, learns


def test_there_is_no_dropout_in_evaluation():
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
    for p in (-0.1, 1.0):
        with pytest.raises(UserError, match="less than 1"):
            Dropout(p)


@pytest.mark.parametrize("clip,weight_decay", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)])
def test_adam_is_pytorchs(clip, weight_decay):
    torch.manual_seed(0)
    ours = MLP(4, 1, [16])
    theirs = copy.deepcopy(ours)
    optim = Adam(ours.parameters(), 1e-2, clip=clip, weight_decay=weight_decay)
    reference = torch.optim.AdamW(theirs.parameters(), 1e-2, weight_decay=weight_decay)
    for _ in range(20):
        x = torch.randn(32, 4)
        optim.step(ours(x).square().mean())
        reference.zero_grad()
        theirs(x).square().mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_schedules():
    optim = Adam([torch.nn.Parameter(torch.zeros(1))], 1.0, warmup=10, cosine=100)
    rates = []
    for _ in range(100):
        optim.count.add_(1)
        rates.append(optim.rate().item())
    assert rates[0] == pytest.approx(0.1, rel=0.01) and max(rates) < 1 and rates[-1] == pytest.approx(0, abs=1e-6)
    assert rates[49] == pytest.approx(0.5, rel=0.01)


def test_restart_forgets():
    p = torch.nn.Parameter(torch.ones(3))
    optim = Adam([p], 1e-2)
    optim.step(p.square().sum())
    optim.restart(5e-3)
    assert optim.count == 0 and not optim.first.any() and not optim.second.any() and optim.lr == pytest.approx(5e-3)


def test_polyak():
    a, b = MLP(2, 1, [4]), MLP(2, 1, [4])
    expected = [0.9 * x + 0.1 * y for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    polyak(a, b, 0.1)
    for x, y in zip(a.parameters(), expected, strict=True):
        torch.testing.assert_close(x, y)


def test_log_prob_is_the_gaussian_density():
    policy = GaussianPolicy(SPEC, hidden=[8], dropout=0.0, std=0.6)
    obs, action = Observation(torch.randn(5, 4, 3)), torch.rand(5, 4, 2) * 2 - 1
    expected = torch.distributions.Normal(policy.mean(obs), 0.6).log_prob(action).sum(-1)
    torch.testing.assert_close(policy.log_prob(obs, action), expected)


def test_a_deterministic_policy_scores_by_squared_error():
    """... which is a Gaussian of variance 1/2 but for a constant."""
    policy = GaussianPolicy(SPEC, hidden=[8], dropout=0.0, std=0.0)
    obs, action = Observation(torch.randn(6, 3)), torch.rand(6, 2)
    density = torch.distributions.Normal(policy.mean(obs), 0.5**0.5).log_prob(action).sum(-1)
    difference = policy.log_prob(obs, action) - density
    torch.testing.assert_close(difference, difference[:1].expand(6))


def test_a_saved_policy_runs_alone(tmp_path):
    policy = GaussianPolicy(SPEC, hidden=[8, 8], dropout=0.1, std=0.3)
    save_policy(policy, tmp_path / "policy.pt")
    obs = Observation(torch.randn(5, 3))
    assert torch.equal(load_policy(tmp_path).act(obs), policy.act(obs))
    assert policy.act(obs).abs().max() <= 1


def test_a_file_without_a_policy(tmp_path):
    with pytest.raises(UserError, match="no policy at"):
        load_policy(tmp_path)
    (tmp_path / "policy.pt").write_bytes(b"garbage")
    with pytest.raises(UserError, match="not a policy"):
        load_policy(tmp_path)


def test_it_acts_with_its_mean_and_explores_by_its_distribution():
    policy = GaussianPolicy(SPEC, hidden=[8], dropout=0.5, std=0.2)
    policy.log_std.data = torch.tensor([0.2, 0.1]).log()
    policy.net.layers[-1].weight.data *= 0.3  # a mean so small that few actions are clipped
    policy.net.layers[-1].bias.data *= 0.3
    torch.manual_seed(0)
    obs = Observation(torch.randn(1, 3).expand(20_000, -1))
    acts, drawn = policy.act(obs), policy.act(obs, explore=True)
    assert policy.training and torch.equal(acts, acts[:1].expand_as(acts))  # no dropout while it acts
    torch.testing.assert_close(acts[0], policy.eval().mean(obs)[0])
    assert (acts.abs() < 0.4).all()
    torch.testing.assert_close(drawn.mean(0), acts[0], atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.2, 0.1]), rtol=0.03, atol=0)
    share = ((drawn - acts).abs() < torch.tensor([0.2, 0.1])).float().mean(0)  # within one deviation
    torch.testing.assert_close(share, torch.full((2,), 0.6827), atol=0.02, rtol=0)
    assert drawn.abs().max() <= 1


def test_without_a_deviation_it_explores_with_its_mean():
    policy = GaussianPolicy(SPEC, hidden=[8], dropout=0.0, std=0.0)
    obs = Observation(torch.randn(6, 3))
    assert torch.equal(policy.act(obs, explore=True), policy.act(obs))


def test_a_plan_is_a_chunk_of_one_action():
    policy = GaussianPolicy(SPEC, hidden=[8], dropout=0.0, std=0.3)
    obs = Observation(torch.randn(5, 3))
    assert policy.plan(obs).shape == (5, 1, 2)
    assert torch.equal(policy.plan(obs)[:, 0], policy.act(obs))
    transformer = build("algo/dt").policy
    plan = transformer.plan(Observation(torch.randn(5, 5)))
    transformer.reset()
    assert plan.shape == (5, 1, 2) and transformer.time == 0


def test_masked_steps_do_not_count_in_a_policys_score():
    policy = GaussianPolicy(SPEC, hidden=[8], dropout=0.0, std=0.4)
    obs, action = torch.randn(4, 2, 7, 3), torch.rand(4, 2, 7, 2) * 2 - 1
    mask = torch.ones(4, 2, 7)
    torch.testing.assert_close(
        policy.score(Segment(Observation(obs), action, mask)), policy.log_prob(Observation(obs), action).sum(-1)
    )
    mask[..., 4:] = 0
    short = Segment(Observation(obs[..., :4, :]), action[..., :4, :], mask[..., :4])
    found = policy.score(Segment(Observation(obs), action, mask))
    torch.testing.assert_close(found, policy.score(short))
    obs[..., 4:, :] += 1
    assert torch.equal(policy.score(Segment(Observation(obs), action, mask)), found)


def old_file(policy, path, name: str, image: tuple[int, ...]) -> None:
    """Writes a policy as it was written before its module and its spec had today's names."""
    spec = asdict(policy.spec)
    cameras = list(spec.pop("images"))
    state = {key: value.clone() for key, value in policy.state_dict().items()}
    old = {key: spec[key] for key in ("obs_dim", "action_dim", "obs_mean", "obs_std", "terminates")}
    assert len(cameras) == (image[0] if image else 0)
    saved = {"class": name, "spec": {**old, "steps": spec["max_steps"], "image": image}, "settings": policy.settings}
    torch.save({**saved, "state": state}, path)


def test_a_policy_that_was_saved_under_older_names_loads(tmp_path):
    policy = GaussianPolicy(SPEC, hidden=[8, 8], dropout=0.1, std=0.3)
    old_file(policy, tmp_path / "policy.pt", "pbrl.likelihoods.GaussianPolicy", ())
    again, obs = load_policy(tmp_path), Observation(torch.randn(5, 3))
    assert torch.equal(again.act(obs), policy.act(obs)) and again.spec == SPEC

    images = {"camera0": (16, 16, 3), "camera1": (16, 16, 3)}
    policy = GaussianPolicy(replace(SPEC, images=images), hidden=[8], dropout=0.0, std=0.0)
    old_file(policy, tmp_path / "policy.pt", "pbrl.likelihoods.GaussianPolicy", (2, 16, 16, 3))
    again = load_policy(tmp_path)
    pictures = {name: torch.randint(256, (5, 16, 16, 3), dtype=torch.uint8) for name in images}
    obs = Observation(torch.randn(5, 3), pictures)
    assert torch.equal(again.act(obs), policy.act(obs)) and dict(again.spec.images) == images

    policy = build("algo/dtr").policy
    old_file(policy, tmp_path / "policy.pt", "pbrl.sequence.DecisionTransformer", ())
    obs = Observation(torch.randn(5, 5))
    assert torch.equal(load_policy(tmp_path).act(obs), policy.act(obs))


def test_a_file_cannot_choose_what_code_is_run(tmp_path):
    policy = GaussianPolicy(SPEC, hidden=[8], dropout=0.0, std=0.3)
    old_file(policy, tmp_path / "policy.pt", "os.system", ())
    with pytest.raises(UserError, match="none of pbrl's policies"):
        load_policy(tmp_path)
