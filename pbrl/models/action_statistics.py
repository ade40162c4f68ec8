"""What numbers of actions range over, as checkpoints of vision-language-action models say: percentiles of their data.

The format is OpenVLA's (Kim et al. 2024, arXiv:2406.09246): by data set, the 1st and 99th percentile of each number,
q01 and q99, and a mask of those that are normalised.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pbrl.models.hf_backbone import Checkpoint
from pbrl.types import UserError


def action_range(
    files: Checkpoint,
    statistics: str,
    unnorm_key: str | None,
    low: Sequence[float] | None,
    high: Sequence[float] | None,
    size: int | None,
) -> tuple[Tensor, Tensor]:
    """How numbers in [-1, 1] become actions: scale and offset, [A] or [] each.

    OpenVLA's rule: x becomes (x + 1) / 2 * (q99 - q01) + q01 where the statistics' `mask` is true, and stays x where it
    is false. An action of `low` is then -1, and one of `high` 1. Raises UserError.
    """
    if statistics == "unit":
        return torch.ones(()), torch.zeros(())
    found = read_statistics(files, statistics, unnorm_key)
    least, most = (torch.tensor(found[name], dtype=torch.float64) for name in ("q01", "q99"))
    mask = torch.tensor(found.get("mask", [True] * len(least)))
    if size is not None and len(least) != size:
        raise UserError(
            f"the environment's actions have {size} numbers, and policy.statistics={statistics} are of {len(least)}: "
            "choose another policy.unnorm_key=… or env=…"
        )
    scale, offset = torch.where(mask, (most - least) / 2, 1.0), torch.where(mask, (most + least) / 2, 0.0)
    if low is not None and high is not None:
        ends = torch.tensor([low, high], dtype=torch.float64)
        if ends.shape != (2, len(least)) or (ends[0] >= ends[1]).any():
            raise UserError(
                f"policy.action_low and policy.action_high must be {len(least)} numbers each, low below high"
            )
        scale, offset = 2 * scale / (ends[1] - ends[0]), 2 * (offset - ends[0]) / (ends[1] - ends[0]) - 1
    elif low is not None or high is not None:
        raise UserError("policy.action_low and policy.action_high belong together: give both, or neither")
    still, beyond = (scale <= 0).nonzero().flatten(), (scale + offset.abs() > 1 + 1e-6).nonzero().flatten()
    if len(still):
        raise UserError(
            f"number {int(still[0])} of actions never moves in policy.statistics={statistics}: q01 must lie below q99"
        )
    if len(beyond):
        raise UserError(
            f"number {int(beyond[0])} of actions reaches beyond [-1, 1] in policy.statistics={statistics}: say with "
            "policy.action_low=[…] and policy.action_high=[…] what -1 and 1 are in their units"
        )
    return scale.float(), offset.float()


def read_statistics(files: Checkpoint, statistics: str, unnorm_key: str | None) -> Mapping[str, Any]:
    """The q01, q99 and mask of a data set's actions. Raises UserError."""
    if statistics == "checkpoint":
        known, where = files.statistics(), str(files.folder)
    else:
        file, where = Path(statistics).expanduser(), f"policy.statistics={statistics}"
        if not file.is_file():
            raise UserError(f"{where}: it is checkpoint, unit or a file, and there is no such file")
        known = json.loads(file.read_text())
    if not known:
        raise UserError(
            f"{where} holds no statistics of actions (dataset_statistics.json): put it there, or, for a model that "
            "never acted, take policy.statistics=unit"
        )
    key = unnorm_key or next(iter(known))
    if key not in known or (unnorm_key is None and len(known) > 1):
        raise UserError(f"policy.unnorm_key={unnorm_key}: {where} holds statistics of {', '.join(known)}")
    found = known[key].get("action", {})
    if not {"q01", "q99"} <= set(found):
        raise UserError(f"{where} holds no q01 and q99 of the actions of {key}, which un-normalising needs")
    return found
