"""Diversity measures that are learnt from triplets: a linear projection of an episode's features.

QDHF, Ding et al. 2023, arXiv:2310.12103, sec. 3: two behaviours are as different as their projections are far apart,
squared, and a triplet's answer is what lies closer. Theirs is a hinge on the difference of distances
(`objective=hinge objective.margin=0.05`); with Bradley-Terry's loss, as of reward=rapl, an answer may be a probability.
Distances leave rotations open: the axes are turned so that the first has the widest spread over the data.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pbrl.data.table import Table, scale_of
from pbrl.feedback.labels import Labels, split
from pbrl.models.optim import Adam
from pbrl.objectives import Objective
from pbrl.ranges import Count, NotNegative, Positive, Size, Whole, check_values, hints
from pbrl.training.held_out import accuracy
from pbrl.types import UserError

MEASURES = 2  # numbers that a behaviour becomes: the axes of a picture
AT_ONCE = 256  # segments whose observations are gathered together


@dataclass(frozen=True)
class Learning:
    """How a projection learns; see configs/diversity.yaml."""

    frames: Whole
    steps: Count
    batch_size: Size
    lr: Positive
    weight_decay: NotNegative

    def __post_init__(self) -> None:
        check_values(vars(self), hints(Learning), "projection.")


class Projection(nn.Module):
    """features [..., F] → measures [..., M]. It begins as a random one, under which distances are about 1."""

    mean: Tensor
    std: Tensor
    weight: nn.Parameter  # [F, M]

    def __init__(self, features: Tensor, measures: int = MEASURES, *, generator: torch.Generator | None = None):
        """`features` [N, F] are those of the data, which are standardized."""
        super().__init__()
        size = features.shape[1]
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", scale_of(features))
        self.weight = nn.Parameter(torch.randn(size, measures, generator=generator) / (2 * size * measures) ** 0.5)

    def forward(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.std) @ self.weight

    def scores(self, triplets: Tensor) -> Tensor:
        """triplets [B, 3, F] → how much the second and the third are like the first, as log-odds: [B, 2]."""
        measures = self(triplets)
        return -(measures[:, 1:] - measures[:, :1]).square().sum(-1)

    @torch.no_grad()
    def turn(self, features: Tensor) -> None:
        """Turns the axes to the principal ones of the features [N, F], each with its largest weight positive."""
        centred = self(features) - self(features).mean(0)
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        weight = self.weight @ axes.T
        largest = weight.gather(0, weight.abs().argmax(0)[None])
        self.weight.copy_(weight * largest.sign())


def describe(obs: Tensor, frames: int) -> Tensor:
    """Features [..., F] of observations [..., T, O]: their mean and standard deviation over time, or so many `frames`
    at equal distances, from the first to the last."""
    if not frames:
        return torch.cat([obs.mean(-2), obs.std(-2, correction=0)], -1)
    places = torch.linspace(0, obs.shape[-2] - 1, frames).round().long()
    return obs[..., places, :].flatten(-2)


def features_at(table: Table, starts: Tensor, length: int, frames: int) -> Tensor:
    """Features [N, F] of the table's segments of `length` steps that begin at rows starts [N]."""
    parts = starts.split(AT_ONCE)
    return torch.cat([describe(table.obs[table.segment_rows(part, length)], frames) for part in parts])


def learn(
    table: Table, labels: Labels, objective: Objective, learning: Learning, *, held_out: float, seed: int
) -> tuple[Projection, dict[str, float]]:
    """A projection that has learnt from triplets but for a share `held_out`; and how many it learnt from, how many were
    held out, and how often it agrees with the answers of both, ties left out. Raises UserError where none is left."""
    train, test = split(labels, held_out)
    if not train.size:
        raise UserError(
            "there are no triplets to learn from: every question is open, was skipped or held out (query.held_out); "
            "ask more (query.count), or answer some: python -m pbrl.label query.kind=triplet"
        )
    data = features_at(table, table.separate_starts(labels.length), labels.length, learning.frames)
    generator = torch.Generator().manual_seed(seed)
    projection = Projection(data, generator=generator)
    triplets, label = gather(table, train, learning.frames)
    confidence = torch.from_numpy(train.confidence).float()
    fit(projection, triplets, label, confidence, objective, learning, generator)
    projection.turn(data)
    found = {"answers": train.size, "train_accuracy": accuracy(projection.scores(triplets), label)}
    if test.size:
        triplets, label = gather(table, test, learning.frames)
        found |= {"held_out": test.size, "held_out_accuracy": accuracy(projection.scores(triplets), label)}
    return projection, found


def gather(table: Table, labels: Labels, frames: int) -> tuple[Tensor, Tensor]:
    """The features [Q, 3, F] of triplets, and their labels [Q]."""
    starts = torch.from_numpy(labels.starts)
    features = features_at(table, starts.flatten(), labels.length, frames)
    return features.unflatten(0, starts.shape), torch.from_numpy(labels.value).float()


def fit(
    projection: Projection,
    triplets: Tensor,
    label: Tensor,
    confidence: Tensor,
    objective: Objective,
    learning: Learning,
    generator: torch.Generator,
) -> None:
    """Minimizes the objective over triplets [Q, 3, F] with P(third is more like the first) [Q], in batches."""
    optim = Adam([projection.weight], learning.lr, weight_decay=learning.weight_decay, cosine=learning.steps)
    for _ in range(learning.steps):
        drawn = torch.randint(len(label), (min(learning.batch_size, len(label)),), generator=generator)
        optim.step(objective(projection.scores(triplets[drawn]), label[drawn], confidence[drawn]))
