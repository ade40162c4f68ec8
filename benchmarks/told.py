"""Policies of one step that are told strengths, to compare a planner with: cloning and a decision transformer.

Goal-conditioned behaviour cloning is an MLP from state and strengths to the action; the decision transformer (Chen et
al. 2021, arXiv:2106.01345) reads the last steps too, and strengths where it has returns. A policy of one step plans no
states that an attribute model could read. So that both can be chosen from as a planner is, an MLP learns beside them
which state follows an action, and they imagine `candidates` futures as long as a plan: actions with Gaussian noise, as
large as their error on the data, from state to predicted state. The future that the planner's attribute model reads as
nearest to the targets is begun, and as many of its actions are carried out. With one candidate they act anew in every
step, without noise.
"""

import torch
from torch import Tensor, nn
from tqdm import trange

from pbrl.models.chunks import ChunkQueue
from pbrl.models.decision_transformer import Sequence
from pbrl.models.layers import MLP
from pbrl.models.optim import Adam
from pbrl.models.planner import Planner, Targets
from pbrl.training.batches import Data
from pbrl.types import Observation

HIDDEN, BATCH, LR = [256, 256], 64, 1e-3
TRANSFORMER = {"layers": 2, "heads": 4, "width": 64, "dropout": 0.1}  # and CONTEXT: as of algo=dt
CONTEXT = 3
AVERAGE = 0.99  # of the measured errors, over updates


class Clone(nn.Module):
    """An MLP from state and strengths to the action."""

    context = 1

    def __init__(self, planner: Planner):
        super().__init__()
        size, told = planner.spec.obs_dim, planner.bins * len(planner.attributes)
        self.net = MLP(size + told, planner.spec.action_dim, HIDDEN)

    def forward(self, state: Tensor, action: Tensor, told: Tensor) -> Tensor:
        """state [N, K, O], action [N, K, A], told [N, K, …] → the action of each step [N, K, A]."""
        return torch.tanh(self.net(torch.cat([state, told], -1)))


class Transformer(nn.Module):
    """The decision transformer's network; steps are counted from the first that it sees."""

    context = CONTEXT

    def __init__(self, planner: Planner):
        super().__init__()
        self.net = Sequence(planner.spec, planner.bins * len(planner.attributes), **TRANSFORMER)
        self.net.next_obs.requires_grad_(False)  # not used

    def forward(self, state: Tensor, action: Tensor, told: Tensor) -> Tensor:
        """As `Clone`; of actions it reads those of earlier steps."""
        return self.net(state, action, told, torch.arange(state.shape[1], device=state.device)[None])[0]


class Told(nn.Module):
    """Acts with a network, and with a planner's targets, scales and attribute model. `candidates`: see above."""

    error: Tensor  # [A], of actions, standard deviation
    extent: Tensor  # [O], of how scaled states change in a step, standard deviation

    def __init__(self, planner: Planner, net: Clone | Transformer, *, candidates: int):
        super().__init__()
        self.planner, self.net, self.candidates = planner, net, candidates
        size, actions = planner.spec.obs_dim, planner.spec.action_dim
        self.change = MLP(size + actions, size, HIDDEN)  # of a state by an action, in shares of `extent`
        self.register_buffer("error", torch.ones(actions))
        self.register_buffer("extent", torch.ones(size))
        self.reset()

    def train_on(self, data: Data, steps: int, name: str) -> None:
        """Imitates the first `context` steps of windows, told their strengths, and predicts the states after them."""
        learnt = [p for net in (self.net, self.change) for p in net.parameters() if p.requires_grad]
        optim = Adam(learnt, LR, cosine=steps)
        context = self.net.context
        windows = data.attribute_windows(4096, self.planner.horizon).segments.obs.state
        self.extent.copy_(self.planner.scaled(windows).diff(dim=1).flatten(0, 1).std(0).clamp(min=1e-4))
        for _ in trange(steps, desc=name, leave=False):
            batch = data.attribute_windows(BATCH, self.planner.horizon)
            state = self.planner.scaled(batch.segments.obs.state[:, : context + 1])
            action = batch.segments.action[:, :context]
            told = torch.cat(self.planner.told(batch.strength), -1)[:, None].expand(-1, context, -1)
            wrong = (self.net(state[:, :-1], action, told) - action).square()
            change = self.change(torch.cat([state[:, :-1], action], -1))
            optim.step(wrong.mean() + (change - state.diff(dim=1) / self.extent).square().mean())
            latest = wrong.detach().flatten(0, 1).mean(0).sqrt()
            self.error.copy_(AVERAGE * self.error + (1 - AVERAGE) * latest)
        self.net.eval()

    # A planner's interface

    def set_targets(self, targets: Targets) -> None:
        """Acts for these from now on."""
        self.planner.set_targets(targets)
        self.queue.reset()

    def reset(self) -> None:
        """Starts an episode."""
        self.queue = ChunkQueue(self.planner.queue.execute if self.candidates > 1 else 1)
        self.planner.noise.reset()
        self.states: list[Tensor] = []  # [1, O], scaled
        self.actions: list[Tensor] = []  # [1, A]

    @torch.no_grad()
    def act(self, obs: Observation) -> Tensor:
        """obs [1, O] → action [1, A]."""
        self.planner.noise.begin(obs.state)
        self.states = [*self.states, self.planner.scaled(obs.state)][-self.net.context :]
        action = self.queue.next(self.plan)
        self.actions = [*self.actions, action][-self.net.context :]
        return action

    def plan(self) -> Tensor:
        """The next actions [1, K, A], of the future that is read as nearest to the targets."""
        if self.candidates == 1:
            return self.imagine(1, 1, noise=0.0)[..., self.planner.spec.obs_dim :].clamp(-1, 1)
        futures = self.imagine(self.candidates, self.planner.horizon, noise=1.0)
        target, given = self.planner.wish(futures.device)
        error = (self.planner.strength(futures) - target).square() @ given  # [N]
        best = futures[error.argmin()][None, : self.queue.execute]
        return best[..., self.planner.spec.obs_dim :].clamp(-1, 1)

    def imagine(self, count: int, length: int, *, noise: float) -> Tensor:
        """`count` futures [N, H, O + A] from what was observed, of scaled states and actions with noise."""
        device, size = self.error.device, len(self.error)
        told = torch.cat(self.planner.told(self.planner.wish(device)[0]), -1)
        drawn = noise * self.error * self.planner.noise.draw((count, 1, length, size), device)[:, 0]  # [N, H, A]
        states = [state.expand(count, -1) for state in self.states]
        actions = [action.expand(count, -1) for action in self.actions]
        found = []
        for t in range(length):
            seen = torch.stack(states[-self.net.context :], 1)  # [N, K, O]
            asked = told.expand(*seen.shape[:2], -1)
            earlier = actions[len(actions) - seen.shape[1] + 1 :]
            unknown = torch.zeros(count, size, device=device)
            chosen = self.net(seen, torch.stack([*earlier, unknown], 1), asked)[:, -1]
            action = (chosen + drawn[:, t]).clamp(-1, 1)
            found.append(torch.cat([states[-1], action], -1))
            states.append(states[-1] + self.extent * self.change(found[-1]))
            actions.append(action)
        return torch.stack(found, 1)
