"""A reward that remembers: an LSTM over observations and actions, by default under the Bradley-Terry model.

Early et al. 2022, arXiv:2205.15367: a preference may depend on what happened before.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pbrl.models.layers import Normalize
from pbrl.models.optim import Adam
from pbrl.objectives import Objective, agreement
from pbrl.ranges import Count, NotNegative, Positive, Size
from pbrl.rewards.per_step import Actions, ComparedReward, sees_actions
from pbrl.types import Comparisons, Metrics, Observation, Phase, Spec


class LSTM(ComparedReward):
    """One member. A step's reward depends on the `context` steps up to it; a segment's score is its summed reward.

    Without `actions` it remembers states alone, with `auto` where segments have one step (see `sees_actions`); `length`
    is how many they have.
    """

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        actions: Actions = True,  # as runs have it that are older than the setting
        length: Size = 1,
        context: Size,
        width: Size,
        bounded: bool,
        normalize: str,
        lr: Positive,
        weight_decay: NotNegative,
        steps: Count,
        batch_size: Size,
    ):
        super().__init__(objective, context=context, normalize=normalize, steps=steps, batch_size=batch_size)
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.actions = sees_actions(actions, length)
        size = spec.obs_dim + (spec.action_dim if self.actions else 0)
        self.memory = nn.LSTM(size, width, batch_first=True)
        self.out = nn.Linear(width, 1)
        parameters = [*self.memory.parameters(), *self.out.parameters()]
        self.optim = Adam(parameters, lr, weight_decay=weight_decay, clip=1.0)
        self.bounded = bounded
        has_bf16()  # asked now, and not while an update of several seeds is traced

    def phases(self) -> list[Phase]:
        # PyTorch cannot compile the training of its LSTM on a CPU
        return [Phase("reward", self.steps, self.draw, self.update, compiles=False)]

    def reward(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., L, O], action [..., L, A] → reward of each step [1, ..., L]."""
        state = self.obs_normalize(obs.state)
        seen = torch.cat([state, action], -1) if self.actions else state
        with self.precision(seen.device):
            hidden, _ = self.memory(seen.flatten(0, -3))
        out = self.out(hidden).float().reshape(1, *action.shape[:-1])
        return torch.tanh(out) if self.bounded else out

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """As the update around it, but float32 where there is no LSTM in bfloat16."""
        return nullcontext() if device.type != "cpu" or has_bf16() else torch.autocast("cpu", enabled=False)

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the loss on the segments' returns."""
        scores = self.score(batch.segments)[0]  # [B, K], where K is 2 for pairs
        loss = self.objective(scores, batch.label, batch.confidence)
        self.optim.step(loss)
        return {"loss": loss.detach(), "train_accuracy": agreement(scores, batch.label)}


@cache
def has_bf16() -> bool:
    """Whether this processor has an LSTM in bfloat16; oneDNN has one for some."""
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.random.fork_rng([]):  # its start draws random numbers
            nn.LSTM(1, 1)(torch.zeros(1, 1))
    except RuntimeError:
        return False
    return True
