"""Decision Transformer: imitates the data given the return it led to, and asks for a high one when it acts.

Chen et al. 2021, arXiv:2106.01345. With `reward=ensemble` returns are the learnt ones: the Pb-DT of DTR's comparison.
"""

from torch import nn

from pbrl.models.decision_transformer import DecisionTransformer
from pbrl.models.optim import Adam
from pbrl.ranges import Finite, NotNegative, Positive, ShareBelow1, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Spec, Windows


class DT(nn.Module):
    def __init__(
        self,
        spec: Spec,
        *,
        context: Size,
        layers: Size,
        heads: Size,
        width: Size,
        dropout: ShareBelow1,
        targets: list[Finite],
        state_weight: NotNegative,
        lr: Positive,
        cosine_steps: Whole,
        weight_decay: NotNegative,
        clip: Positive,
        batch_size: Size,
    ):
        super().__init__()
        self.policy = DecisionTransformer(
            spec, context=context, layers=layers, heads=heads, width=width, dropout=dropout, targets=targets
        )
        self.optim = Adam(self.policy.net.parameters(), lr, cosine=cosine_steps, weight_decay=weight_decay, clip=clip)
        self.state_weight = state_weight
        self.context, self.batch_size = context, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update, on_labels=self.measure_returns)]

    def draw(self, data: Data) -> Windows:
        """`batch_size` windows of `context` rows."""
        return data.windows(self.batch_size, self.context)

    def measure_returns(self, data: Data) -> None:
        """Measures the largest return and the deviation of returns-to-go, for the policy."""
        self.policy.measure_returns(data.table)

    def update(self, batch: Windows) -> Metrics:
        """Minimizes the squared error of predicted actions, plus `state_weight` times that of next observations."""
        loss, _ = self.policy.imitation(batch, self.state_weight)
        self.optim.step(loss)
        return {"imitation": loss.detach()}
