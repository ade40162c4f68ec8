"""Policies as densities: a preference or a weighted-imitation loss needs `log_prob`, a robot needs `act`."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from pbrl.models.layers import MLP, Encoder, Normalize
from pbrl.types import Observation, Spec, UserError


class Likelihood(nn.Module):
    """A policy that learners can train: it acts, and says how likely an action is."""

    spec: Spec
    settings: dict[str, Any]  # what it was built with, besides the spec

    def log_prob(self, obs: Tensor | Observation, action: Tensor) -> Tensor:
        """obs [..., O], action [..., A] → [...]."""
        raise NotImplementedError

    def act(self, obs: Tensor | Observation) -> Tensor:
        """obs [B, O] → action [B, A] in [-1, 1]."""
        raise NotImplementedError

    def reset(self) -> None:
        """Starts an episode; a policy without memory has nothing to forget."""


class GaussianPolicy(Likelihood):
    """A Gaussian around tanh(f(obs)). Owns its observation normaliser and its image encoder; acts with its mean.

    `std = 0` is the paper's deterministic policy: log_prob is -||action - mean||^2, the log-density of a fixed variance
    of 1/2 without its constant (CPL, arXiv:2310.13639, appendix D). Otherwise a standard deviation per action is
    learnt, starting there, and log_prob is the whole log-density.
    """

    def __init__(
        self, spec: Spec, *, hidden: list[int], dropout: float, std: float, channels: int = 32, features: int = 64
    ):
        super().__init__()
        self.settings = {
            "hidden": list(hidden), "dropout": dropout, "std": std, "channels": channels, "features": features,
        }  # fmt: skip
        self.spec = spec
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.encoder = Encoder(spec.image, channels=channels, features=features) if spec.image else None
        self.net = MLP(spec.obs_dim + features * bool(spec.image), spec.action_dim, hidden, dropout=dropout)
        self.log_std = nn.Parameter(torch.full((spec.action_dim,), math.log(std))) if std > 0 else None

    def mean(self, obs: Tensor | Observation) -> Tensor:
        """obs [..., O] → mean action [..., A]."""
        return torch.tanh(self.net(self.read(obs)).float())

    def read(self, obs: Tensor | Observation) -> Tensor:
        """The network's input [..., I]: the state, normalised, and what the encoder makes of the images."""
        if self.encoder is None:
            assert isinstance(obs, Tensor)
            return self.normalize(obs)
        assert isinstance(obs, Observation)
        return torch.cat([self.normalize(obs.state), self.encoder(obs.image)], -1)

    def log_prob(self, obs: Tensor | Observation, action: Tensor) -> Tensor:
        error = (action - self.mean(obs)).square()
        if self.log_std is None:
            return -error.sum(-1)
        log_std = self.log_std.clamp(-5.0, 2.0)
        return -(0.5 * error * torch.exp(-2 * log_std) + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, obs: Tensor | Observation) -> Tensor:
        """obs [..., O] → an action drawn from it, in [-1, 1]: [..., A]. Deterministic if no deviation is learnt."""
        mean = self.mean(obs)
        if self.log_std is None:
            return mean
        return (mean + self.log_std.clamp(-5.0, 2.0).exp() * torch.randn_like(mean)).clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs: Tensor | Observation) -> Tensor:
        was_training = self.training
        self.eval()
        action = self.mean(obs)
        self.train(was_training)
        return action


def save_policy(policy: Any, path: Path) -> None:
    """Writes all that is needed to run the policy."""
    kind = f"{type(policy).__module__}.{type(policy).__name__}"
    saved = {"class": kind, "spec": asdict(policy.spec), "settings": policy.settings}
    state = {name: value.clone() for name, value in policy.state_dict().items()}  # not the seeds that it lies among
    torch.save({**saved, "state": state}, path)


def load_policy(path: str | Path, device: str = "cpu") -> Any:
    """Reads a policy back, ready to act. Raises UserError."""
    path = Path(path)
    if path.is_dir():
        seeds = sorted(path.glob("seed*/policy.pt"))
        if seeds:
            raise UserError(f"{path} holds {len(seeds)} seeds: choose one of them, as in {seeds[0].parent}")
        path = path / "policy.pt"
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        if not saved["class"].startswith("pbrl."):  # a file must not choose what code is run
            raise ValueError(f"{saved['class']} is none of pbrl's policies")
        policy = get_class(saved["class"])(Spec(**saved["spec"]), **saved["settings"])
        policy.load_state_dict(saved["state"])
    except FileNotFoundError:
        raise UserError(f"there is no policy at {path}; a finished run writes policy.pt into its folder") from None
    except Exception as error:
        raise UserError(f"{path} is not a policy that this version can read ({error})") from error
    return policy.to(device).eval()
