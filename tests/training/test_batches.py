"""Which batches learners draw from labels, and how a reward model is tested on those that were held out."""

import numpy as np
import pytest
import torch

from pbrl.feedback.labels import split
from pbrl.training.batches import NO_RATER, OTHERS, Data, draw_from_groups
from pbrl.training.held_out import evaluate_reward, held_out_pairs
from pbrl.types import UserError
from tests import toy
from tests.parts import labels

LENGTH = 4


@pytest.fixture(scope="module")
def table():
    return toy.table(40)


def data_with(table, kind, starts, value, *, held_out=0.0, **more) -> Data:
    data = Data(table.view(), torch.Generator().manual_seed(0), held_out=held_out)
    data.set_labels(labels(kind, np.array(starts), np.array(value), length=LENGTH, **more))
    return data


def rows_of(table, segments) -> list:
    """The rows at which segments [..., L, …] begin, known by what is observed there."""
    first = segments.obs.state[..., 0, :].reshape(-1, 2)
    rows = (first[:, None] == table.obs).all(-1).float().argmax(1)
    return rows.reshape(segments.mask.shape[:-1]).tolist()


class Sure:
    """A reward model by whose scores a pair's truly better segment leads by `lead`."""

    def __init__(self, lead: float):
        self.lead = lead

    def score(self, segment):
        x = segment.obs.state
        right = (x[..., 0, 0] == x[..., 0, 0].amax(1, keepdim=True)).float()  # [B, 2]: starts farther right
        return (self.lead * right)[None]

    def score_at(self, table, starts, length):
        return self.score(table.segments(starts, length))


def test_calibration_is_the_gap_between_confidence_and_being_right(table):
    places = table.segment_starts(LENGTH)
    starts = places[torch.randint(len(places), (4000, 2), generator=torch.Generator().manual_seed(0))]
    better = (table.obs[starts[:, 1], 0] > table.obs[starts[:, 0], 0]).double().numpy()
    wrong = np.random.default_rng(0).random(4000) < 0.2
    data = data_with(table, "pair", starts.numpy(), np.where(wrong, 1 - better, better), held_out=0.5)
    assert len(data.train) + len(data.test) == 4000 and len(data.test) == pytest.approx(2000, abs=150)
    measures = evaluate_reward(data, Sure(np.log(0.95 / 0.05)))  # type: ignore[arg-type]
    assert measures["held_out_accuracy"] == pytest.approx(0.8, abs=0.03)
    assert measures["calibration_error"] == pytest.approx(0.15, abs=0.03)  # says 95 %, is right in 80 %
    assert evaluate_reward(data, Sure(np.log(4)))["calibration_error"] < 0.03  # type: ignore[arg-type]


def test_a_segment_alone_in_its_list_is_compared_with_nothing(table):
    """Of a list only one segment may be left, where the others were skipped, taken back or held out."""
    starts = table.segment_starts(LENGTH)[:5, None].numpy()
    data = data_with(table, "ranking", starts, [0.0, 1.0, 2.0, 1.0, 3.0], group=np.array([0, 1, 1, 1, 2]))
    assert len(data.train) == 3 and set(sum(rows_of(table, data.comparisons(200).segments), [])) <= {*starts[1:4, 0]}
    alone = data_with(table, "ranking", starts[:2], [0.0, 1.0], group=np.array([0, 1]))
    with pytest.raises(UserError, match="no usable answers"):
        alone.comparisons(3)


def test_answers_that_are_all_ties_measure_no_accuracy(table):
    starts = table.segment_starts(LENGTH)[:40].numpy().reshape(20, 2)
    data = data_with(table, "pair", starts, [0.5] * 20, held_out=0.5)
    measures = evaluate_reward(data, Sure(0.0))  # type: ignore[arg-type]
    assert np.isnan(measures["held_out_accuracy"]) and np.isnan(measures["rank_correlation"])
    assert measures["calibration_error"] == 0.0


def test_without_held_out_answers_nothing_is_measured(table):
    assert evaluate_reward(data_with(table, "pair", [[0, 40], [1, 41]], [1.0, 0.5]), Sure(1.0)) == {}  # type: ignore[arg-type]


def test_what_is_held_out_is_up_to_the_question_alone(table):
    """More answers, or answers in another order, move none from one side to the other; clips of one question stay."""
    question = np.array([f"{i * 2**32 // 50:08x}" + "0" * 24 for i in range(50) for _ in range(2)], object)
    every = labels("ranking", np.arange(100)[:, None], np.arange(100.0), length=LENGTH, question=question)
    train, test = split(every, 0.29)
    assert test.starts[:, 0].tolist() == list(range(30)) and train.starts[:, 0].tolist() == list(range(30, 100))
    order = np.random.default_rng(0).permutation(100)[:60]
    some = labels("ranking", order[:, None], order.astype(float), length=LENGTH, question=question[order])
    assert set(split(some, 0.29)[1].starts[:, 0]) == {i for i in order if i < 30}
    for part in (train, test):
        assert (part.value == part.starts[:, 0]).all() and (part.question == question[part.starts[:, 0]]).all()
    assert len(split(every, 0.0)[1].value) == 0


def test_a_learned_reward_labels_segments_that_no_rater_compared(table):
    data = Data(table.view(), torch.Generator().manual_seed(0), length=LENGTH)
    data.table.set_label("reward", -table.obs[:, 0])  # farther left is better
    batch = data.labelled_by_reward(2000)
    lead = -batch.segments.obs.state[..., 0].sum(-1).diff(dim=1)[:, 0]
    clear = lead.abs() > 1e-5  # beyond rounding
    assert clear.float().mean() > 0.95 and torch.equal(batch.label[clear], (lead[clear] > 0).float())
    assert len(batch.segments.obs.state[:, 0, 0].unique(dim=0)) > 500
    assert (batch.rater == NO_RATER).all() and (batch.confidence == 1).all()
    lists = data.labelled_by_reward(50, 5)
    torch.testing.assert_close(lists.label, -lists.segments.obs.state[..., 0].sum(-1))


def test_a_win_rate_is_against_the_segments_of_the_data(table):
    """By Bradley-Terry, against some that are spread over the data; what the answer says makes no difference."""
    data = data_with(table, "pair", [[0, 40], [5, 3]], [1.0, 0.0])
    data.table.set_label("reward", table.obs[:, 0] / 100)
    pairs, win_rate = data.comparisons_with_win_rates(200)
    worth = pairs.segments.obs.state[..., 0].sum(-1) / 100
    places = table.segment_starts(data.length)
    others = table.obs[table.segment_rows(places, data.length), 0].sum(-1) / 100
    assert len(others) > OTHERS
    torch.testing.assert_close(win_rate, (worth[..., None] - others).sigmoid().mean(-1), atol=0.01, rtol=0.0)
    assert set(pairs.label.tolist()) == {0.0, 1.0} and (pairs.rater >= 0).all()
    data.table.set_label("reward", 7 + 0 * table.obs[:, 0])
    assert (data.comparisons_with_win_rates(9)[1] == 0.5).all()


def test_rankings_compare_within_their_list(table):
    starts, value = [[0], [1], [2], [40], [41]], [0.0, 1.0, 1.0, 5.0, 4.0]
    data = data_with(table, "ranking", starts, value, group=np.array([0, 0, 0, 1, 1]))
    batch = data.comparisons(3000)
    found = {(a, b, y) for (a, b), y in zip(rows_of(table, batch.segments), batch.label.tolist(), strict=True)}
    expected = {(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.5), (40, 41, 0.0)}
    assert found == expected | {(b, a, 1 - y) for a, b, y in expected}
    more = [*starts, [50], [51]], [*value, 0.0, 1.0]
    data = data_with(table, "ranking", *more, group=np.array([0, 0, 0, 1, 1, 2, 2]))
    pairs = {tuple(sorted(pair)) for pair in rows_of(table, data.comparisons(3000).segments)}
    assert pairs == {(0, 1), (0, 2), (1, 2), (40, 41), (50, 51)}


def test_lists_hold_distinct_segments_of_one_ranking(table):
    starts, value = [[0], [1], [2], [40], [41], [42], [43]], [5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]
    data = data_with(table, "ranking", starts, value, group=np.array([0, 0, 0, 1, 1, 1, 1]))
    batch = data.comparisons(6000, 3)
    rows = torch.tensor(rows_of(table, batch.segments))
    assert {tuple(sorted(row)) for row in rows.tolist()} == {
        (0, 1, 2), (40, 41, 42), (40, 41, 43), (40, 42, 43), (41, 42, 43),
    }  # fmt: skip
    own = torch.where(rows < 40, rows + 5, rows - 40)
    assert torch.equal(batch.label, own.float())
    for order in set(map(tuple, rows.tolist())):  # 3 of 7 first draws fall on the short list's 6 orders, and so on
        share = (rows == torch.tensor(order)).all(1).float().mean().item()
        assert share == pytest.approx(3 / 7 / 6 if order[0] < 40 else 4 / 7 / 24, abs=0.012)
    with pytest.raises(UserError, match="objective.segments=4, but a list holds 3"):
        data.comparisons(8, 4)


def test_places_drawn_from_groups_are_distinct_and_uniform():
    group = torch.tensor([0, 0, 3, 3, 3, 3, 3])
    drawn = draw_from_groups(group, 2, 20_000, torch.Generator().manual_seed(0))
    assert (drawn[:, 0] != drawn[:, 1]).all() and torch.equal(group[drawn[:, 0]], group[drawn[:, 1]])
    for pair, expected in (((0, 1), 1 / 7), ((2, 5), 1 / 7 / 4), ((6, 3), 1 / 7 / 4)):
        assert (drawn == torch.tensor(pair)).all(1).float().mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kind", ["rating", "ranking", "spans"])
def test_a_segment_is_good_above_the_mean_of_its_list(table, kind):
    starts, value = [[0], [1], [2], [40], [41], [42], [43]], [1.0, 2.0, 3.0, 1.0, 1.0, 5.0, 5.0]
    group = np.array([0, 0, 0, 1, 1, 1, 1]) if kind == "ranking" else None
    batch = data_with(table, kind, starts, value, group=group).marked(2000)
    rows = torch.tensor(rows_of(table, batch.segments))
    found = dict(zip(rows.flatten().tolist(), batch.label.flatten().tolist(), strict=True))
    middle = 0.5 if kind == "ranking" else 0.0  # the mean of its list is 2, of all it is 18 / 7
    assert found == {0: 0.0, 1: middle, 2: 1.0, 40: 0.0, 41: 0.0, 42: 1.0, 43: 1.0}
    assert rows.shape == batch.label.shape == (2000, 2) and (rows[:, 0] != rows[:, 1]).all()


def test_a_pairs_winner_is_good_and_its_loser_bad_and_so_by_a_learned_reward(table):
    data = data_with(table, "pair", [[0, 40], [1, 41]], [1.0, 0.5])
    assert {tuple(row) for row in data.marked(50).label.tolist()} == {(0.0, 1.0), (0.5, 0.5)}
    data.table.set_label("reward", table.obs[:, 0])
    batch = data.marked_by_reward(2000)
    sums = batch.segments.obs.state[..., 0].sum(-1)
    assert torch.equal(batch.label, (sums > LENGTH * data.table.labels["reward"].mean()).float())


def test_unlabelled_pairs_have_no_answer(table):
    data = Data(table, torch.Generator().manual_seed(0), length=LENGTH)
    batch = data.unlabelled(50)
    assert batch.segments.obs.state.shape[:3] == (50, 2, 4) and (batch.label == 0.5).all()
    assert (batch.rater == NO_RATER).all() and (batch.confidence == 1).all()


def test_a_pair_carries_its_rater_and_the_confidence_of_its_answer(table):
    rater, confidence = np.array([0, 1, 2]), np.array([0.25, 0.5, 1.0])
    starts = [[0, 40], [1, 41], [2, 42]]
    data = data_with(table, "pair", starts, [1.0, 0.0, 0.5], rater=rater, confidence=confidence, raters=("a", "b", "c"))
    for batch in (data.comparisons(100), data.marked(100)):
        rows = torch.tensor(rows_of(table, batch.segments))
        assert torch.equal(batch.rater, rows[:, 0]) and len(batch.rater.unique()) == 3
        torch.testing.assert_close(batch.confidence, torch.tensor(confidence).float()[rows[:, 0]])


@pytest.mark.parametrize("kind", ["rating", "ranking"])
def test_what_is_drawn_from_several_answers_is_as_confident_as_all_are_together(table, kind):
    confidence = np.array([0.25, 0.5, 1.0])
    data = data_with(table, kind, [[0], [1], [2]], [1.0, 2.0, 3.0], confidence=confidence, rater=np.array([4, 4, 4]))
    for batch in (data.comparisons(100), data.marked(100), data.comparisons(100, 3)):
        rows = torch.tensor(rows_of(table, batch.segments))
        torch.testing.assert_close(batch.confidence, torch.tensor(confidence).float()[rows].prod(1))
        assert (batch.rater == 4).all()


def test_labels_that_do_not_allow_what_is_drawn(table):
    data = Data(table, torch.Generator().manual_seed(0), length=LENGTH)
    for empty in (data, data_with(table, "pair", np.zeros((0, 2)), []), data_with(table, "rating", [[1]], [2.0])):
        for draw in (empty.comparisons, empty.marked):
            with pytest.raises(UserError, match="no usable answers"):
                draw(4)
    with pytest.raises(UserError, match="query.kind=ranking or rating"):
        data_with(table, "pair", [[0, 40]], [1.0]).comparisons(4, 3)


def test_new_labels_replace_the_old_ones(table):
    data = data_with(table, "pair", [[0, 40], [1, 41]], [1.0, 0.0])
    data.set_labels(labels("pair", np.array([[2, 42]]), np.array([1.0]), length=3))
    assert rows_of(table, data.comparisons(20).segments) == [[2, 42]] * 20
    assert data.comparisons(1).segments.action.shape[2] == data.length == 3


def test_held_out_ratings_and_rankings_are_tested_in_pairs_of_their_list(table):
    question = np.array(["0" * 32] * 4 + ["f" * 32] * 2, object)  # the first four are held out
    starts, group = [[0], [1], [40], [41], [50], [51]], np.array([0, 0, 1, 1, 2, 2])
    data = data_with(table, "ranking", starts, [0.0, 1.0, 5.0, 4.0, 0.0, 1.0], group=group, question=question,
                     held_out=0.5)  # fmt: skip
    pairs = held_out_pairs(data)
    found = {(a, b, y) for (a, b), y in zip(pairs.starts.tolist(), pairs.label.tolist(), strict=True)}
    assert found == {(0, 1, 1.0), (1, 0, 0.0), (40, 41, 0.0), (41, 40, 1.0)}
    assert {tuple(sorted(pair)) for pair in rows_of(table, data.comparisons(50).segments)} == {(50, 51)}


def test_steps_are_of_the_best_episodes(table):
    data = Data(table, torch.Generator().manual_seed(0))
    batch = data.transitions(500, fraction=0.1)
    best = table.obs[table.best_rows(0.1)]
    assert (batch.obs.state[:, None] == best).all(-1).any(1).all()
    assert len(data.transitions(2000).obs.state.unique(dim=0)) > len(best)


def test_draws_come_from_the_generator_alone(table):
    """So that a checkpoint holds which batches come next: the same state draws the same, and each draw moves it on."""
    data = data_with(table, "ranking", [[0], [1], [2]], [5.0, 6.0, 7.0])
    draws = (lambda: data.transitions(8), lambda: data.windows(8, 3), lambda: data.comparisons(8),
             lambda: data.marked(8), lambda: data.unlabelled(8), lambda: data.labelled_by_reward(8),
             lambda: data.marked_by_reward(8), lambda: data.comparisons(8, 3))  # fmt: skip
    for draw in draws:
        state = data.generator.get_state()
        torch.manual_seed(0)
        first = draw()
        assert not torch.equal(data.generator.get_state(), state)
        data.generator.set_state(state)
        torch.manual_seed(1)
        torch.testing.assert_close(draw(), first, rtol=0, atol=0)
