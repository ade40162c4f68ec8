"""The attribute model: its loss in closed form, what it reads, how it labels, and what it learns of real behaviour."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from pbrl import files
from pbrl.configs import compose_config
from pbrl.data.behaviours import Waves
from pbrl.data.measured import mean_over, measure_table
from pbrl.data.rollout import EpisodeRecorder, RolloutWorkers, make_environment
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.scripted import Teacher
from pbrl.feedback.store.store import Store
from pbrl.models import attributes as networks
from pbrl.rewards import attributes as module
from pbrl.run import report, summary
from pbrl.training import log
from pbrl.training.batches import Data
from pbrl.training.held_out import evaluate_reward, rank_correlation
from pbrl.training.loop import Training
from pbrl.types import Observation, Segment, UserError
from tests import toy
from tests.feedback.sources.test_attributes import query
from tests.feedback.sources.test_scripted import PLAIN
from tests.parts import LENGTH, build, config, draw_batches, labels, made_up_data, train
from tests.training.test_loop import RUNS, assert_same, outcome
from tests.training.test_loop import train as run

NAME = "reward/attributes"


def test_the_loss_is_the_sum_of_separate_bradley_terry_losses():
    model = build(NAME)
    (batch,) = draw_batches(model, 1)
    batch = batch._replace(confidence=torch.linspace(0.5, 1.5, 16))
    assert 0 < batch.mask.mean() < 1 and set(batch.label.unique().tolist()) == {0.0, 0.5, 1.0}
    score = model.score(batch.segments).detach()  # [E, B, 2, M]
    expected = 0.0
    for attribute in range(2):
        known = batch.mask[:, attribute] == 1
        gap = (score[:, :, 1] - score[:, :, 0])[:, known, attribute]
        label = batch.label[known, attribute].expand_as(gap)
        each = binary_cross_entropy_with_logits(gap, label, reduction="none") * batch.confidence[known]
        expected = expected + each.sum(1) / 16
    assert model.update(batch)["loss"].item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_what_an_answer_leaves_open_changes_nothing():
    one, other = build(NAME), build(NAME)
    batches = draw_batches(one, 3)
    for batch in batches:
        one.update(batch)
        noise = torch.rand_like(batch.label)
        other.update(batch._replace(label=torch.where(batch.mask == 1, batch.label, noise)))
    assert_same(one.state_dict(), other.state_dict())


def test_an_attribute_that_nobody_can_tell_has_no_gradient():
    model = build(NAME, weight_decay=0.0)
    before = copy.deepcopy(model.net.out.state_dict())
    (batch,) = draw_batches(model, 1)
    mask = batch.mask.clone()
    mask[:, 1] = 0
    model.update(batch._replace(mask=mask))
    for name, value in model.net.out.state_dict().items():
        assert torch.equal(value[..., 1], before[name][..., 1]) and not torch.equal(value[..., 0], before[name][..., 0])


def test_members_learn_independently():
    together, singles = build(NAME), []
    for e in range(3):
        one = build(NAME, members=1)
        one.net.load_state_dict({k: v[e : e + 1] for k, v in together.net.state_dict().items()})
        singles.append(one)
    for batch in draw_batches(together, 3):
        together.update(batch)
        for one in singles:
            one.update(batch)
    for e, one in enumerate(singles):
        for key, value in one.net.state_dict().items():
            torch.testing.assert_close(together.net.state_dict()[key][e : e + 1], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_attention_is_pytorchs(layers):
    """One member, against nn.TransformerEncoderLayer with its weights, which normalises first too."""
    torch.manual_seed(0)
    net = networks.Reader(5, 2, members=1, context=6, layers=layers, heads=2, width=8)
    states, mask = torch.randn(4, 6, 5), torch.ones(4, 6)
    mask[2:, 4:] = 0
    x = torch.cat(
        [states @ net.embed.weight[0] + net.embed.bias[0] + net.place[0], net.summary[0].expand(4, -1, -1)], 1
    )
    hidden = torch.cat([mask, torch.ones(4, 1)], 1) == 0
    own: Any
    for own in net.blocks:
        layer = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
        given = {
            "self_attn.in_proj_weight": torch.cat([own.query.weight[0], own.key[0], own.value.weight[0]], 1).T,
            "self_attn.in_proj_bias": torch.cat([own.query.bias[0], torch.zeros(8), own.value.bias[0]]),
            "self_attn.out_proj.weight": own.out.weight[0].T, "self_attn.out_proj.bias": own.out.bias[0],
            "linear1.weight": own.widen.weight[0].T, "linear1.bias": own.widen.bias[0],
            "linear2.weight": own.narrow.weight[0].T, "linear2.bias": own.narrow.bias[0],
        }  # fmt: skip
        layer.load_state_dict(given, strict=False)
        x = layer(x, src_key_padding_mask=hidden)
    expected = networks.normalize(x[:, -1]) @ net.out.weight[0] + net.out.bias[0]
    torch.testing.assert_close(net(states, mask)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_strength_is_bounded_and_ignores_what_is_masked():
    model = build(NAME, bound=0.01)
    segments = made_up_data("attributes").attribute_comparisons(16).segments
    assert model.score(segments).abs().max() <= 0.01
    model = build(NAME)
    assert model.score(segments).shape == (3, 16, 2, 2)
    mask = segments.mask.clone()
    mask[..., 5:] = 0
    changed = segments.obs.state.clone()
    changed[..., 5:, :] += 1
    short = Segment(Observation(segments.obs.state[..., :5, :]), segments.action[..., :5, :], mask[..., :5])
    masked = segments._replace(mask=mask, obs=Observation(changed))
    torch.testing.assert_close(model.score(masked), model.score(short))
    assert not torch.allclose(model.score(segments), model.score(short))


def test_every_window_is_labelled_from_0_to_1(monkeypatch):
    model, table = build(NAME), made_up_data("attributes").table  # episodes of 3, 4, 10 and 12 steps; windows of 8
    table = table.view()
    table.relabel(model)
    label = table.labels["attributes"]
    assert label.shape == (table.row_count, 2)
    step = label[table.rows]
    assert torch.equal(step.amin(0), torch.zeros(2)) and torch.equal(step.amax(0), torch.ones(2))
    starts = table.segment_starts(LENGTH)
    own = model.strength(table.segments(starts, LENGTH))
    torch.testing.assert_close(label[starts], own, rtol=1e-4, atol=1e-5)
    i = int(np.flatnonzero(table.steps == 12)[0])
    first = int(table.first[i])
    assert torch.equal(label[first + 4 : first + 12], label[first + 4].expand(8, 2)), "the last window's"
    j = int(np.flatnonzero(table.steps == 3)[0])
    rows = int(table.first[j]) + torch.arange(3)
    whole = Segment(Observation(table.obs[rows]), table.action[rows], torch.ones(3))
    torch.testing.assert_close(label[rows], model.strength(whole).expand(3, 2), rtol=1e-4, atol=1e-5)
    again = build(NAME)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.strength(table.segments(starts, LENGTH)), own)
    monkeypatch.setattr(module, "CHUNK_STEPS", 3 * LENGTH)
    torch.testing.assert_close(model.label(table)[table.rows], step, rtol=1e-4, atol=1e-5)


def test_batches_and_answers_of_another_kind():
    with pytest.raises(UserError, match="learnt from attributes"):
        made_up_data("pair").attribute_comparisons(3)
    with pytest.raises(UserError, match=r"\(fast, high\) are for reward=attributes"):
        made_up_data("attributes").comparisons(3)
    data = made_up_data("attributes")
    assert data.labels is not None
    data.set_labels(data.labels.take(np.zeros(30, bool)))
    with pytest.raises(UserError, match="no usable answers"):
        data.attribute_comparisons(3)
    with pytest.raises(UserError, match="by name"):
        build(NAME, attributes=[])
    with pytest.raises(UserError, match="in pairs"):
        build(NAME, objective="kto")


class Coordinates:
    """Scores a segment by where it begins."""

    def score_at(self, table, starts, length):
        return table.obs[starts][None]


def test_the_accuracy_on_held_out_answers_is_of_each_attribute():
    table = toy.table(20)
    data = Data(table, torch.Generator().manual_seed(0), held_out=0.5)
    starts = table.segment_starts(LENGTH)[torch.randint(len(table) - 200, (200, 2))].numpy()
    gap = np.diff(table.obs.numpy()[starts], axis=1)[:, 0]
    value = (gap > 0).astype(float)
    value[:, 1] = 1 - value[:, 1]
    value[::3, 1], value[1::3, 0] = np.nan, 0.5
    data.set_labels(labels("attributes", starts, value, length=LENGTH)._replace(attributes=("right", "up")))
    found = evaluate_reward(data, Coordinates())  # type: ignore[arg-type]
    assert found["held_out_accuracy_right"] == 1.0 and found["held_out_accuracy_up"] == 0.0
    test = data.test.value
    clear = (~test.isnan() & (test != 0.5)).sum(0)
    assert found["held_out_accuracy"] == pytest.approx(float(clear[0] / clear.sum()))


# What it learns


@pytest.fixture(scope="module")
def walkers():
    """Walkers that are moved by waves, for 64 steps each."""
    env = make_environment(compose_config("env=dm_control/walker-walk")["env"])
    actor, episodes = Waves(low_hz=0.5, high_hz=3.0, size=1.0), []
    for seed in range(30):
        obs, info = env.reset(seed=seed)
        recorder = EpisodeRecorder(env, seed, obs, info)
        actor.start([env], [seed])
        for _ in range(64):
            (action,) = actor.act(obs[None], np.ones(1, bool))
            obs, reward, terminated, _, info = env.step(action)
            recorder.add(action, obs, reward, terminated, info)
        episodes.append(recorder.episode(actor.source(0)))
    return Table(episodes)


@pytest.mark.parametrize("mistake,low,high", [(0.0, 0.75, 1.0), (0.5, -0.6, 0.6)])
def test_what_is_learnt_ranks_walkers_as_what_is_measured(walkers, tmp_path, mistake, low, high):
    """And answers that are wrong half of the time teach nothing."""
    names, teacher = ("speed", "height", "gentleness"), Teacher(**{**PLAIN, "mistake": mistake})
    workers = RolloutWorkers(config("env=dm_control/walker-walk")["env"], 0)
    asked, store = query(*names, count=400), Store("sqlite://")
    teacher.start(Context(store, walkers, asked, data_dir=tmp_path, workers=workers))
    asking = Asking(table=walkers, query=asked, source=teacher, store=store)
    asking.ask(0, None)
    data = Data(walkers, torch.Generator().manual_seed(0))
    data.set_labels(asking.labels)
    model = build(NAME, walkers.spec(), attributes=list(names), context=10, batch_size=32, lr=3e-3)
    table = walkers.view()
    table.relabel(train(model, data, 120))
    measured, starts = measure_table(table, workers, tmp_path), table.segment_starts(10)
    for i, name in enumerate(names):
        true = torch.from_numpy(mean_over(measured[name], table.segment_rows(starts, 10).numpy()))
        assert low < rank_correlation(table.labels["attributes"][starts, i].double(), true) < high, name


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """Killed in mid-learning, once the windows were labelled, and in the second round."""
    extra = [*RUNS["attributes-in-rounds"], "reward.steps=40", "steps=40", "eval_every=40", "eval_episodes=2",
             "final_episodes=2", "data.episodes=10", "query.count=40"]  # fmt: skip
    monkeypatch.setattr(report, "write_page", lambda folder: folder)  # they take longer than all the rest
    monkeypatch.setattr(report, "plot", lambda folder: None)
    monkeypatch.setattr(summary, "header", lambda *args, **more: [])
    run(tmp_path / "whole", *extra)
    saves, kept = [0], Training._save

    def save_and_die(self):
        kept(self)
        saves[0] += 1
        if saves[0] in (3, 6, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "_save", save_and_die)
    died = 0
    for _ in range(5):
        try:
            run(tmp_path / "killed", *extra)
            break
        except KeyboardInterrupt:
            died += 1
    assert died == 3 and files.load(tmp_path / "killed" / "run" / "checkpoint.pt", torch.device("cpu"))
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "killed"))
    state = torch.load(tmp_path / "whole" / "run" / "checkpoint.pt", weights_only=True)["replicas"][0]
    assert state["labels"]["attributes"].shape[1] == 3 and state["reward"]["low"].shape == (3,)
    measures = log.read(tmp_path / "whole" / "run", "held_out")
    assert len(measures) == 2 and 0 <= measures[-1]["held_out_accuracy_right"] <= 1
    result = outcome(tmp_path / "whole")["results"][0]["reward_model"]
    assert {"held_out_accuracy", "held_out_accuracy_speed", "held_out_accuracy_turn"} <= set(result)
