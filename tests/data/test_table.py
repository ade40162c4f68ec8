"""The table: what is next to what, and that nothing crosses an episode's end."""

import numpy as np
import pytest
import torch

from pbrl.data.table import Table, standardize
from pbrl.types import Episode, UserError
from tests import toy


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
    assert torch.equal(batch.next_obs[:, 0], batch.obs[:, 0] + 1)
    assert torch.equal(batch.next_obs[:, 1], batch.obs[:, 1])
    assert torch.equal(batch.action[:, 0], batch.obs[:, 1])
    assert torch.equal(batch.reward, batch.obs[:, 0])


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


def test_windows_stay_in_their_episode_and_say_where_it_ends():
    table = Table(EPISODES)  # 5, 3 (a true terminal) and 8 steps
    w = table.windows(torch.tensor([0, 3, 6, 8, 10, 17]), 4)
    assert w.last.tolist() == [3, 2, 3, 1, 3, 1]
    assert w.done.tolist() == [0, 0, 1, 1, 0, 0]
    assert w.obs[1, :, 0].tolist() == w.step[1].tolist() == [3, 4, 5, 5]
    assert w.holds.tolist()[1] == [1, 1, 0, 0] and w.holds[4].all() and w.holds.sum() == 4 + 2 + 3 + 1 + 4 + 1
    assert (w.obs[..., 1] == w.obs[:, :1, 1]).all()
    assert torch.equal(w.reward * w.holds, w.obs[..., 0] * w.holds)


def test_returns_to_go_are_what_is_earned_from_there_on():
    table = Table(EPISODES)
    assert table.returns_to_go[:6].tolist() == [10, 10, 9, 7, 4, 0]
    assert table.returns_to_go[table.opening].tolist() == table.returns.tolist()
    table.learned = torch.ones(len(table.obs))  # a row that holds no step earns nothing
    assert table.returns_to_go[6:10].tolist() == [3, 2, 1, 0]


def test_a_segment_longer_than_all_episodes_is_refused():
    with pytest.raises(UserError, match="query.length"):
        Table(EPISODES).segment_starts(9)


def test_best_rows_are_those_of_the_best_episodes():
    table = Table(EPISODES)  # returns 10, 3, 28
    assert table.obs[table.best_rows(0.34)][:, 1].unique().tolist() == [3]
    assert table.obs[table.best_rows(0.67)][:, 1].unique().tolist() == [1, 3]
    assert torch.equal(table.best_rows(1.0).sort().values, table.rows)
    with pytest.raises(UserError, match="fraction"):
        table.best_rows(0)


def test_the_table_costs_what_its_arrays_cost():
    table = toy.table(40)
    used = sum(t.element_size() * t.nelement() for t in vars(table).values() if isinstance(t, torch.Tensor))
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

    context = 1

    def __init__(self, normalize):
        self.normalize = normalize

    def reward(self, obs, action):
        return torch.stack([obs[..., 0], 100 * obs[..., 0]])


def test_relabelling_weighs_members_alike_and_changes_what_learners_see():
    table = Table(EPISODES)
    table.relabel(Twice("zscore"))
    seen = table.transitions(table.rows).reward
    torch.testing.assert_close(
        seen, (table.obs[table.rows, 0] - table.obs[table.rows, 0].mean()) / table.obs[table.rows, 0].std()
    )
    assert not torch.equal(seen, table.reward[table.rows])


class Recent:
    """What was observed in this step and the two before it."""

    context, normalize = 3, "none"

    def reward(self, obs, action):
        assert obs.shape[1:] == (3, 2) and action.shape[1:] == (3, 1)
        seen = obs[..., 0].cumsum(-1)
        return seen[None]  # of three steps at most, so the sum up to a step is that of the last three


def test_a_reward_that_remembers_remembers_its_own_episode():
    table = Table(EPISODES)
    table.relabel(Recent())
    expected = [sum(range(max(0, t - 2), t + 1)) for t in range(8)]
    for first, steps in zip(table.first, table.steps, strict=True):
        assert table.learned[first : first + steps].tolist() == expected[:steps]
    torch.testing.assert_close(table.map(Recent(), chunk=7), table.map(Recent()))


def test_where_episodes_terminate_the_learnt_reward_never_pays_for_dying():
    table = Table(EPISODES)
    table.relabel(Twice("auto"))
    assert table.learned[table.rows].min() == 0
    table = Table([e._replace(terminated=False) for e in EPISODES])
    table.relabel(Twice("auto"))
    torch.testing.assert_close(table.learned[table.rows], 50.5 * table.obs[table.rows, 0])


def test_no_episodes():
    with pytest.raises(UserError, match="no episode"):
        Table([])
