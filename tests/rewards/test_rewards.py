"""Reward models, against their papers' formulas."""

import pytest
import torch
from torch.utils._pytree import tree_map

from pbrl.configs import compose_config
from pbrl.objectives import bradley_terry
from pbrl.rewards import per_step
from pbrl.run.build import build_reward
from pbrl.settings import RunSettings
from pbrl.types import Observation, Segment, UserError
from tests.parts import SPEC, build, draw_batches, made_up_data


def test_members_of_an_ensemble_learn_independently():
    """One update of the ensemble is the update of each member alone."""
    together = build("reward/ensemble")
    singles = []
    for e in range(3):
        one = build("reward/ensemble", members=1)
        one.net.load_state_dict({k: v[e : e + 1] for k, v in together.net.state_dict().items()})
        singles.append(one)
    for batch in draw_batches(together, 3):
        together.update(batch)
        for one in singles:
            one.update(batch)
    for e, one in enumerate(singles):
        for key, value in one.net.state_dict().items():
            torch.testing.assert_close(together.net.state_dict()[key][e : e + 1], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ensemble", "linear", "surf", "lstm", "transformer"])
@pytest.mark.parametrize(
    ("actions", "settings"),
    [
        (True, {"actions": True, "length": 1}),
        (False, {"actions": False}),
        (True, {"actions": "auto", "length": 2}),
        (False, {"actions": "auto", "length": 1}),
    ],
)
def test_a_reward_of_states_alone_sees_no_action(name, actions, settings):
    model = build(f"reward/{name}", **settings)
    batch = draw_batches(build("reward/ensemble"), 1)[0].segments
    for given in (batch, tree_map(lambda x: x[:, :, :1], batch)):
        turned = given._replace(action=-given.action)
        for read in (model.score, lambda segment: model.reward(segment.obs, segment.action)):
            found = read(given)
            assert torch.equal(found, read(turned)) == (not actions)
            assert not torch.equal(found, read(given._replace(obs=Observation(-given.obs.state))))


@pytest.mark.parametrize("name", ["ensemble", "lstm", "transformer"])
def test_a_reward_fits_the_segments_that_it_learns_from(name):
    """Single steps may be pieces of marked stretches, or labels from elsewhere, whatever `query.length` is."""

    def find(*flags, length=None):
        model = build_reward(RunSettings.parse(compose_config(f"reward={name}", *flags)), SPEC, length)
        return model.actions, model.context

    longest = 1 if name == "ensemble" else 20
    assert find("query.length=20") == (True, longest)
    assert find("query.length=20", "query.kind=spans", "query.span=1") == (False, 1)
    assert find("query.length=20", length=1) == (False, 1)
    assert find("query.length=20", "reward.length=1", "reward.actions=true") == (True, longest)


def test_linear_bradley_terry_is_a_ratio():
    """P(second) = what the second earns, 1 + tanh a step, out of what both earn (LiRE, eq. 4)."""
    model = build("reward/linear", members=1)
    (batch,) = draw_batches(model, 1)
    reward = model.reward(batch.segments.obs, batch.segments.action)[0].detach().double()
    assert (reward > 0).all() and (reward < 2).all()
    reward_sum = reward.sum(-1)  # [B, 2]
    p = reward_sum[:, 1] / reward_sum.sum(1)
    expected = -(batch.label * p.log() + (1 - batch.label) * (1 - p).log()).mean()
    assert model.update(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(UserError, match="bounded"):
        build("reward/linear", bounded=False)


def test_a_discriminator_learns_from_positive_and_unlabelled_steps():
    """The risk of a classifier whose negatives are all steps less a share of demonstrations, in double precision."""
    model = build("reward/discriminator", prior=0.3)
    (batch,) = draw_batches(model, 1)
    found = model.logit(batch.demonstrated.obs, batch.demonstrated.action)[0].detach().double().sigmoid()
    anywhere = model.logit(batch.steps.obs, batch.steps.action)[0].detach().double().sigmoid()
    negative = -(1 - anywhere).log().mean() + 0.3 * (1 - found).log().mean()
    expected = -0.3 * found.log().mean() + negative.clamp(min=0)
    assert model.update(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    best = model.draw(made_up_data("pair")).demonstrated
    table = made_up_data("pair").table
    kept = table.obs[table.best_rows(0.1)]
    assert all((row == kept).all(-1).any() for row in best.obs.state), "demonstrations are of the best episodes alone"
    with pytest.raises(UserError, match="share of the episodes"):
        build("reward/discriminator", demonstrations=1.0)


@pytest.mark.parametrize("name", ["reward/transformer", "reward/lstm"])
def test_a_reward_that_remembers_sees_nothing_that_comes_later(name):
    model = build(name, context=8)
    segments = draw_batches(model, 1)[0].segments
    state, action = segments.obs.state, segments.action
    before = model.reward(segments.obs, action)
    assert before.shape == (1, 16, 2, 8)
    later = state.clone()
    later[..., 5:, :] += 1
    after = model.reward(Observation(later), action)
    torch.testing.assert_close(after[..., :5], before[..., :5])
    assert not torch.allclose(after[..., 5], before[..., 5])
    first = model.reward(Observation(state[..., :3, :]), action[..., :3, :])
    torch.testing.assert_close(first, before[..., :3])
    earlier = state.clone()
    earlier[..., 0, :] += 1
    assert not torch.allclose(model.reward(Observation(earlier), action)[..., 7], before[..., 7])


def test_preference_attention_is_the_papers():
    """Weights are the mean over queries of softmaxes over the whole segment; the score is what they weigh."""
    model = build("reward/transformer", context=8, dropout=0.0)
    segment = tree_map(lambda x: x[0, 0], draw_batches(model, 1)[0].segments)
    obs, action = segment.obs.state, segment.action
    net, inputs = model.net, []
    net.out.register_forward_hook(lambda module, given, found: inputs.append(given[0].detach()))
    with torch.no_grad():
        reward, weight = net(obs, action, segment.mask)
        x = inputs[0][0]  # [L, W]
        q, k = (x @ net.query_key.weight.T).chunk(2, -1)
        expected = torch.stack([torch.softmax(k @ q[i] / 16**0.5, 0) for i in range(8)]).mean(0)
    torch.testing.assert_close(weight, expected)
    assert weight.sum().item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(model.score(segment)[0], (weight * reward).sum())
    torch.testing.assert_close(model.reward(segment.obs, action)[0], reward)


def test_there_is_no_dropout_where_a_reward_is_read():
    model = build("reward/transformer", context=8, dropout=0.5)
    segments = draw_batches(model, 1)[0].segments
    torch.testing.assert_close(model.score(segments), model.score(segments))
    torch.testing.assert_close(model.reward(*segments[:2]), model.reward(*segments[:2]))
    assert model.training


def test_surf_labels_only_where_a_member_is_confident():
    """Its loss is that on the answers, and `weight` times the sum over confident pairs divided by the number of all."""
    model = build("reward/surf", crop=0, confidence=0.6, weight=0.7)
    (batch,) = draw_batches(model, 1)
    assert len(batch.labelled.label) == 16 and len(batch.unlabelled.label) == 64
    ensemble = {k: v for k, v in model.net.state_dict().items()}
    by_hand = build("reward/ensemble")
    by_hand.net.load_state_dict(ensemble)
    scores, more = by_hand.score(batch.labelled.segments), by_hand.score(batch.unlabelled.segments)
    p = torch.sigmoid(more[..., 1] - more[..., 0]).detach()
    sure = (p - 0.5).abs() >= 0.1
    assert 0 < sure.float().mean() < 1
    guess = torch.where(sure, bradley_terry(more, (p > 0.5).float()), torch.zeros(()))
    by_hand.optim.step((bradley_terry(scores, batch.labelled.label).mean(1) + 0.7 * guess.mean(1)).sum())
    assert model.update(batch)["pseudo_labelled"].item() == pytest.approx(sure.float().mean().item())
    for key, value in by_hand.net.state_dict().items():
        torch.testing.assert_close(model.net.state_dict()[key], value)


def test_surf_compares_equally_long_parts():
    model = build("reward/surf", crop=3)
    torch.manual_seed(0)
    cut = model.crop_mask(torch.ones(4000, 2, 8))
    long = cut.sum(-1)
    assert torch.equal(long[:, 0], long[:, 1]) and set(long.unique().tolist()) == {5.0, 6.0, 7.0, 8.0}
    begins, short = cut.argmax(-1), long[:, 0] == 5
    assert set(begins[short].unique().tolist()) == {0, 1, 2, 3} and (begins[short, 0] != begins[short, 1]).any()
    assert (cut.diff(dim=-1).abs().sum(-1) + cut[..., 0] + cut[..., -1] == 2).all()  # each in one piece
    assert build("reward/surf", crop=20).crop_mask(torch.ones(500, 2, 8)).sum(-1).min() == 1


REWARDS = ["reward/ensemble", "reward/linear", "reward/surf", "reward/transformer", "reward/lstm"]


@pytest.mark.parametrize("name", REWARDS)
def test_masked_steps_do_not_count(name):
    """A segment whose last steps are masked scores as one that ends before them, whatever they hold."""
    model = build(name)
    segments = made_up_data("pair").comparisons(16).segments
    mask = segments.mask.clone()
    mask[..., 5:] = 0
    changed = segments.obs.state.clone()
    changed[..., 5:, :] += 1
    short = Segment(Observation(segments.obs.state[..., :5, :]), segments.action[..., :5, :], mask[..., :5])
    for masked in (segments._replace(mask=mask), segments._replace(mask=mask, obs=Observation(changed))):
        torch.testing.assert_close(model.score(masked), model.score(short))
    assert not torch.allclose(model.score(segments), model.score(short))


def test_cropping_takes_as_many_steps_of_both_segments_as_the_shorter_one_allows():
    mask = torch.ones(2000, 2, 8)
    mask[:, 1, 5:] = 0
    cropped = build("reward/surf", crop=3).crop_mask(mask).sum(-1)
    assert (cropped[:, 0] == cropped[:, 1]).all() and set(cropped.flatten().tolist()) == {2, 3, 4, 5}


def test_cropping_keeps_masked_steps_out():
    mask = torch.ones(200, 2, 8)
    mask[..., 4:] = 0
    torch.manual_seed(0)
    cropped = build("reward/surf", crop=3).crop_mask(mask)
    assert not cropped[..., 4:].any() and cropped[..., :4].any(0).all()


def halves_the_gradient(loss_of, parameters) -> None:
    """A `loss_of` answers with some confidence: its gradient at 0.5 is half of that at 1, and at 0 it is zero."""
    full, half, none = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(confidence), parameters)])
        for confidence in (1.0, 0.5, 0.0)
    )
    assert full.abs().max() > 0 and not none.any()
    torch.testing.assert_close(half, 0.5 * full)


@pytest.mark.parametrize("name", REWARDS)
def test_an_answer_without_confidence_does_not_count_and_half_of_it_counts_half(name):
    deterministic = {"reward/surf": {"weight": 0.0, "crop": 0}, "reward/transformer": {"dropout": 0.0}}
    model = build(name, **deterministic.get(name, {}))
    (batch,) = draw_batches(model, 1)
    losses = []
    model.optim.step = losses.append

    def loss_of(confidence):
        labelled = batch.labelled if name == "reward/surf" else batch
        labelled = labelled._replace(confidence=torch.full_like(labelled.label, confidence))
        model.update(batch._replace(labelled=labelled) if name == "reward/surf" else labelled)
        return losses[-1].sum()

    halves_the_gradient(loss_of, model.optim.params)


@pytest.mark.parametrize("name", ["reward/ensemble", "reward/linear", "reward/transformer", "reward/lstm"])
def test_labelling_a_table_is_the_reward_of_the_steps_up_to_each_row(name):
    """Whatever the size of the chunks that go through the network: [E, R]."""
    model = build(name)
    table = made_up_data("pair").table
    found = model.label(table)
    assert found.shape == (3 if name in ("reward/ensemble", "reward/linear") else 1, table.row_count)
    for first, steps in zip(table.first[:4], table.steps[:4], strict=True):
        for t in range(steps):
            rows = torch.arange(max(0, t + 1 - model.context), t + 1) + int(first)
            with torch.no_grad():
                expected = model.reward(table.observe(rows[None]), table.action[rows[None]])[:, 0, -1]
            torch.testing.assert_close(found[:, first + t], expected)


def test_labelling_does_not_depend_on_the_chunks(monkeypatch):
    model, table = build("reward/lstm"), made_up_data("pair").table
    whole = model.label(table)
    monkeypatch.setattr(per_step, "CHUNK_ROWS", 7 * model.context)
    torch.testing.assert_close(model.label(table), whole)
