"""What learners draw of what the policy made itself: compared episodes, steps of denoising, synthetic steps."""

import math

import torch
from torch import Tensor

from pbrl.data.chains import Chains, Judged, draw_steps
from pbrl.data.trajectories import Trajectories, take
from pbrl.models.vla_context import BAD, GOOD
from pbrl.types import DenoisingSteps, Observation, Segment, TrajectoryComparisons, Transitions


class OwnData:
    """What the policy made in the last iteration, drawn from by `generator` on its device."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.trajectories: Trajectories | None = None

    def set_trajectories(
        self, trajectories: Trajectories, *, margin: float, same_scene: bool, mistake: float = 0.0
    ) -> None:
        """Compares these from now on, where their scores differ by more than `margin`; a share says the opposite."""
        self.trajectories = trajectories
        self._better = better_pairs(trajectories, margin, same_scene)
        if mistake:
            own = torch.Generator().manual_seed(len(self._better))  # the same when a run goes on
            is_flipped = (torch.rand(len(self._better), generator=own) < mistake).to(self._better.device)
            self._better = torch.where(is_flipped[:, None], self._better[:, [1, 0, 2]], self._better)

    def trajectory_comparisons(self, n: int, *, unpaired: bool = False, images: bool = False) -> TrajectoryComparisons:
        """n pairs of parts of episodes of which one scored higher; where none did, of any, with a confidence of 0.

        Whole episodes are compared as far as both go: no further than to the better one's success.
        `unpaired`: the label is 1 for the better one and 0 for the other, [n, 2].
        """
        own = self.trajectories
        assert own is not None
        drawn = self._better[self._randint(len(self._better), n)]  # [n, 3], the worse one first
        pairs, part = drawn[:, :2], drawn[:, 2:]
        is_swapped = self._randint(2, n).bool()
        label = torch.where((own.score[pairs, part].diff(dim=1)[:, 0] != 0), (~is_swapped).float(), 0.5)
        pairs = torch.where(is_swapped[:, None], pairs.flip(1), pairs)
        chunks, log_prob = take(own.chunks, pairs), own.log_prob[pairs]
        if own.score.shape[1] == 1:  # as far as both go
            both = chunks.mask.any(-1).all(1, keepdim=True).float()
            chunks, log_prob = chunks._replace(mask=chunks.mask * both[..., None]), log_prob * both
        return TrajectoryComparisons(
            chunks,
            torch.stack([1 - label, label], 1) if unpaired else label,
            (label != 0.5).float(),
            log_prob,
            (own.part[pairs] == part[..., None]).float(),
            own.success[pairs],
        )

    def trajectories_by_score(self, n: int, temperature: float) -> Segment:
        """n episodes of any scenes, [n, D, …]; of a scene's, one is drawn by exp(score / temperature)."""
        own = self.trajectories
        assert own is not None
        weight = softmax_in(own.scene, own.score.sum(-1) / temperature)
        return take(own.chunks, torch.multinomial(weight, n, replacement=True, generator=self.generator))

    def graded_trajectories(self, n: int) -> Segment:
        """n episodes [n, D, …], each told how it turned out: well, where it scored more than the mean of its scene, or
        as much and succeeded."""
        own = self.trajectories
        assert own is not None
        score, count = own.score.sum(-1), int(own.scene.max()) + 1
        total = score.new_zeros(count).index_add(0, own.scene, score)
        lead = score - (total / own.scene.bincount(minlength=count))[own.scene]
        quality = torch.where((lead > 1e-6) | ((lead > -1e-6) & own.success), GOOD, BAD)
        places = self._randint(len(own), n)
        chunks = take(own.chunks, places)
        told = {**chunks.obs.text, "quality": quality[places, None].expand(chunks.mask.shape[:2])}
        return chunks._replace(obs=chunks.obs._replace(text=told))

    def set_chains(self, chains: Chains, judged: Judged) -> None:
        """Draws from these steps of denoising from now on."""
        self.chains, self.judged = chains, judged
        self._decisions = chains.made.flatten().nonzero()[:, 0]

    def denoising_steps(self, n: int) -> DenoisingSteps:
        """n steps of denoising, any of any decision of the policy's own episodes."""
        places = self._decisions[self._randint(len(self._decisions), n)]
        return draw_steps(self.chains, self.judged, places, self._randint(self.judged.log_prob.shape[-1], n))

    def set_synthetic(self, steps: Transitions) -> None:
        """Draws synthetic steps from these from now on."""
        self.synthetic = steps

    def synthetic_transitions(self, n: int) -> Transitions:
        """n of the steps that a model has drawn."""
        rows = self._randint(len(self.synthetic.reward), n)
        obs, action, reward, following, done = self.synthetic
        state, then = obs.state[rows], following.state[rows]
        return Transitions(Observation(state), action[rows], reward[rows], Observation(then), done[rows])

    def _randint(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.generator.device)


def better_pairs(trajectories: Trajectories, margin: float, same_scene: bool) -> Tensor:
    """Places [Q, 3] of two episodes, of one scene or any, and of the part in which the second scores higher.

    It does by more than `margin`, and both came to it. Where there are none, one pair of the first with itself.
    """
    score, scene, parts = trajectories.score, trajectories.scene, trajectories.score.shape[1]
    came = (trajectories.part[..., None] == torch.arange(parts, device=score.device)).any(1)  # [N, P]
    is_pair = (score[None] - score[:, None] > margin) & came[None] & came[:, None]
    if same_scene:
        is_pair &= (scene[None] == scene[:, None])[..., None]
    found = is_pair.nonzero()
    return found if len(found) else torch.zeros(1, 3, dtype=torch.long, device=score.device)


def softmax_in(group: Tensor, worth: Tensor) -> Tensor:
    """A softmax of `worth` [N] within each group: `group` [N] long → [N], which adds up to one in each."""
    count = int(group.max()) + 1
    most = worth.new_full((count,), -math.inf).scatter_reduce(0, group, worth, "amax")
    raised = (worth - most[group]).exp()
    return raised / raised.new_zeros(count).index_add(0, group, raised)[group]
