"""The table: what is next to what, that nothing crosses an episode's end, and that it grows without a trace."""

import numpy as np
import pytest
import torch

from pbrl.algos.bc import BC
from pbrl.data.episodes import content_hash, episode_id
from pbrl.data.table import Table, scale_of, standardize
from pbrl.models.gaussian import GaussianPolicy
from pbrl.rewards import per_step
from pbrl.rewards.per_step import PerStepReward
from pbrl.types import Clip, Episode, UserError
from tests import toy
from tests.parts import build


def episode(steps: int, mark: float, terminated: bool = False) -> Episode:
    """An episode whose observations count its steps and whose second column is its mark."""
    obs = np.stack([np.arange(steps + 1), np.full(steps + 1, mark)], 1).astype(np.float32)
    return Episode(
        seed=int(mark),
        obs=obs,
        action=np.full((steps, 1), mark, np.float32),
        reward=np.arange(steps, dtype=np.float32),
        terminated=terminated,
        success=np.arange(steps + 1) == steps,
        state=obs.astype(np.float64),
    )


EPISODES = [episode(5, 1), episode(3, 2, terminated=True), episode(8, 3)]


def test_transitions_stay_in_their_episode():
    table = Table(EPISODES)
    assert len(table) == 16
    batch = table.transitions(table.rows)
    obs, next_obs = batch.obs.state, batch.next_obs.state
    assert torch.equal(next_obs[:, 0], obs[:, 0] + 1)
    assert torch.equal(next_obs[:, 1], obs[:, 1])
    assert torch.equal(batch.action[:, 0], obs[:, 1])
    assert torch.equal(batch.reward, obs[:, 0])


def test_only_a_true_terminal_is_done():
    table = Table(EPISODES)
    done = table.transitions(table.rows).done
    assert done.sum() == 1 and done[5 + 3 - 1] == 1 and table.spec().terminates
    assert not toy.table(4).spec().terminates


@pytest.mark.parametrize("length", [1, 3, 5, 8])
def test_segments_stay_in_their_episode(length):
    table = Table(EPISODES)
    starts = table.segment_starts(length)
    assert len(starts) == sum(max(0, len(e.action) - length + 1) for e in EPISODES)
    rows = table.segment_rows(starts, length)
    assert (table.obs[rows][..., 1] == table.obs[rows][..., :1, 1]).all()  # one episode
    assert (table.obs[rows][:, 1:, 0] - table.obs[rows][:, :-1, 0] == 1).all()  # step by step
    assert torch.isin(rows, table.rows).all()  # every row holds a step
    segments = table.segments(starts, length)
    assert torch.equal(segments.obs.state, table.obs[rows]) and torch.equal(segments.action, table.action[rows])
    assert segments.mask.shape == rows.shape and segments.mask.all()


def test_windows_stay_in_their_episode_and_say_where_it_ends():
    table = Table(EPISODES)  # 5, 3 (a true terminal) and 8 steps
    w = table.windows(torch.tensor([0, 3, 6, 8, 10, 17]), 4)
    assert w.last.tolist() == [3, 2, 3, 1, 3, 1]
    assert w.done.tolist() == [0, 0, 1, 1, 0, 0]
    assert w.obs.state[1, :, 0].tolist() == w.step[1].tolist() == [3, 4, 5, 5]
    assert w.mask.tolist()[1] == [1, 1, 0, 0] and w.mask[4].all() and w.mask.sum() == 4 + 2 + 3 + 1 + 4 + 1
    assert (w.obs.state[..., 1] == w.obs.state[:, :1, 1]).all()
    assert torch.equal(w.reward * w.mask, w.obs.state[..., 0] * w.mask)


def test_returns_to_go_are_the_sums_of_later_rewards():
    table = Table(EPISODES)
    returns_to_go = table.labels["return_to_go"]
    assert returns_to_go[:6].tolist() == [10, 10, 9, 7, 4, 0]
    assert returns_to_go[table.opening].tolist() == table.returns.tolist()
    table.set_label("reward", torch.ones(len(table.obs)))  # a row that holds no step has no reward
    assert table.labels["return_to_go"][6:10].tolist() == [3, 2, 1, 0]


def test_a_segment_longer_than_all_episodes_is_refused():
    with pytest.raises(UserError, match="query.length"):
        Table(EPISODES).segment_starts(9)


def test_separate_segments_follow_each_other_in_every_episode():
    """Episodes of 5, 3 and 8 steps begin at rows 0, 6 and 10."""
    found = {length: Table(EPISODES).separate_starts(length).tolist() for length in (2, 3, 8)}
    assert found == {2: [0, 2, 6, 10, 12, 14, 16], 3: [0, 6, 10, 13], 8: [10]}


def test_best_rows_are_those_of_the_best_episodes():
    table = Table(EPISODES)  # returns 10, 3, 28
    assert table.obs[table.best_rows(0.34)][:, 1].unique().tolist() == [3]
    assert table.obs[table.best_rows(0.67)][:, 1].unique().tolist() == [1, 3]
    assert torch.equal(table.best_rows(1.0).sort().values, table.rows)
    with pytest.raises(UserError, match="fraction"):
        table.best_rows(0)


def test_the_table_costs_what_its_arrays_cost():
    table = toy.table(40)
    held = [*vars(table).values(), *table._storage.values(), *table.labels.values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in held if isinstance(t, torch.Tensor)}
    used = sum(storage.nbytes() for storage in storages.values())
    numbers = len(table.obs) * (2 + 2 + 4)  # observations, actions, and four numbers a row
    assert used <= 4 * numbers + 16 * len(table.obs) + 16 * 40  # beside them int64: two a row, two an episode


def test_standardize():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    z = standardize(x, x, "zscore")
    torch.testing.assert_close(z.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(1), torch.ones(2))
    assert standardize(x, x, "minmax").aminmax() == (0, 1)
    torch.testing.assert_close(standardize(x, x, "std") * x.std(1, keepdim=True), x)
    assert torch.equal(standardize(x, x, "none"), x)
    with pytest.raises(UserError, match="minmax"):
        standardize(x, x, "softmax")


class Twice:
    """A reward model of two members: the true reward, and a hundred times it."""

    gives = "reward"

    def __init__(self, normalize):
        self.normalize = normalize

    def label(self, table):
        return torch.stack([table.obs[:, 0], 100 * table.obs[:, 0]])


def test_relabelling_weighs_members_alike_and_changes_what_learners_see():
    table = Table(EPISODES)
    table.relabel(Twice("zscore"))
    observed = table.transitions(table.rows).reward
    torch.testing.assert_close(
        observed, (table.obs[table.rows, 0] - table.obs[table.rows, 0].mean()) / table.obs[table.rows, 0].std()
    )
    assert not torch.equal(observed, table.reward[table.rows])


class Recent(PerStepReward):
    """What was observed in this step and the two before it."""

    def __init__(self):
        super().__init__(context=3, normalize="none")

    def reward(self, obs, action):
        assert obs.state.shape[1:] == (3, 2) and action.shape[1:] == (3, 1)
        observed = obs.state[..., 0].cumsum(-1)
        return observed[None]  # of three steps at most, so the sum up to a step is that of the last three


def test_a_reward_of_several_steps_reads_those_of_its_own_episode(monkeypatch):
    table = Table(EPISODES)
    table.relabel(Recent())
    expected = [sum(range(max(0, t - 2), t + 1)) for t in range(8)]
    for first, steps in zip(table.first, table.steps, strict=True):
        assert table.labels["reward"][first : first + steps].tolist() == expected[:steps]
    whole = Recent().label(table)
    monkeypatch.setattr(per_step, "CHUNK_ROWS", 3 * 7)
    torch.testing.assert_close(Recent().label(table), whole)


def test_where_episodes_terminate_the_learned_reward_never_pays_for_an_early_end():
    table = Table(EPISODES)
    table.relabel(Twice("auto"))
    assert table.labels["reward"][table.rows].min() == 0
    table = Table([e._replace(terminated=False) for e in EPISODES])
    table.relabel(Twice("auto"))
    torch.testing.assert_close(table.labels["reward"][table.rows], 50.5 * table.obs[table.rows, 0])


def test_no_episodes():
    with pytest.raises(UserError, match="no episode"):
        Table([])


def test_an_episode_is_identified_by_its_content():
    same = episode(5, 1)._replace(source="another behavior")
    others = [episode(5, 2), episode(6, 1), episode(5, 1, terminated=True), episode(5, 1)._replace(seed=9)]
    assert episode_id(same) == episode_id(EPISODES[0]) == content_hash([EPISODES[0]])
    assert len({episode_id(e) for e in [*others, EPISODES[0]]}) == 5
    table = Table([*EPISODES, same])
    assert table.ids == [episode_id(e) for e in [*EPISODES, same]]
    assert table.row(Clip(table.ids[3], 2, 3)) == 2, "of two equal episodes the first"


@pytest.mark.parametrize("length", [1, 3, 5])
def test_clips_and_rows_are_each_others_inverse(length):
    table = Table(EPISODES)
    starts = table.segment_starts(length).numpy()
    clips = table.clips(starts, length)
    assert [table.row(clip) for clip in clips] == starts.tolist()
    assert all(table.has_clip(clip) and clip.length == length for clip in clips)
    reordered = Table(EPISODES[::-1])  # a clip belongs to the episode, not to a data set
    for clip, row in zip(clips, starts, strict=True):
        assert torch.equal(reordered.obs[reordered.row(clip)], table.obs[row])


def test_a_clip_of_no_episode_of_the_table_is_refused():
    table = Table(EPISODES[:2])
    unknown = Clip(episode_id(EPISODES[2]), 0, 1)
    for clip in (unknown, Clip(table.ids[0], 3, 3), Clip(table.ids[0], -1, 2)):
        assert not table.has_clip(clip)
        with pytest.raises(UserError, match="has no episode"):
            table.row(clip)
    assert table.has_clip(Clip(table.ids[0], 3, 2))


def is_the_same(grown: Table, whole: Table) -> None:
    """That two tables hold the same, to the bit."""
    for name in ("obs", "action", "reward", "done", "rows", "episode", "opening", "closing"):
        assert torch.equal(getattr(grown, name), getattr(whole, name)), name
    for name in ("first", "steps", "seed", "returns", "success", "state"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name), err_msg=name)
    assert grown.ids == whole.ids and grown.source == whole.source and grown.instruction == whole.instruction
    assert grown.spec() == whole.spec() and len(grown) == len(whole)


def test_a_table_that_has_grown_is_one_of_all_its_episodes():
    table = Table(EPISODES[:1])
    for more in EPISODES[1:]:
        table.append(more, {"reward": more.reward})
    whole = Table(EPISODES)
    is_the_same(table, whole)
    for name in ("reward", "return_to_go"):
        assert torch.equal(table.labels[name], whole.labels[name]), name
    assert torch.equal(table.windows(table.rows, 4).returns_to_go, whole.windows(whole.rows, 4).returns_to_go)
    assert torch.equal(table.segment_starts(3), whole.segment_starts(3))


def test_within_its_capacity_a_table_is_not_copied_and_beyond_it_grows():
    table = Table(EPISODES[:1], capacity=20)  # 6 rows of it are used
    begin = table.obs.data_ptr()
    assert table.row_count == len(table.obs) == 6
    table.append(EPISODES[1])
    table.append(EPISODES[2])
    assert table.row_count == len(table.obs) == len(table.reward) == 19 and table.obs.data_ptr() == begin
    table.append(episode(2, 4))
    assert table.row_count == 22 and table.obs.data_ptr() != begin
    is_the_same(table, Table([*EPISODES, episode(2, 4)]))
    begin = table.obs.data_ptr()
    table.append(episode(7, 5))  # it had grown to twice its size
    assert table.obs.data_ptr() == begin
    is_the_same(table, Table([*EPISODES, episode(2, 4), episode(7, 5)]))


def test_clips_and_labels_stay_valid_when_a_table_grows():
    table = Table(EPISODES[:2])
    clips = table.clips(table.segment_starts(2).numpy(), 2)
    rows = [table.row(clip) for clip in clips]
    table.set_label("reward", torch.arange(10.0))
    table.set_label("preferred", torch.arange(20.0).reshape(10, 2))
    before = {name: values.clone() for name, values in table.labels.items()}
    table.append(EPISODES[2], {"reward": np.full(8, 2.0, np.float32)})
    assert [table.row(clip) for clip in clips] == rows
    for name, values in before.items():
        assert torch.equal(table.labels[name][:10], values), name
    assert table.labels["reward"][10:].tolist() == [2.0] * 8 + [0.0]
    assert table.labels["return_to_go"][10:].tolist() == [16, 14, 12, 10, 8, 6, 4, 2, 0]
    assert table.labels["preferred"].shape == (19, 2) and table.labels["preferred"][10:18].isnan().all()


def test_labels_that_were_not_given_are_unknown_until_they_are_set():
    table = Table(EPISODES[:1])
    table.append(EPISODES[1])
    assert table.labels["reward"][6:9].isnan().all() and table.labels["return_to_go"][6:9].isnan().all()
    assert table.labels["return_to_go"][:6].tolist() == [10, 10, 9, 7, 4, 0], "of the earlier episode it is known"
    table.relabel_true("none")
    assert table.labels["return_to_go"][6:].tolist() == [3, 3, 2, 0]


def test_an_episode_of_other_sizes_is_refused_and_changes_nothing():
    table, e = Table(EPISODES[:1]), episode(4, 7)
    for wrong in (e._replace(obs=e.obs[:, :1]), e._replace(action=np.zeros((4, 2), np.float32))):
        with pytest.raises(UserError, match="does not fit"):
            table.append(wrong)
    with pytest.raises(UserError, match="images cannot grow"):
        Table(EPISODES[:1], images={"front": np.zeros((6, 4, 4, 3), np.uint8)}).append(EPISODES[1])
    is_the_same(table, Table(EPISODES[:1]))


def test_views_have_labels_of_their_own():
    table = Table(EPISODES)
    view = table.view()
    view.set_label("reward", torch.ones(19))
    view.set_label("confidence", torch.ones(19))
    assert view.obs.data_ptr() == table.obs.data_ptr()
    assert torch.equal(table.labels["reward"], table.reward) and "confidence" not in table.labels
    assert view.labels["reward"].sum() == 16, "rows that hold no step have none"
    assert torch.equal(view.reward, table.reward), "the true reward stays as it is"
    assert view.transitions(view.rows).reward.tolist() == [1.0] * 16


@pytest.mark.parametrize("normalize", ["none", "std", "zscore", "minmax"])
def test_new_episodes_are_rewarded_on_the_scale_of_the_data(normalize):
    """By the true reward and by a learnt one, the episodes of a table have the labels that they have there."""
    table, first = Table(EPISODES), Table(EPISODES[:1])
    rows = first.row_count
    table.relabel_true(normalize)
    first.relabel_like(table, None)
    torch.testing.assert_close(first.labels["reward"], table.labels["reward"][:rows])
    reward = build("reward/ensemble", table.spec(), normalize=normalize)
    table.relabel(reward)
    first.relabel_like(table, reward)
    torch.testing.assert_close(first.labels["reward"], table.labels["reward"][:rows])
    alone = Table(EPISODES[:1])
    alone.relabel(reward)
    assert torch.allclose(alone.labels["reward"], first.labels["reward"]) == (normalize == "none")


@pytest.mark.parametrize("offset, half_width", [(0, 1), (0, 1e-3), (0, 1e-6), (0, 1e-9), (0.3, 1e-4), (17_000, 1)])
def test_a_column_is_scaled_by_its_own_size(offset, half_width):
    """A law of one number is cloned to 0.005, in whatever unit the number is; constant columns beside it are left."""
    random, rows = np.random.default_rng(0), []
    for i in range(20):
        x = random.uniform(-1, 1, 51)
        obs = np.stack([offset + half_width * x, np.full(51, 0.3), np.zeros(51)], 1).astype(np.float32)
        rows.append(Episode(i, obs, np.tanh(3 * x[:-1, None]).astype(np.float32), np.zeros(50, np.float32), False))
    table = Table(rows)
    spec = table.spec()
    assert spec.obs_std[0] == pytest.approx(half_width / 3**0.5, rel=0.03) and spec.obs_std[1:] == (1, 1)
    torch.manual_seed(0)
    policy = GaussianPolicy(spec, hidden=[64, 64], dropout=0.0, std=0.0)
    learner = BC(spec, policy, fraction=1.0, weights=None, above=0.5, lr=1e-3, cosine_steps=0, batch_size=256)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        learner.update(table.transitions(table.rows[torch.randint(len(table.rows), (256,), generator=generator)]))
    with torch.no_grad():
        error = (policy.act(table.observe(table.rows)) - table.action[table.rows]).abs().mean().item()
    assert error < 0.015


def test_what_differs_by_rounding_alone_is_constant():
    """Next to 17,000 float32 counts in steps of 0.002; sums that should be zero leave 1e-16 in double precision."""
    noise = np.random.default_rng(0).integers(0, 2, 1000)
    columns = [17_000 + noise / 512, 0.3 + noise * 2**-25, 1e-15 * noise, 17_000 + noise]
    scale = scale_of(torch.from_numpy(np.stack(columns, 1).astype(np.float32)))
    assert scale[:3].tolist() == [1, 1, 1] and scale[3].item() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("how", ["std", "zscore", "minmax"])
def test_rewards_are_normalised_whatever_their_unit_and_constant_ones_stay_small(how):
    values = torch.linspace(0, 1, 101)[None]
    torch.testing.assert_close(standardize(1e-9 * values, 1e-9 * values, how), standardize(values, values, how))
    assert standardize(torch.full((1, 9), 0.1), torch.full((1, 9), 0.1), how).abs().max() <= 0.1
