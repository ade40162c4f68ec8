"""Direct Preference-based Policy Optimization: CPL on pairs from all data, which a reward model compares.

An et al. 2023, arXiv:2301.12842. A few answers teach the reward model, it labels the whole data set, and the policy
learns from pairs of any of its segments: `algo=dppo reward=transformer`.
"""

from pbrl.algos.cpl import CPL
from pbrl.training.batches import Data
from pbrl.types import Comparisons


class DPPO(CPL):
    """Draws what CPL draws, from all data, labelled by the learned reward."""

    def draw(self, data: Data) -> Comparisons:
        """`batch_size` comparisons of segments from the whole data set, labelled by the learned reward."""
        return self.objective.draw_by_reward(data, self.batch_size, images=True)
