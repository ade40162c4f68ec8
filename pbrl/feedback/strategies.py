"""Which segments to ask about. Strategies are plain functions of what the reward ensemble thinks of candidates.

`logits` [E, C] are the members' log-odds that the second segment of each candidate pair is preferred, or that the third
of a triplet is more like the first; `features` [C, D] describe the candidates. All return the indices [n] of those that
are chosen. Uniform, disagreement, entropy, k-centre and the two
mixed strategies are those of B-Pref, Lee et al. 2021, arXiv:2111.03026; `decisive` is for data where most pairs are
ties.
"""

import torch
from torch import Tensor

from pbrl.data.table import Table, scale_of
from pbrl.types import RewardModel, UserError


def uniform(logits: Tensor, features: Tensor, n: int) -> Tensor:
    """The first n: candidates are drawn at random."""
    return torch.arange(n, device=features.device)


def disagreement(logits: Tensor, features: Tensor, n: int) -> Tensor:
    """Where the members' probabilities differ the most (standard deviation)."""
    return torch.sigmoid(logits).std(0).topk(n).indices


def entropy(logits: Tensor, features: Tensor, n: int) -> Tensor:
    """Where the mean probability is nearest to a half."""
    return (torch.sigmoid(logits).mean(0) - 0.5).abs().topk(n, largest=False).indices


def decisive(logits: Tensor, features: Tensor, n: int) -> Tensor:
    """Where the mean log-odds are farthest from a tie."""
    return logits.mean(0).abs().topk(n).indices


def k_center(logits: Tensor, features: Tensor, n: int) -> Tensor:
    """Greedy cover of the candidates: each next pair is the one farthest from those chosen (Sener & Savarese 2018)."""
    chosen = torch.zeros(n, dtype=torch.long, device=features.device)
    distance = (features - features[0]).norm(dim=1)
    for i in range(1, n):
        chosen[i] = distance.argmax()
        distance = torch.minimum(distance, (features - features[chosen[i]]).norm(dim=1))
    return chosen


def k_center_disagreement(logits: Tensor, features: Tensor, n: int) -> Tensor:
    """A cover of the five-fold shortlist by disagreement."""
    return _cover_of(disagreement, logits, features, n)


def k_center_entropy(logits: Tensor, features: Tensor, n: int) -> Tensor:
    """A cover of the five-fold shortlist by entropy."""
    return _cover_of(entropy, logits, features, n)


def _cover_of(first, logits: Tensor, features: Tensor, n: int) -> Tensor:
    shortlist = first(logits, features, min(5 * n, len(features)))
    return shortlist[k_center(logits[:, shortlist], features[shortlist], n)]


STRATEGIES = {
    f.__name__: f for f in (uniform, disagreement, entropy, decisive, k_center, k_center_disagreement, k_center_entropy)
}


def needs_reward(strategy: str) -> bool:
    """Whether the strategy asks a reward ensemble for its opinion."""
    return strategy not in ("uniform", "k_center")


def draw_distinct(count: int, n: int, generator: torch.Generator) -> Tensor:
    """n triplets [n, 3] of distinct places below `count`. Raises UserError where there are not three."""
    if count < 3:
        raise UserError(f"triplets are of three different clips, and the data hold {count} of this query.length")
    first, second, third = (torch.randint(count - i, (n,), generator=generator) for i in range(3))
    second = second + (second >= first)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    third = third + (third >= low)
    return torch.stack([first, second, third + (third >= high)], 1)


def choose(
    table: Table,
    *,
    n: int,
    width: int,
    length: int,
    strategy: str,
    candidates: int,
    generator: torch.Generator,
    model: RewardModel | None = None,
) -> Tensor:
    """The start rows [n, width] of n questions.

    `candidates` times n are drawn uniformly over all places where a segment fits, then thinned out by the strategy.
    `generator` lives on the CPU, so that every device asks the same questions.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"query.strategy={strategy}: it is one of {', '.join(STRATEGIES)}")
    starts = table.segment_starts(length)
    if width == 1:  # ratings: no segment twice in one round while there are enough
        order = torch.randperm(len(starts), generator=generator)
        pick = order.repeat(-(-n // len(starts)))[:n].to(table.device)
        return starts[pick][:, None]
    many = n if strategy == "uniform" else candidates * n
    if width == 3:  # three clips of which two are the same say nothing
        pick = draw_distinct(len(starts), many, generator)
    else:
        pick = torch.randint(len(starts), (many, width), generator=generator)
    drawn = starts[pick.to(table.device)]
    if strategy == "uniform":
        return drawn
    rows = table.segment_rows(drawn, length)  # [C, 2, L]
    mean_obs = table.obs[rows].mean(-2)
    features = ((mean_obs - table.obs.mean(0)) / scale_of(table.obs)).flatten(1)  # [C, 2 O]
    logits = features.new_zeros(1, many)
    if needs_reward(strategy):
        if model is None:
            raise UserError(
                f"query.strategy={strategy} asks a reward model: choose reward=ensemble, of triplets reward=rapl, or "
                "another strategy"
            )
        logits = model.log_odds(table, drawn, length)  # [E, C]
    return drawn[STRATEGIES[strategy](logits, features, n)]
