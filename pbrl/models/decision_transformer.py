"""Policies that remember: a causal transformer over returns-to-go, observations and actions.

Decision Transformer, Chen et al. 2021, arXiv:2106.01345. With a critic it tries several target returns and
takes the action that the critic values most (Hu et al. 2024, arXiv:2405.17098; DTR, Tu et al. 2024, arXiv:2412.09104).
"""

from typing import Any

import torch
from torch import Tensor, nn

from pbrl.data.table import Table, scale_of
from pbrl.distributed import all_reduce_mean
from pbrl.models.layers import MLP, Dropout, Normalize, Transformer, eval_mode
from pbrl.types import Observation, Spec, UserError, Windows


class DecisionTransformer(nn.Module):
    """Acts on the last `context` steps and on a target return: shares `targets` of the best return in the data.

    The target falls by the same amount every step, to nothing at the end of the longest episode, since rewards are
    unknown while it acts. With `hidden` it owns twin critics Q(s, a), which choose among the targets; without, there is
    one. `choose` takes the action that they value most (argmax), or draws one in proportion to exp(Q) (softmax).
    """

    q: Any  # twin critics, or None
    return_scale: Tensor
    return_max: Tensor

    reads_words = False

    def __init__(
        self,
        spec: Spec,
        *,
        context: int,
        layers: int,
        heads: int,
        width: int,
        dropout: float,
        targets: list[float],
        hidden: list[int] | None = None,
        choose: str = "argmax",
    ):
        super().__init__()
        if choose not in ("argmax", "softmax"):
            raise UserError(f"algo.choose={choose}: it is argmax or softmax")
        if not targets or (hidden is None and len(targets) != 1):
            raise UserError(f"algo.targets={targets}: one share of the best return, or several with a critic to choose")
        self.spec = spec
        self.settings: dict[str, Any] = {
            "context": context,
            "layers": layers,
            "heads": heads,
            "width": width,
            "dropout": dropout,
            "targets": list(targets),
            "hidden": hidden and list(hidden),
            "choose": choose,
        }
        self.context, self.targets, self.choose = context, targets, choose
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.net = Sequence(spec, 1, layers=layers, heads=heads, width=width, dropout=dropout)
        self.q = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=2) if hidden else None
        self.register_buffer("return_scale", torch.ones(()))
        self.register_buffer("return_max", torch.ones(()))
        self.reset()

    def measure_returns(self, table: Table) -> None:
        """Takes over how large returns are: their largest, and the deviation of returns-to-go, which scales them."""
        returns = table.labels["return_to_go"]
        self.return_max.copy_(returns[table.opening].max())
        self.return_scale.copy_(scale_of(returns[table.rows][:, None])[0])

    def predict(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """The action of each row [B, K, A], and the normalised observation after it [B, K, O]."""
        returns = (batch.returns_to_go / self.return_scale)[..., None]
        return self.net(self.normalize(batch.obs.state), batch.action, returns, batch.step)

    def imitation(self, batch: Windows, state_weight: float) -> tuple[Tensor, Tensor]:
        """Error of its actions plus `state_weight` times that of its next observations (scalar); and its actions."""
        action, next_obs = self.predict(batch)
        action_error = (action - batch.action).square().mean(-1)
        next_error = (next_obs[:, :-1] - self.normalize(batch.obs.state[:, 1:])).square().mean(-1)
        before_last = batch.before_last()[:, :-1]
        return mean(action_error, batch.mask) + state_weight * mean(next_error, before_last), action

    def value(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs [..., O], action [..., A] → the critics' values [2, ...]."""
        assert self.q is not None
        return self.q(torch.cat([self.normalize(obs), action], -1)).float().squeeze(-1)

    def reset(self) -> None:
        """Starts episodes: forgets earlier observations and actions."""
        self.history: list[Tensor] = []
        self.actions: list[Tensor] = []
        self.time = 0

    def looks(self) -> bool:
        """Always: it reads each observation."""
        return True

    @torch.no_grad()
    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """obs [N, O] → action [N, A] in [-1, 1]. N episodes at once, all begun when it was reset.

        It does not explore: DT and its relatives are deterministic.
        """
        self.history = [*self.history, obs.state][-self.context :]
        with eval_mode(self):
            action = self._choose(obs.state, self._candidates())
        self.actions = [*self.actions, action][-(self.context - 1) :] if self.context > 1 else []
        self.time += 1
        return action

    def plan(self, obs: Observation) -> Tensor:
        """obs [N, O] → the next action as a chunk [N, 1, A]."""
        return self.act(obs)[:, None]

    def _candidates(self) -> Tensor:
        """The action for each target return: [G, N, A]."""
        state = torch.stack(self.history, 1)  # [N, K, O]
        n, g = len(state), len(self.targets)
        steps = torch.arange(self.time + 1 - len(self.history), self.time + 1, device=state.device)  # [K]
        unknown = state.new_zeros(n, self.spec.action_dim)
        actions = torch.stack([*self.actions, unknown], 1)
        target = self.return_max * torch.tensor(self.targets, device=state.device)  # [G]
        left = target[:, None] * (1 - steps / self.spec.max_steps)  # [G, K]
        action, _ = self.net(
            self.normalize(state).repeat(g, 1, 1),
            actions.repeat(g, 1, 1),
            (left / self.return_scale).repeat_interleave(n, 0)[..., None],
            steps.expand(g * n, -1),
        )
        return action[:, -1].unflatten(0, (g, n))

    def _choose(self, state: Tensor, candidates: Tensor) -> Tensor:
        """state [N, O], candidates [G, N, A] → the one that the critics value most, or draw: [N, A]."""
        if self.q is None:
            return candidates[0]
        values = self.value(state.expand(len(candidates), -1, -1), candidates).amin(0)  # [G, N]
        if self.choose == "argmax":
            best = values.argmax(0)
        else:
            random = torch.Generator().manual_seed(self.time)  # on the CPU: the same draws everywhere
            best = torch.multinomial(values.T.softmax(-1).cpu(), 1, generator=random)[:, 0].to(state.device)
        return candidates[best, torch.arange(len(state), device=state.device)]


def mean(x: Tensor, where: Tensor) -> Tensor:
    """x [..., B, K] → its mean where `where` [B, K] is 1, or 0 where it nowhere is: [...]."""
    return (x * where).sum((-2, -1)) / all_reduce_mean(where.sum()).clamp(min=1e-6)


class Sequence(nn.Module):
    """The network: what is asked for, observations and actions as tokens in turn, each with its step's embedding added.

    What is asked for are `asked` numbers a step: one where it is a return.
    """

    def __init__(self, spec: Spec, asked: int, *, layers: int, heads: int, width: int, dropout: float):
        super().__init__()
        self.embed_return, self.embed_obs = nn.Linear(asked, width), nn.Linear(spec.obs_dim, width)
        self.embed_action, self.embed_step = nn.Linear(spec.action_dim, width), nn.Embedding(spec.max_steps + 1, width)
        nn.init.normal_(self.embed_step.weight, std=0.02)  # GPT-2's; at 1 a thousand random ones drown the returns
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(dropout)
        self.transformer = Transformer(width=width, layers=layers, heads=heads, dropout=dropout)
        self.action, self.next_obs = nn.Linear(width, spec.action_dim), nn.Linear(width, spec.obs_dim)

    def forward(self, obs: Tensor, action: Tensor, asked: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised obs [B, K, O], action [B, K, A], asked [B, K, …], step [B, K] → action, next obs, of each row."""
        when = self.embed_step(step.clamp(max=self.embed_step.num_embeddings - 1))  # [B, K, W]
        three = self.embed_return(asked), self.embed_obs(obs), self.embed_action(action)
        tokens = torch.stack([token + when for token in three], 2).flatten(1, 2)  # [B, 3 K, W]
        out = self.transformer(self.dropout(self.norm(tokens))).unflatten(1, (-1, 3))
        return torch.tanh(self.action(out[:, :, 1]).float()), self.next_obs(out[:, :, 2]).float()
