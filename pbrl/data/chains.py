"""A diffusion policy's own episodes with the chains of its denoising, and what each decision was worth.

A decision is a chunk of actions, which J steps of denoising drew: x_J, the noise, to x_0, of which the policy carries
out the first actions. So an episode of D decisions is one of D * J, in DPPO's two-layer Markov decision process.
Shape letters besides: N episodes · D decisions · J steps of denoising.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from pbrl.data.rollout import Observed, RolloutWorkers, to_observation
from pbrl.data.scenes import NotingActor, play_scenes, scenes_of
from pbrl.models.diffusion.denoising import Denoising
from pbrl.models.diffusion.policy import DiffusionPolicy
from pbrl.types import DenoisingSteps, Episode, Observation, RewardOf

if TYPE_CHECKING:
    from pbrl.training.batches import Data


@dataclass
class Chains:
    """N episodes of at most D decisions. Of shorter ones the last places are not `made`."""

    state: Tensor  # [N, D + 1, O], observed where decisions were made, and, in the place after the last, at the end
    chain: Tensor  # [N, D, J + 1, K, A], noise first
    mask: Tensor  # [N, D, K] float, 1 for actions that were carried out
    reward: Tensor  # [N, D], what learners see, summed over a decision's steps
    terminated: Tensor  # [N] bool: ended by a true terminal
    success: Tensor  # [N] bool
    returns: Tensor  # [N], the true ones

    @property
    def made(self) -> Tensor:
        """[N, D] bool: whether a decision was made."""
        return self.mask.any(-1)

    @property
    def is_last(self) -> Tensor:
        """[N, D] bool: whether it was an episode's last one."""
        return self.made & ~pad(self.made[:, 1:], (0, 1))


class Judged(NamedTuple):
    """What a learner makes of chains before it learns from them."""

    log_prob: Tensor  # [N, D, J], of each step of denoising, by the policy that played
    advantage: Tensor  # [N, D]
    target: Tensor  # [N, D], of the value function


class ChainActor(NotingActor):
    """A diffusion policy that explores by the noise of its denoising, as its network is now and not on average."""

    policy: DiffusionPolicy

    def __init__(self, policy: DiffusionPolicy, denoising: Denoising):
        super().__init__(policy, explore=True)
        self.denoising = denoising

    def start(self, envs: Any, seeds: Sequence[int]) -> None:
        super().start(envs, seeds)
        self.chains: list[Tensor] = []

    def act(self, obs: Observed, running: np.ndarray) -> np.ndarray:
        return self.policy.queue.next(lambda: self._plan(to_observation(obs))).numpy()

    def _plan(self, obs: Observation) -> Tensor:
        policy = self.policy
        policy.noise.begin(obs.state)
        shape = (len(obs.state), policy.horizon, policy.spec.action_dim)
        chain = self.denoising.draw(
            policy.model.denoiser, shape, (policy.model.told(obs),), lambda s: policy.noise.draw(s, obs.state.device)
        )
        self.chains.append(chain)
        return chain[:, -1].clamp(-1, 1)

    def note(self, i: int, episode: Episode) -> tuple[Episode, Tensor]:
        """The episode and its chains [D, J + 1, K, A]."""
        decisions = -(-len(episode.action) // self.policy.execute)
        return episode, torch.stack([chain[i] for chain in self.chains[:decisions]])


class ChainRollouts(NamedTuple):
    """`samples` episodes of each of `scenes` initial states, from which a phase learns with their rewards.

    `judge` is the learner's: what it makes of them before it learns from them.
    """

    iterations: int
    scenes: int
    samples: int
    denoising: Denoising
    judge: Callable[[Chains], Judged]
    keep: bool = False

    def play(
        self, workers: RolloutWorkers, policy: DiffusionPolicy, seed: int, iteration: int, reward_of: RewardOf
    ) -> dict[str, Any]:
        actor = ChainActor(copy.deepcopy(policy).to("cpu").eval(), self.denoising)
        scenes, salt = scenes_of(seed, iteration, self.scenes), seed * 1000 + iteration
        with tqdm(total=self.scenes * self.samples, desc=f"rollouts {iteration}", unit="episode") as bar:
            played = play_scenes(workers, actor, scenes, self.samples, salt=salt, progress=bar.update)
        episodes = [episode for episode, _ in played]
        own = to_chains(played, reward_of(episodes), policy.execute)
        device = next(policy.parameters()).device
        judged = self.judge(Chains(**{name: value.to(device) for name, value in asdict(own).items()}))
        return {**asdict(own), **{name: value.cpu() for name, value in judged._asdict().items()}}

    def is_complete(self, played: Mapping[str, Any]) -> bool:
        return {*Chains.__annotations__, *Judged._fields} == set(played)

    def give(self, data: "Data", played: Sequence[dict[str, Any]]) -> tuple[dict[str, float], str]:
        (state,) = played
        own = Chains(**{name: state[name] for name in Chains.__annotations__})
        data.set_chains(own, Judged(**{name: state[name] for name in Judged._fields}))
        success, returns = own.success.float().mean().item(), own.returns.mean().item()
        learnt = own.reward.sum(1)
        measures = {
            "episodes": float(len(learnt)),
            "success": success,
            "return_mean": returns,
            "learnt_return": learnt.mean().item(),
        }
        return measures, f"{len(learnt)} episodes, success {success:.0%}, return {returns:.1f}"


def to_chains(played: Sequence[tuple[Episode, Tensor]], rewards: Sequence[np.ndarray], execute: int) -> Chains:
    """Episodes with their chains [D, J + 1, K, A] and the rewards of their steps [T], as tensors."""
    count, decisions = len(played), max(len(chain) for _, chain in played)
    size, shape = played[0][0].obs.shape[1], played[0][1].shape[1:]
    state, chains = torch.zeros(count, decisions + 1, size), torch.zeros(count, decisions, *shape)
    mask, reward = torch.zeros(count, decisions, shape[1]), torch.zeros(count, decisions)
    for i, ((episode, chain), own) in enumerate(zip(played, rewards, strict=True)):
        steps, made = len(episode.action), len(chain)
        state[i, :made] = torch.from_numpy(episode.obs[:steps:execute])
        state[i, made] = torch.from_numpy(episode.obs[steps])
        chains[i, :made] = chain
        reward[i, :made] = torch.from_numpy(np.add.reduceat(own, np.arange(0, steps, execute)))
        carried_out = steps - execute * torch.arange(made)
        mask[i, :made] = (torch.arange(shape[1]) < carried_out.clamp(max=execute)[:, None]).float()
    return Chains(
        state,
        chains,
        mask,
        reward,
        torch.tensor([episode.terminated for episode, _ in played]),
        torch.tensor([episode.success is not None and bool(episode.success.any()) for episode, _ in played]),
        torch.tensor([float(episode.reward.sum()) for episode, _ in played]),
    )


def draw_steps(own: Chains, judged: Judged, places: Tensor, step: Tensor) -> DenoisingSteps:
    """The steps of denoising `step` [n] of the decisions at `places` [n], which count those of all episodes."""
    episode, decision = places // own.reward.shape[1], places % own.reward.shape[1]
    return DenoisingSteps(
        Observation(own.state[episode, decision]),
        own.chain[episode, decision, step],
        own.chain[episode, decision, step + 1],
        step,
        own.mask[episode, decision],
        judged.log_prob[episode, decision, step],
        judged.advantage[episode, decision],
        judged.target[episode, decision],
    )
