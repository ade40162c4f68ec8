"""DTR: a decision transformer held to returns in the data, pulled towards what a critic values, more and more.

In-Dataset Trajectory Return Regularization, Tu et al. 2024, arXiv:2412.09104, on Q-regularised transformers (QT), Hu et
al. 2024, arXiv:2405.17098. A learnt reward is wrong step by step and value learning stitches along its errors, so
imitation leads at first and the critic's weight grows to `eta`; with `eta_steps: 0` it is constant, as in QT.
"""

import copy

import torch
from torch import Tensor, nn

from pbrl.distributed import all_reduce_mean
from pbrl.models.decision_transformer import DecisionTransformer, mean
from pbrl.models.optim import Adam, polyak
from pbrl.ranges import Finite, NotNegative, Positive, Share, ShareBelow1, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Spec, UserError, Windows


class DTR(nn.Module):
    turn: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        context: Size,
        layers: Size,
        heads: Size,
        width: Size,
        dropout: ShareBelow1,
        hidden: list[Size],
        targets: list[Finite],
        choose: str,
        eta: NotNegative,
        eta_steps: Whole,
        imitation: NotNegative,
        state_weight: NotNegative,
        discount: Share,
        tau: Share,
        policy_tau: Share,
        lr: Positive,
        cosine_steps: Whole,
        weight_decay: NotNegative,
        clip: Positive,
        batch_size: Size,
    ):
        super().__init__()
        if context < 2:
            raise UserError(f"algo.context={context}: a critic looks at least one step ahead, so 2 or more")
        if not hidden:
            raise UserError("algo.hidden=[]: the critic needs a hidden layer, as in algo.hidden=[256]")
        self.policy = DecisionTransformer(
            spec,
            context=context,
            layers=layers,
            heads=heads,
            width=width,
            dropout=dropout,
            targets=targets,
            hidden=hidden,
            choose=choose,
        )
        self.target = copy.deepcopy(self.policy).requires_grad_(False).eval()
        self.actor_optim = Adam(
            self.policy.net.parameters(), lr, cosine=cosine_steps, weight_decay=weight_decay, clip=clip
        )
        self.critic_optim = Adam(self.policy.q.parameters(), lr, cosine=cosine_steps, clip=clip)
        self.eta, self.eta_steps, self.imitation, self.state_weight = eta, eta_steps, imitation, state_weight
        self.discount, self.tau, self.policy_tau = discount, tau, policy_tau
        self.context, self.batch_size = context, batch_size
        self.register_buffer("turn", torch.zeros(()))

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update, on_labels=self.measure_returns)]

    def draw(self, data: Data) -> Windows:
        """`batch_size` windows of `context` rows."""
        return data.windows(self.batch_size, self.context)

    def measure_returns(self, data: Data) -> None:
        """Measures the largest return and the deviation of returns-to-go, for the policy and the target policy."""
        self.policy.measure_returns(data.table)
        self.target.measure_returns(data.table)

    def update(self, batch: Windows) -> Metrics:
        """A step of both critics towards n-step returns (eq. 6), and of the policy: imitation minus eta * Q (eq. 9)."""
        error = self.policy.value(batch.obs.state, batch.action) - self.returns(batch)  # [2, B, K]
        critic_loss = mean(error.square(), batch.before_last()).sum()  # eq. 6
        self.critic_optim.step(critic_loss)

        imitation, action = self.policy.imitation(batch, self.state_weight)
        q = self.policy.value(batch.obs.state, action)
        mean_q, size = mean(q, batch.mask), all_reduce_mean(mean(q.abs(), batch.mask))  # [2]
        pulls = mean_q / size.flip(0).clamp(min=1e-6)  # one critic pulls, the other says how large values are
        pull = torch.where(torch.rand((), device=q.device) < 0.5, pulls[0], pulls[1])
        eta = self.eta * (self.turn / self.eta_steps).clamp(max=1.0) if self.eta_steps else self.eta
        self.actor_optim.step(self.imitation * imitation - eta * pull)  # eq. 9

        polyak(self.target.q, self.policy.q, self.tau)
        polyak(self.target.net, self.policy.net, self.policy_tau)
        self.turn.add_(1)
        return {"critic_loss": critic_loss.detach(), "imitation": imitation.detach(), "q": mean_q.detach().mean()}

    @torch.no_grad()
    def returns(self, batch: Windows) -> Tensor:
        """Discounted rewards up to the window's last row, and the smaller target value of the target policy there.

        [B, K]; means nothing at the last row and after it.
        """
        action, _ = self.target.predict(batch)
        at = torch.arange(len(action), device=action.device), batch.last
        value = (1 - batch.done) * self.target.value(batch.obs.state[at], action[at]).amin(0)  # [B]
        every = torch.arange(self.context, device=action.device)
        ahead = (every - every[:, None]).clamp(min=0)  # [K, K], from row i to row j
        discounts = (self.discount**ahead).triu()
        rewards = ((batch.reward * batch.before_last())[:, None] * discounts).sum(-1)
        return rewards + self.discount ** (batch.last[:, None] - every).clamp(min=0) * value[:, None]
