"""SAC's policy as one of ours: evaluated, saved and deployed as all others are."""

from typing import cast

import torch
from stable_baselines3 import SAC
from torch import nn

from pbrl.models.gaussian import GaussianPolicy
from pbrl.models.layers import Linear
from pbrl.types import Spec


def to_policy(model: SAC, horizon: int) -> GaussianPolicy:
    """The policy that acts as `model.predict(obs, deterministic=True)`, for episodes of up to `horizon` steps.

    It observes numbers, not scaled; layers are ReLU's. Actions lie in [-1, 1].
    """
    actor = model.actor
    layers = [*(part for part in actor.latent_pi if isinstance(part, nn.Linear)), actor.mu]
    obs, action = layers[0].in_features, layers[-1].out_features
    spec = Spec(obs, action, (0.0,) * obs, (1.0,) * obs, horizon)
    with torch.random.fork_rng(devices=[]):  # parameters are drawn, and then replaced
        policy = GaussianPolicy(spec, hidden=[part.out_features for part in layers[:-1]], dropout=0.0, std=0)
    with torch.no_grad():
        for mine, theirs in zip(policy.net.layers, layers, strict=True):
            mine = cast(Linear, mine)
            mine.weight.copy_(theirs.weight.T)
            mine.bias.copy_(theirs.bias)
    return policy.eval()
