"""In-painting: entries of a plan that are known, as the present state or a goal, while the rest is drawn.

Janner et al. 2022 (Diffuser), arXiv:2205.09991; Lugmayr et al. 2022 (RePaint), arXiv:2201.09865.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """`value` [..., H, D] where `where` [..., H, D] is true; both broadcast.

    `clean`: the network sees these entries without noise at every time, and was trained so (Diffuser, AlignDiff). Else
    they are noised as all others, for networks that never saw clean ones among noisy ones.
    """

    value: Tensor
    where: Tensor  # bool
    clean: bool = True

    def put(self, x: Tensor) -> Tensor:
        """x with the known entries in their places: [..., H, D]."""
        return torch.where(self.where, self.value, x)

    def shown(self, x: Tensor) -> Tensor:
        """A noisy x as the network sees it: [..., H, D]."""
        return self.put(x) if self.clean else x
