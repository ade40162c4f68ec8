"""Query strategies on cases with a known right choice."""

import pytest
import torch

from pbrl.feedback import strategies as query
from pbrl.rewards.per_step import PerStepReward
from pbrl.types import UserError
from tests import toy

LOGITS = torch.tensor(
    [[5.0, 0.0, 0.1, 5.0], [5.0, 0.0, -0.1, -5.0], [5.0, 0.0, 0.0, 5.0]]
)  # confident, uncertain, uncertain, members differ
FEATURES = torch.tensor([[0.0], [0.1], [4.0], [10.0]])


def test_disagreement_finds_pairs_that_members_order_differently():
    assert query.disagreement(LOGITS, FEATURES, 1).tolist() == [3]


def test_entropy_finds_uncertain_pairs():
    assert sorted(query.entropy(LOGITS, FEATURES, 2).tolist()) == [1, 2]


def test_decisive_finds_confident_pairs():
    assert query.decisive(LOGITS, FEATURES, 1).tolist() == [0]


def test_k_center_covers():
    assert query.k_center(LOGITS, FEATURES, 3).tolist() == [0, 3, 2]


def test_the_mixed_ones_cover_a_shortlist():
    logits = torch.cat([torch.full((2, 10), 9.0), torch.zeros(2, 10)], 1)  # only the second half is uncertain
    features = torch.arange(20.0)[:, None]
    low, high = sorted(query.k_center_entropy(logits, features, 2).tolist())
    assert low >= 10 and high - low >= 4
    differing = logits * torch.tensor([[1.0], [-1.0]])  # members differ on the first half
    low, high = sorted(query.k_center_disagreement(differing, features, 2).tolist())
    assert high < 10 and high - low >= 4


def test_uniform_takes_what_was_drawn():
    assert query.uniform(LOGITS, FEATURES, 2).tolist() == [0, 1]


class Opinion(PerStepReward):
    def __init__(self):
        super().__init__(context=1, normalize="none")

    def score(self, segment):
        total = segment.obs.state[..., 0].sum(-1)
        return torch.stack([total, -total])


@pytest.mark.parametrize("strategy", query.STRATEGIES)
def test_questions_are_segments_and_seeded(strategy):
    table = toy.table(20)

    def ask(seed):
        generator = torch.Generator().manual_seed(seed)
        return query.choose(
            table, n=12, width=2, length=8, strategy=strategy, candidates=5, generator=generator, model=Opinion()
        )

    assert ask(0).shape == (12, 2) and torch.equal(ask(0), ask(0)) and not torch.equal(ask(0), ask(1))
    assert torch.isin(ask(0), table.segment_starts(8)).all()


def test_disagreement_asks_where_members_differ():
    table, kwargs = toy.table(20), dict(n=20, width=2, length=8, model=Opinion())
    chosen = query.choose(
        table, **kwargs, strategy="disagreement", candidates=20, generator=torch.Generator().manual_seed(0)
    )
    drawn = query.choose(table, **kwargs, strategy="uniform", candidates=1, generator=torch.Generator().manual_seed(0))

    def gap(pairs):
        sums = table.obs[table.segment_rows(pairs, 8)][..., 0].sum(-1)
        return (sums[:, 1] - sums[:, 0]).abs().mean()

    assert gap(chosen) > 1.5 * gap(drawn)


def test_ratings_ask_about_each_place_once():
    table = toy.table(5)
    n = len(table.segment_starts(8))
    starts = query.choose(
        table, n=n, width=1, length=8, strategy="uniform", candidates=1, generator=torch.Generator().manual_seed(0)
    )
    assert starts.shape == (n, 1) and len(starts.unique()) == n


def test_a_strategy_without_its_ensemble():
    with pytest.raises(UserError, match="reward=ensemble"):
        query.choose(
            toy.table(5),
            n=2,
            width=2,
            length=8,
            strategy="entropy",
            candidates=2,
            generator=torch.Generator(),
            model=None,
        )
    with pytest.raises(UserError, match="only reward=rapl says what is more alike"):
        query.choose(
            toy.table(5),
            n=2,
            width=3,
            length=8,
            strategy="entropy",
            candidates=2,
            generator=torch.Generator(),
            model=Opinion(),
        )
    with pytest.raises(UserError, match="one of uniform"):
        query.choose(toy.table(5), n=2, width=2, length=8, strategy="guess", candidates=2, generator=torch.Generator())
