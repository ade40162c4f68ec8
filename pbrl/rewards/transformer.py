"""Preference Transformer: a reward that remembers, and a segment's score that weighs its steps.

Kim et al. 2023, arXiv:2303.00957. A causal transformer reads observations and actions; from what it makes of each step
a preference-attention layer, which sees the whole segment, draws the step's reward and its weight.
"""

import math

import torch
from torch import Tensor, nn

from pbrl.models.layers import Dropout, Normalize, Transformer, eval_mode
from pbrl.models.optim import Adam
from pbrl.objectives import Objective, agreement
from pbrl.ranges import Count, NotNegative, Positive, ShareBelow1, Size, Whole
from pbrl.rewards.per_step import Actions, ComparedReward, sees_actions
from pbrl.types import Comparisons, Metrics, Observation, Segment, Spec


class PreferenceTransformer(ComparedReward):
    """One member. A step's reward is that at the end of the `context` steps up to it.

    Without `actions` it reads states alone, with `auto` where segments have one step (see `sees_actions`); `length` is
    how many they have.
    """

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        actions: Actions = True,  # as runs have it that are older than the setting
        length: Size = 1,
        context: Size,
        layers: Size,
        heads: Size,
        width: Size,
        dropout: ShareBelow1,
        normalize: str,
        lr: Positive,
        warmup: Whole,
        weight_decay: NotNegative,
        steps: Count,
        batch_size: Size,
    ):
        super().__init__(objective, context=context, normalize=normalize, steps=steps, batch_size=batch_size)
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        shape = {"context": context, "layers": layers, "heads": heads, "width": width}
        self.actions = sees_actions(actions, length)
        self.net = Reader(spec, actions=self.actions, **shape, dropout=dropout)
        self.optim = Adam(self.net.parameters(), lr, warmup=warmup, cosine=steps, weight_decay=weight_decay)

    def reward(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., L, O], action [..., L, A] → reward of each step [1, ..., L]; L is at most `context`."""
        with eval_mode(self):
            reward, _ = self.net(self.obs_normalize(obs.state), action, torch.ones_like(action[..., 0]))
        return reward[None]

    def score(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → the rewards' weighted mean [1, ...]."""
        with eval_mode(self):
            return self._score(segment)[None]

    def _score(self, segment: Segment) -> Tensor:
        reward, weight = self.net(self.obs_normalize(segment.obs.state), segment.action, segment.mask)
        return (weight * reward).sum(-1)

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the loss on the segments' scores, the attention-weighted sums of rewards."""
        scores = self._score(batch.segments)  # [B, K], where K is 2 for pairs
        loss = self.objective(scores, batch.label, batch.confidence)
        self.optim.step(loss)
        return {"loss": loss.detach(), "train_accuracy": agreement(scores, batch.label)}


class Reader(nn.Module):
    """Normalised obs [..., L, O], action [..., L, A], mask [..., L] → reward and weight of each step [..., L].

    Weights sum to one over the steps that `mask` has. Each step is a token of its state and, with `actions`, one of its
    action, whose place then is the step's.
    """

    def __init__(self, spec: Spec, *, actions: bool, context: int, layers: int, heads: int, width: int, dropout: float):
        super().__init__()
        self.embed_obs = nn.Linear(spec.obs_dim, width)
        self.embed_action = nn.Linear(spec.action_dim, width) if actions else None
        self.embed_step = nn.Embedding(context, width)
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(dropout)
        self.transformer = Transformer(width=width, layers=layers, heads=heads, dropout=dropout)
        self.query_key, self.out = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 1)

    def forward(self, obs: Tensor, action: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shape = obs.shape[:-1]  # [..., L]
        obs, action = obs.reshape(-1, *obs.shape[-2:]), action.reshape(-1, *action.shape[-2:])
        mask = mask.reshape(-1, shape[-1])
        when = self.embed_step(torch.arange(shape[-1], device=obs.device))
        parts = [self.embed_obs(obs) + when]
        if self.embed_action:
            parts.append(self.embed_action(action) + when)
        tokens = torch.stack(parts, 2).flatten(1, 2)
        hidden = self.transformer(self.dropout(self.norm(tokens)))[:, len(parts) - 1 :: len(parts)]  # [N, L, W]
        query, key = self.query_key(hidden).float().chunk(2, -1)
        logits = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).masked_fill(mask[:, None] == 0, -math.inf)
        weight = (logits.softmax(-1) * mask[..., None]).sum(1) / mask.sum(-1, keepdim=True)  # [N, L]
        return self.out(hidden).float().reshape(shape), weight.reshape(shape)
