"""Parts of reward=rapl: what embeds frames, and how episodes are cut where they are matched."""

import torch
from torch import Tensor, nn

from pbrl.data.table import Table
from pbrl.models.frozen import ENCODERS
from pbrl.models.layers import MLP
from pbrl.objectives import Objective
from pbrl.types import UserError


def make_head(features: int, embedding: int, hidden: list[int], members: int) -> nn.Module:
    """A linear map that begins as a random projection, which keeps distances; or a multilayer perceptron. Of several
    members each has its own."""
    head = MLP(features, embedding, hidden, ensemble=members if members > 1 else None)
    if not hidden:
        nn.init.normal_(head.layers[-1].weight, std=embedding**-0.5)  # type: ignore[arg-type]
        nn.init.zeros_(head.layers[-1].bias)  # type: ignore[arg-type]
    return head


def check_settings(objective: Objective, encoder: str | None, frames: int, aligns: bool) -> None:
    """Raises UserError for settings with which nothing can be aligned."""
    if encoder not in ENCODERS:
        raise UserError(f"reward.encoder={encoder}: reward=rapl aligns the features of {' or '.join(ENCODERS)}")
    if not aligns:
        raise UserError("reward.unfreeze=true aligns the last block, and reward.align=false learns nothing: drop one")
    if frames < 2:
        raise UserError(f"reward.frames={frames}: a video has two frames or more")
    if objective.segments > 2 or objective.is_unpaired:
        raise UserError(
            f"{objective.name} is of no pairs, and reward=rapl compares two similarities: "
            "objective@reward_objective=bradley_terry, smoothed, robust or hinge"
        )


def split_episodes(table: Table, span: int) -> tuple[Tensor, Tensor]:
    """Rows [N, T] of all steps, in parts of about `span` steps of an episode, and which of them exist [N, T] float."""
    parts: list[Tensor] = []
    for first, steps in zip(table.first.tolist(), table.steps.tolist(), strict=True):
        parts += torch.arange(first, first + steps).tensor_split(max(1, round(steps / max(span, 1))))
    rows = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1).to(table.device)
    return rows.clamp(min=0), (rows >= 0).float()
