"""Adam as plain tensor code, so that a whole update is one graph: `torch.optim` breaks one on purpose.

Kingma & Ba 2015, arXiv:1412.6980; decoupled weight decay from Loshchilov & Hutter 2019, arXiv:1711.05101.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pbrl.distributed import all_reduce_mean


class Adam(nn.Module):
    """Steps `params` in place down a loss. Moments are two flat vectors and belong to the module's state.

    `warmup` raises the rate linearly over that many steps; `cosine` lets it fall to zero over that many (0: neither);
    `clip` bounds the gradient's norm (0: not).
    """

    first: Tensor
    second: Tensor
    count: Tensor
    lr: Tensor

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        *,
        warmup: int = 0,
        cosine: int = 0,
        clip: float = 0.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__()
        self.params = tuple(params)  # a tuple is not registered: the parameters belong to their own module
        self.warmup, self.cosine, self.clip = warmup, cosine, clip
        self.weight_decay, self.betas, self.eps = weight_decay, betas, eps
        size = sum(p.numel() for p in self.params)
        self.register_buffer("first", torch.zeros(size))
        self.register_buffer("second", torch.zeros(size))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("lr", torch.tensor(lr))

    def rate(self) -> Tensor:
        """The learning rate of the step that `count` names."""
        rate = self.lr
        if self.warmup:
            rate = rate * (self.count / self.warmup).clamp(max=1.0)
        if self.cosine:
            rate = rate * 0.5 * (1 + torch.cos(torch.pi * (self.count / self.cosine).clamp(max=1.0)))
        return rate

    def step(self, loss: Tensor, when: Tensor | float = 1.0) -> None:
        """One step down `loss`, a scalar. Where `when`, 0 or 1, is 0, nothing moves; the first step must be a 1."""
        self.step_along(torch.autograd.grad(loss, self.params), when)

    def step_along(self, grads: Sequence[Tensor], when: Tensor | float = 1.0) -> None:
        """The same down gradients that are known, one for each of `params`."""
        with torch.no_grad():
            grad = all_reduce_mean(torch.cat([g.reshape(-1) for g in grads]))
            if self.clip:
                grad = grad * (self.clip / (grad.norm() + 1e-6)).clamp(max=1.0)
            b1, b2 = self.betas
            self.count.add_(when)
            self.first.lerp_(grad, when * (1 - b1))
            self.second.lerp_(grad * grad, when * (1 - b2))
            rate = when * self.rate()
            mean = self.first / (1 - b1**self.count)
            scale = (self.second / (1 - b2**self.count)).sqrt() + self.eps
            move = rate * mean / scale
            for p, m in zip(self.params, move.split([p.numel() for p in self.params]), strict=True):
                if self.weight_decay:
                    p.mul_(1 - rate * self.weight_decay)
                p.sub_(m.view_as(p))

    def restart(self, lr: float) -> None:
        """Forgets its moments and its schedule's position, as a new optimiser with this rate would."""
        self.lr.fill_(lr)
        for buffer in (self.first, self.second, self.count):
            buffer.zero_()


def polyak(target: nn.Module, source: nn.Module, tau: Tensor | float) -> None:
    """target ← (1 - tau) target + tau source, in place."""
    with torch.no_grad():
        for t, s in zip(target.parameters(), source.parameters(), strict=True):
            t.lerp_(s, tau)
