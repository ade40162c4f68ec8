"""The value of a reference policy, for teachers that judge by regret.

The policy (a scripted expert, or a learnt one) is played on from states of the data, which simulators restore exactly,
and a network is fitted to the discounted returns of everything visited on the way. Values learnt offline from the data
instead (IQL) rank segments badly: see benchmarks/reference.py.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pbrl import checkpoint
from pbrl.engine import Engine
from pbrl.likelihoods import load_policy
from pbrl.nets import MLP, Normalize
from pbrl.optim import Adam
from pbrl.rollout import Players
from pbrl.table import Table
from pbrl.types import Metrics, Spec, UserError


class Value(nn.Module):
    """V(obs) by regression: its outputs are in units of the targets' standard deviation around their mean."""

    def __init__(self, spec: Spec, target: Tensor, *, hidden: list[int], lr: float, updates: int):
        super().__init__()
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.scale = Normalize((target.mean().item(),), (target.std().item() + 1e-6,))
        self.net = MLP(spec.obs_dim, 1, hidden)
        self.optim = Adam(self.net.parameters(), lr, cosine=updates)

    def update(self, batch: tuple[Tensor, Tensor]) -> Metrics:
        """obs [B, O], return [B]."""
        error = self.net(self.normalize(batch[0])).squeeze(-1).float() - self.scale(batch[1])
        loss = error.square().mean()
        self.optim.step(loss)
        return {"loss": loss.detach()}

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(self.normalize(obs)).squeeze(-1) * self.scale.std + self.scale.mean


def value(
    table: Table,
    env: dict[str, Any],
    settings: dict[str, Any],
    *,
    dataset: str,
    folder: Path,
    workers: int,
    discount: float,
) -> Tensor:
    """V [R] of the reference policy at all rows, made once and kept in `folder`. Raises UserError."""
    made_of = {"dataset": dataset, "env": env, "settings": settings, "discount": discount}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:10]
    path = Path(folder) / f"reference-{digest}.pt"
    kept = checkpoint.load(path, table.device)
    if kept is not None:
        return kept["value"]
    if table.state is None:
        raise UserError(
            "feedback=regret plays on from simulator states, and this data set holds none: choose feedback=perfect"
        )
    obs, returns = play_on(table, env, settings, workers=workers, discount=discount)
    model, error = fit(table.spec(), obs.to(table.device), returns.to(table.device), settings)
    result = table.map(lambda o, a: model(o))
    checkpoint.save(path, {"value": result, "explained": 1 - error})
    return result


def play_on(
    table: Table, env: dict[str, Any], settings: dict[str, Any], *, workers: int, discount: float
) -> tuple[Tensor, Tensor]:
    """Plays the reference policy on from random rows: visited observations [N, O] and their discounted returns [N]."""
    assert table.state is not None
    random = np.random.default_rng(0)
    rows = random.choice(table.rows.cpu().numpy(), min(settings["rollouts"], len(table)), replace=False)
    episodes = table.episode[torch.from_numpy(rows)].cpu().numpy()
    starts = [(int(table.seed[e]), table.state[row]) for e, row in zip(episodes, rows, strict=True)]
    shares = [starts[i : i + 8] for i in range(0, len(starts), 8)]
    players = Players(env, workers)
    played: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    try:
        with tqdm(total=len(starts), desc="reference value", unit="rollout") as bar:
            for i, result in players.map(_play_share, shares, settings["policy"], settings["steps"], discount):
                played[i] = result
                bar.update(len(shares[i]))
    finally:
        players.close()
    obs, returns = (np.concatenate([played[i][k] for i in sorted(played)]) for k in (0, 1))  # whoever was first
    return torch.from_numpy(obs), torch.from_numpy(returns)


def _play_share(
    envs: Sequence[Any], starts: Sequence[tuple[int, np.ndarray]], policy: str | None, steps: int, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    env = envs[0]
    if policy is None and not hasattr(env, "expert"):
        raise UserError(
            "feedback=regret needs a scripted expert or reference.policy=<run folder>; else choose feedback=perfect"
        )
    learnt = load_policy(policy) if policy else None
    all_obs, all_returns = [], []
    for seed, state in starts:
        obs, visited, rewards, terminated = env.restore(seed, state), [], [], False
        expert = env.expert() if learnt is None else None
        for _ in range(min(steps, env.horizon)):
            visited.append(obs)
            action = expert.act(env.full_obs) if expert else learnt.act(torch.from_numpy(obs[None]))[0].numpy()  # type: ignore[union-attr]
            obs, reward, terminated, _, _ = env.step(action)
            rewards.append(reward)
            if terminated:
                break
        value = 0.0 if terminated else rewards[-1] / (1 - discount)  # by now it stands still: more of the same
        for reward in reversed(rewards):
            value = reward + discount * value
            all_returns.append(value)
        all_obs += reversed(visited)
    return np.stack(all_obs).astype(np.float32), np.array(all_returns, np.float32)


def fit(spec: Spec, obs: Tensor, returns: Tensor, settings: dict[str, Any]) -> tuple[Value, float]:
    """A value network, and its mean squared error in units of the returns' variance."""
    torch.manual_seed(0)
    updates = settings["updates"]
    model = Value(spec, returns, hidden=settings["hidden"], lr=settings["lr"], updates=updates).to(obs.device)
    update = Engine(obs.device, compile=False, bf16=False).prepare(model.update)
    generator = torch.Generator(obs.device).manual_seed(0)
    loss = torch.ones(())
    for _ in tqdm(range(updates), desc="reference value", unit="update"):
        pick = torch.randint(len(obs), (settings["batch_size"],), generator=generator, device=obs.device)
        loss = loss.lerp(update((obs[pick], returns[pick]))["loss"].to(loss.device), 0.01)
    return model, loss.item()
