"""Preference losses as pure functions of the scores of two segments.

`a`, `b` are the scores [B] of the first and the second segment, `label` [B] is P(second preferred). All return [B].
"""

from torch import Tensor
from torch.nn.functional import softplus


def bradley_terry(a: Tensor, b: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of P(second preferred) = sigmoid(b - a). Bradley & Terry 1952; Christiano et al. 2017."""
    return conservative(a, b, label, bias=1.0)


def conservative(a: Tensor, b: Tensor, label: Tensor, *, bias: float) -> Tensor:
    """CPL's loss: the loser's score counts `bias` times, which prefers likely segments when bias < 1.

    Hejna et al. 2023, arXiv:2310.13639, eq. 7. With bias = 1 it is Bradley-Terry.
    """
    return label * softplus(bias * a - b) + (1 - label) * softplus(bias * b - a)
