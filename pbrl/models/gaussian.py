"""The Gaussian policy: a density, and a mean to act with."""

import math

import torch
from torch import Tensor, nn

from pbrl.models.encoders import Encoder
from pbrl.models.layers import MLP, Normalize, eval_mode
from pbrl.models.policy import LikelihoodPolicy
from pbrl.ranges import NotNegative, ShareBelow1, Size
from pbrl.types import Observation, Spec, UserError


class GaussianPolicy(LikelihoodPolicy):
    """A Gaussian around tanh(f(obs)). Owns its observation normalizer and its image encoder; acts with its mean.

    `std = 0` is the paper's deterministic policy: log_prob is -||action - mean||^2, the log-density of a fixed variance
    of 1/2 without its constant (CPL, arXiv:2310.13639, appendix D). Otherwise a standard deviation per action is
    learnt, starting there, and log_prob is the whole log-density.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: list[Size],
        dropout: ShareBelow1,
        std: NotNegative,
        channels: Size = 32,
        features: Size = 64,
    ):
        super().__init__()
        self.settings = {
            "hidden": list(hidden),
            "dropout": dropout,
            "std": std,
            "channels": channels,
            "features": features,
        }
        self.spec = spec
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.encoder = Encoder(spec.images, channels=channels, features=features) if spec.images else None
        self.net = MLP(spec.obs_dim + features * bool(spec.images), spec.action_dim, hidden, dropout=dropout)
        self.log_std = nn.Parameter(torch.full((spec.action_dim,), math.log(std))) if std > 0 else None

    def mean(self, obs: Observation) -> Tensor:
        """obs [..., O] → mean action [..., A]."""
        return torch.tanh(self.net(self.features(obs)).float())

    def features(self, obs: Observation) -> Tensor:
        """The network's input [..., I]: the normalized state, and what the encoder makes of the images."""
        state = self.normalize(obs.state)
        return state if self.encoder is None else torch.cat([state, self.encoder(obs.images)], -1)

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        error = (action - self.mean(obs)).square()
        if self.log_std is None:
            return -error.sum(-1)
        log_std = self.log_std.clamp(-5.0, 2.0)
        return -(0.5 * error * torch.exp(-2 * log_std) + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, obs: Observation) -> Tensor:
        """obs [..., O] → an action drawn from it, in [-1, 1]: [..., A]. The mean if no deviation is learned."""
        mean = self.mean(obs)
        if self.log_std is None:
            return mean
        return (mean + self.log_std.clamp(-5.0, 2.0).exp() * torch.randn_like(mean)).clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        with eval_mode(self):
            if isinstance(explore, Tensor):
                return torch.where(explore[:, None], self.sample(obs), self.mean(obs))
            return self.sample(obs) if explore else self.mean(obs)


def check_gaussian(policy: LikelihoodPolicy, algorithm: str) -> None:
    """Raises UserError where an algorithm needs the mean of a Gaussian, and the policy is another."""
    if not isinstance(policy, GaussianPolicy):
        raise UserError(f"{algorithm} moves the mean of a Gaussian policy: policy=mlp")
