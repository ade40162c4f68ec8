"""Trajectory-wise preference optimization: a policy compares its own whole episodes, and learns from the better ones.

GRAPE, Zhang et al. 2024, arXiv:2411.19309. First the policy is cloned from data. Then, several times over, it plays
many scenes several times each, from the same initial state; its episodes are scored; and the loss of `objective=` is
minimised on beta * log(pi(episode) / pi_before(episode)), with `logistic` that of DPO. The reference is the policy that
played, so what it gives is known from playing. Stage by stage it is STARE's TPO (2025); by branches, the step-level
preferences of tree searches (Xie et al. 2024, arXiv:2405.00451), on decisions of an arm.

Without a comparison, it clones its own episodes: the better ones that succeeded (filtered behavior cloning), or all,
weighed by exp(score / temperature) among those of a scene: the forward KL divergence from the best policy that stays
near, which reward-weighted regression minimises (Peters & Schaal 2007); or all, each told how it turned out, and acts
as if told that it will turn out well (advantage conditioning, RECAP, Physical Intelligence 2025).
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pbrl.data.trajectories import ComparedRollouts
from pbrl.distributed import all_reduce_mean
from pbrl.models.diffusion.policy import DiffusionPolicy
from pbrl.models.gaussian import GaussianPolicy
from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy, load_same
from pbrl.objectives import Objective, agreement
from pbrl.ranges import Count, NotNegative, Positive, Share, Size, Whole
from pbrl.stages.description import load_stages
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Segment, Spec, TrajectoryComparisons, UserError

COMPARE, CLONE = ("episodes", "stages", "branches"), ("winners", "weighted", "conditioned")


class Batch(NamedTuple):
    """Episodes to compare, or to clone, and chunks of the data that the policy shall not forget."""

    own: TrajectoryComparisons | Segment
    chunks: Segment


class TPO(nn.Module):
    """Learns from its own whole episodes, in several iterations of playing and learning.

    In each of `iterations`, `scenes` are played `samples` times. An episode scores `success` if it succeeds, plus
    `return_weight` times its reward per step that it may take, as learners see it, plus `stages` times exp(-cost) by
    the stage description `description`, less `time` times the share of its steps that it took, plus `confidence` times
    the log-likelihood of its actions per step. Episodes whose scores differ by no more than `margin` are not compared;
    with `same_scene=false` they are of any two scenes. `compare` says whether whole episodes are, or the stages of one
    by one, or branches, of `branch` decisions. With `keep` the episodes of earlier iterations are learnt from again.
    `kl_weight` keeps what was played as likely as it was. `clone` is winners, weighted or conditioned, and null where
    losers count, too. `start_from` is the folder of a run whose policy is tuned, and then nothing is cloned first.
    A diffusion policy's likelihood is a bound, whose noise and times it shares with the policy that has played.
    """

    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        objective: Objective,
        iterations: Count,
        scenes: Size,
        samples: Size,
        success: NotNegative,
        return_weight: NotNegative,
        time: NotNegative,
        confidence: NotNegative,
        stages: NotNegative,
        description: str | None,
        margin: NotNegative,
        same_scene: bool,
        compare: str,
        branch: Size,
        keep: bool,
        mistake: Share,
        beta: Positive,
        per_step: bool,
        kl_weight: NotNegative,
        bc_weight: NotNegative,
        clone: str | None,
        temperature: Positive,
        start_from: str | None,
        lr: Positive,
        lr_after: Positive,
        pretrain_steps: Whole,
        pretrain_batch_size: Size,
        batch_size: Size,
        clip: NotNegative,
        cosine_steps: Whole,
    ):
        super().__init__()
        for name, value, choices in (("compare", compare, COMPARE), ("clone", clone, (None, *CLONE))):
            if value not in choices:
                raise UserError(f"algo.{name}={value}: it is {', '.join(str(c or 'null') for c in choices)}")
        if not policy.is_exact:
            check_bound(policy, compare, confidence)
        if isinstance(policy, GaussianPolicy) and policy.log_std is None:
            raise UserError("algo=tpo plays a scene several times, and this policy always acts alike: policy.std=0.3")
        if samples < 2 and not clone:
            raise UserError("algo.samples=1: episodes are compared with others of their scene, so 2 or more of each")
        if (stages or compare == "stages") and not description:
            raise UserError("algo.description says which stages there are: name one, as algo.description=mt10")
        if clone == "conditioned" and not policy.settings.get("quality"):
            raise UserError(
                "algo.clone=conditioned tells a policy how well it shall do: policy=vla policy.quality=true"
            )
        if objective.segments > 2:
            raise UserError(f"objective={objective.name} learns from lists, and algo=tpo compares two episodes")
        self.policy = policy
        self.reference = None if policy.is_exact else copy.deepcopy(policy).requires_grad_(False).eval()
        self.cloner = Adam(policy.parameters(), lr, cosine=pretrain_steps)
        self.tuner = Adam(policy.parameters(), lr_after, clip=clip, cosine=cosine_steps)
        self.objective = objective
        self.rollouts = ComparedRollouts(
            iterations, scenes, samples, success=success, reward=return_weight, time=time, confidence=confidence,
            stages=stages, margin=margin, same_scene=same_scene, compare=compare, branch=branch, keep=keep,
            mistake=mistake, description=load_stages(description) if description else None,
        )  # fmt: skip
        self.beta, self.per_step, self.kl_weight, self.bc_weight = beta, per_step, kl_weight, bc_weight
        self.clone_by, self.temperature = clone, temperature
        self.pretrain_steps, self.start_from = 0 if start_from else pretrain_steps, start_from
        self.batch_size, self.pretrain_batch_size = batch_size, pretrain_batch_size

    def phases(self, steps: int) -> list[Phase]:
        clone = Phase("pretrain", self.pretrain_steps, self.draw_data, self.clone)
        tune = Phase(
            "policy",
            steps,
            self.draw,
            self.update,
            before=self.start,
            on_labels=self.take_reference,
            rollouts=self.rollouts,
        )
        return [clone, tune]

    def start(self, data: Data) -> None:
        """Takes the policy of the run to start from, if there is one. Raises UserError where it is another kind."""
        if self.start_from:
            self.policy.load_state_dict(load_same(self.start_from, self.policy).state_dict())

    def take_reference(self, data: Data) -> None:
        """The policy that has just played is what a bound of likelihoods is compared with."""
        if self.reference is not None:
            self.reference.load_state_dict(self.policy.state_dict())

    def draw_data(self, data: Data) -> Segment:
        """Chunks of the data, with images."""
        return data.chunks(self.pretrain_batch_size, self.policy.horizon, images=True)

    def clone(self, batch: Segment) -> Metrics:
        """Maximizes the log-likelihood of the data's actions, per step."""
        loss = -self.policy.score(batch).sum() / all_reduce_mean(batch.mask.sum())
        self.cloner.step(loss)
        self.policy.after_step()
        return {"bc": loss.detach()}

    def draw(self, data: Data) -> Batch:
        """Two episodes each of `batch_size` scenes, and as many chunks of the data."""
        own: TrajectoryComparisons | Segment
        if self.clone_by == "weighted":
            own = data.trajectories_by_score(2 * self.batch_size, self.temperature)
        elif self.clone_by == "conditioned":
            own = data.graded_trajectories(2 * self.batch_size)
        else:
            own = self.objective.draw_trajectories(data, self.batch_size)
        return Batch(own, data.chunks(self.batch_size, self.policy.horizon, images=True))

    def update(self, batch: Batch) -> Metrics:
        """Minimizes the objective on beta * log(pi / pi_before), or clones, and the BC loss times `bc_weight`."""
        if not isinstance(batch.own, TrajectoryComparisons):
            loss = self._clone_loss(batch.own, torch.ones_like(batch.own.mask[..., 0, 0]))
            metrics = {"own_bc": loss.detach()}
        elif self.clone_by:
            label, success = batch.own.label, batch.own.success
            better = torch.stack([1 - label, label], 1) if label.ndim == 1 else label
            loss = self._clone_loss(batch.own.chunks, (better > 0.5).float() * success)
            metrics = {"winners_bc": loss.detach()}
        else:
            loss, metrics = self._compare(batch.own)
        bc = -self.policy.score(batch.chunks).sum() / all_reduce_mean(batch.chunks.mask.sum())
        self.tuner.step(loss + self.bc_weight * bc)
        self.policy.after_step()
        return {**metrics, "bc": bc.detach()}

    def _clone_loss(self, chunks: Segment, weight: Tensor) -> Tensor:
        """The negative log-likelihood of episodes [...] with a weight each [...], per step."""
        steps = chunks.mask.sum((-2, -1))
        log_prob = self.policy.score_chunks(chunks).sum(-1)
        return -(weight * log_prob).sum() / all_reduce_mean((weight * steps).sum()).clamp(min=1.0)

    def _compare(self, own: TrajectoryComparisons) -> tuple[Tensor, Metrics]:
        """The objective, with a divergence from the policy that played, and what is logged of it.

        The forward KL divergence's gradient is that of cloning what was played, better and worse alike, compared or
        not.
        """
        gain = self.gain(own)
        ratio, steps = (gain * own.is_compared).sum(-1), own.chunks.mask.sum(-1)
        if self.per_step:
            scores = self.beta * ratio / (steps * own.is_compared).sum(-1).clamp(min=1.0)
        else:
            scores = self.beta * ratio
        loss, told = self.objective(scores, own.label, own.confidence), own.confidence[:, None, None]
        accuracy, kl = agreement(scores, own.label), -(told * gain).sum() / all_reduce_mean(steps.sum()).clamp(min=1.0)
        metrics = {"tpo": loss.detach(), "train_accuracy": accuracy, "ratio": ratio.detach().mean(), "kl": kl.detach()}
        return loss + self.kl_weight * kl, metrics

    def gain(self, own: TrajectoryComparisons) -> Tensor:
        """log(pi / pi_before) of each decision, or a bound of it with noise that both share: [B, 2, D]."""
        if self.reference is None:
            return self.policy.score_chunks(own.chunks) - own.log_prob
        chance = self.policy.draw_chance_of_chunks(own.chunks)
        return self.policy.score_chunks(own.chunks, chance) - self.reference.score_chunks(own.chunks, chance)


def check_bound(policy: LikelihoodPolicy, compare: str, confidence: float) -> None:
    """Raises UserError where a policy with a bound of likelihoods cannot learn so from its own episodes."""
    if not isinstance(policy, DiffusionPolicy):
        raise UserError(f"algo=tpo cannot compare episodes of {type(policy).__name__}: choose policy=vla or diffusion")
    if policy.execute < policy.horizon:
        raise UserError(
            f"policy.execute={policy.execute} of policy.horizon={policy.horizon}: a diffusion policy's own chunks are "
            f"known as far as they were carried out, so policy.execute={policy.horizon}"
        )
    if compare == "branches":
        raise UserError("algo.compare=branches takes the likeliest actions elsewhere, and diffusion knows none")
    if confidence:
        raise UserError("algo.confidence is of likelihoods, and diffusion has a bound of them: algo.confidence=0")
