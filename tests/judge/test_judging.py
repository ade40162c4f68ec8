"""Judges whose quality is known, measured: perfect, reversed, random, by Boltzmann's model, and biased to a side."""

import re
import subprocess
import sys

import numpy as np
import pytest

from pbrl.judge import Answers, Clips, Ratings, Source, Truth, draw_pairs, measure
from pbrl.types import UserError

STEPS, EPISODES, LENGTH = 30, 40, 10
STEPWISE = ("pair_accuracy", "voc", "reward_correlation", "kendall_tau", "failure_auc")


def truth(seed: int = 0) -> Truth:
    """Rewards that rise along each episode, to another height in each; the higher half succeeds in its last frame."""
    height = np.random.default_rng(seed).permutation(EPISODES) + 1.0
    reward = height[:, None] * np.linspace(0.1, 1, STEPS)
    at = np.where(height > EPISODES / 2, STEPS, -1)
    return Truth(np.full(EPISODES, STEPS), reward.ravel(), at)


def pairs(count: int = 300, seed: int = 0) -> Clips:
    return draw_pairs(truth(), length=LENGTH, count=count, seed=seed)


def gaps(clips: Clips) -> np.ndarray:
    known = truth()
    return np.diff(known.returns_of(clips, known.reward))[:, 0]


def judge(source: Source, **more) -> dict:
    return measure(more.pop("truth", truth()), source, **{"pairs": pairs(), "resamples": 200, **more}).measures


def value_of(found: dict) -> dict[str, float | None]:
    return {name: one.value for name, one in found.items()}


def test_the_true_reward_is_a_perfect_judge():
    found = judge(Source(reward=truth().reward))
    assert all(found[name].value == pytest.approx(1) for name in STEPWISE)
    assert all(found[name].low <= found[name].value <= found[name].high for name in STEPWISE)
    assert found["tie_rate"].value == 0
    assert found["pair_accuracy"].low < 1, "forty episodes are not all there are"


def test_its_opposite_is_always_wrong():
    found = judge(Source(reward=-truth().reward))
    bottom = {"pair_accuracy": 0, "failure_auc": 0, "voc": -1, "reward_correlation": -1, "kendall_tau": -1}
    assert {name: round(found[name].value, 9) for name in bottom} == bottom


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_at_chance(seed):
    noise = np.random.default_rng(seed).normal(size=STEPS * EPISODES)
    found = judge(Source(reward=noise), resamples=500)
    for name in STEPWISE:
        one = found[name]
        assert one.low - 0.05 <= one.chance <= one.high + 0.05, (name, one)


def test_a_constant_knows_nothing():
    found = judge(Source(reward=np.ones(STEPS * EPISODES)))
    assert {name: found[name].value for name in STEPWISE} == {
        "pair_accuracy": 0.5, "voc": 0, "reward_correlation": 0, "kendall_tau": 0, "failure_auc": 0.5,
    }  # fmt: skip
    assert found["tie_rate"].value == 1


def test_a_value_is_held_against_what_was_and_what_will_be_won():
    known = truth()
    won = np.concatenate([np.concatenate([[0], np.cumsum(own)]) for own in known.split(known.reward)])  # [R]
    found = judge(Source(value=won))
    assert found["voc"].value == pytest.approx(1) == found["cumulative_correlation"].value
    assert found["return_to_go_correlation"].value == pytest.approx(-1), "rewards are positive: what is left falls"
    assert found["pair_accuracy"].value == 1, "what the value gains is the return"
    assert found["kendall_tau"].value == pytest.approx(1) and found["failure_auc"].value == 1
    assert found["reward_correlation"].value is None and "no rewards" in found["reward_correlation"].why


def test_order_counts_up_to_the_first_success_in_episodes_that_succeed():
    steps = np.array([6, 6])
    value = np.array([0, 1, 2, 9, 1, 0, *[5, 4, 3, 2, 1, 0]], float)
    found = judge(Source(value=value), truth=Truth(steps, None, np.array([3, -1])), pairs=pairs_of([[0, 1]], 2))
    assert found["voc"].value == pytest.approx(1) and found["voc"].count == 1
    assert found["pair_accuracy"].value is None and "rewards" in found["pair_accuracy"].why


def pairs_of(episodes: list[list[int]], length: int) -> Clips:
    return Clips(np.array(episodes), np.zeros_like(episodes), np.full(len(episodes), length))


def test_a_boltzmann_judge_has_the_calibration_of_its_model():
    """P = σ(β gap), and what is better is sure: the error is the mean of min(P, 1 - P), Brier's that of its square.

    In bins: the same, as long as none holds probabilities from both sides of a half.
    """
    clips, beta = pairs(1000), 0.02
    probability = 1 / (1 + np.exp(-beta * gaps(clips)))
    unsure = np.minimum(probability, 1 - probability)
    found = judge(Source(answers=Answers(clips, probability)), resamples=300)
    assert found["pair_accuracy"].value == 1
    assert found["calibration_error"].value == pytest.approx(unsure.mean(), abs=1e-9)
    assert found["brier_score"].value == pytest.approx(np.square(unsure).mean())
    assert found["calibration_error"].low < unsure.mean() < found["calibration_error"].high


def test_answers_drawn_from_a_boltzmann_model_are_as_often_right_as_it_says():
    clips, beta = pairs(2000), 0.02
    probability = 1 / (1 + np.exp(-beta * gaps(clips)))
    answers = (np.random.default_rng(0).random(2000) < probability).astype(float)
    found = measure(truth(), Source(answers=Answers(clips, answers)), pairs=clips, resamples=300)
    expected = np.maximum(probability, 1 - probability)
    one = found.measures["pair_accuracy"]
    assert one.low <= expected.mean() <= one.high and one.count == 2000 and one.unit == "questions"
    assert found.measures["calibration_error"].value is None, "0 and 1 are no probabilities"
    assert [group.count for group in found.by_gap] == [400] * 5
    order = np.array_split(np.argsort(np.abs(gaps(clips))), 5)
    assert all(abs(g.share - expected[own].mean()) < 0.08 for g, own in zip(found.by_gap, order, strict=True))


def biased(points: float, shown_first: np.ndarray, seed: int) -> Answers:
    """Right in 75 of 100 pairs, but for `points` more or less for the clip that is shown first."""
    clips = pairs(len(shown_first), seed)
    first_is_better = (gaps(clips) > 0) == (shown_first == 1)
    chosen = np.random.default_rng(seed).random(len(shown_first)) < np.where(first_is_better, 0.75, 0.25) + points
    return Answers(clips, np.where(chosen, shown_first, 1 - shown_first).astype(float), shown_first=shown_first)


def test_a_bias_of_twenty_points_is_found():
    hits = 0
    for seed in range(20):
        shown = np.random.default_rng(seed).integers(0, 2, 600)
        one = judge(Source(answers=biased(0.2, shown, seed)))["position_bias"]
        hits += one.low <= 0.2 <= one.high
        assert abs(one.value - 0.2) < 0.06 and one.low > 0
    assert hits >= 16


def test_no_bias_is_found_where_there_is_none():
    one = judge(Source(answers=biased(0.0, np.zeros(600, int), 3)))["position_bias"]
    assert one.low < 0 < one.high


def test_a_bias_by_both_orders_needs_no_truth():
    clips, rng = pairs(200), np.random.default_rng(0)
    fair = rng.uniform(0.3, 0.7, 200)
    orders = np.stack([fair - 0.2, fair + 0.2], 1)
    orders[:20] = np.nan  # asked once alone
    bare = Truth(truth().steps, None, truth().succeeded_at)
    found = judge(Source(answers=Answers(clips, fair, orders=orders)), truth=bare)
    assert found["position_bias"].value == pytest.approx(0.2) and found["position_bias"].count == 180


def test_ties_and_skips_are_counted():
    clips = pairs(100)
    preferred = (gaps(clips) > 0).astype(float)
    preferred[:10], preferred[10:30] = np.nan, 0.5
    found = judge(Source(answers=Answers(clips, preferred)))
    assert found["skip_rate"].value == pytest.approx(0.1) and found["tie_rate"].value == pytest.approx(20 / 90)
    assert found["pair_accuracy"].value == pytest.approx((70 + 10) / 90), "a tie is half right"
    assert found["position_bias"].value is None and "shown first" in found["position_bias"].why


def test_answers_to_the_same_question_are_one_fact():
    clips = pairs(100)
    once = Answers(clips, np.arange(100) % 2.0)
    twice = Answers(
        Clips(*(np.repeat(part, 4, 0) for part in (clips.episode, clips.first, clips.length))),
        np.repeat(once.preferred, 4),
        question=np.repeat(np.arange(100), 4),
    )
    a, b = (judge(Source(answers=own), resamples=1000)["pair_accuracy"] for own in (once, twice))
    assert b.count == 100 and b.high - b.low == pytest.approx(a.high - a.low, rel=0.15)


def test_ratings_compare_clips_and_rank_whole_episodes():
    known = truth()
    whole = Clips(np.arange(EPISODES)[:, None], np.zeros((EPISODES, 1), int), known.steps)
    found = judge(Source(ratings=Ratings(whole, np.floor(known.returns / 100))))
    assert found["pair_accuracy"].value > 0.8 and found["tie_rate"].value > 0
    assert found["kendall_tau"].value > 0.8 and found["failure_auc"].value > 0.9
    part = Clips(whole.episode, whole.first, np.full(EPISODES, LENGTH))
    found = judge(Source(ratings=Ratings(part, known.returns)))
    assert found["pair_accuracy"].value == 1 and "no whole episode" in found["kendall_tau"].why
    assert found["skip_rate"].value == 0 and found["voc"].value is None


def test_every_measure_has_a_value_or_a_reason():
    clips = pairs()
    forms = [
        Source(reward=truth().reward),
        Source(value=truth().reward),
        Source(answers=Answers(clips, np.full(300, np.nan))),
        Source(reward=truth().reward, probability=lambda own: np.full(len(own), 0.7)),
    ]
    for source in forms:
        for known in (truth(), Truth(truth().steps), Truth(truth().steps, truth().reward)):
            for name, one in judge(source, truth=known, resamples=20).items():
                assert (one.value is None) == bool(one.why) or (one.why and one.low is None), (name, one)
                assert one.value is None or np.isfinite(one.value), (name, one)


def test_pairs_are_drawn_from_all_that_fit():
    known = Truth(np.array([3, 10, 5]))
    clips = draw_pairs(known, length=4, count=20_000, seed=0)
    known.check_clips(clips)
    places, counts = np.unique(np.stack([clips.episode, clips.first], -1).reshape(-1, 2), axis=0, return_counts=True)
    assert len(places) == 7 + 2 and counts.min() > 0.9 * counts.mean()
    same = (clips.episode[:, 0] == clips.episode[:, 1]) & (clips.first[:, 0] == clips.first[:, 1])
    assert not same.any()


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("clips of that length fit", lambda: draw_pairs(truth(), length=31, count=5, seed=0)),
        ("score this data set, in its order", lambda: judge(Source(reward=np.zeros(7)))),
        ("gives one of reward", lambda: Source()),
        ("not reward, value", lambda: Source(reward=np.zeros(3), value=np.zeros(3))),
        ("not finite, at place 2", lambda: Truth(np.array([3]), np.array([0, 1, np.nan]))),
        (r"has the shape \(4,\)", lambda: Truth(np.array([3]), np.zeros(4))),
        ("at least one episode", lambda: Truth(np.array([], int))),
        ("does not have", lambda: judge(Source(answers=Answers(pairs_of([[0, 99]], 2), np.ones(1))))),
        ("does not have", lambda: judge(Source(answers=Answers(pairs_of([[0, 1]], 31), np.ones(1))))),
    ],
)
def test_what_cannot_be_judged_is_said(words, make):
    with pytest.raises(UserError) as raised:
        make()
    assert re.search(words, str(raised.value)) and str(raised.value).count("\n") == 0


def test_the_array_call_loads_neither_torch_nor_a_database():
    code = "import sys, pbrl.judge; sys.exit('torch' in sys.modules or 'sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
