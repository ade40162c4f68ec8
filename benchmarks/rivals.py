"""How much faster an update is than the way it is usually written, both in one process, in turns.

    python -m benchmarks.rivals                  # all of RIVALS, on one thread
    python -m benchmarks.rivals iql --threads 2

The other side is plain PyTorch, run eagerly: one module, one optimiser and one loss after the other, a loop over the
members of an ensemble or over the pairs of a batch, numbers read with `.item()` for the log. For IQL also JAX, with
many updates in one `lax.scan` (`pip install -e ".[bench]"`). Five turns each; the ratio is of medians, per second of
this process's own CPU time. Writes `benchmarks/results/rivals.jsonl`; absolute figures are of the machine at hand and
stand there to be divided. Beside them: what matrix products alone reach.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sim.configs
from benchmarks import speed
from benchmarks.report import RESULTS
from pbrl.data.table import Table
from pbrl.files import to_json
from pbrl.processes import end_with_parent
from pbrl.processor import processor_name
from pbrl.training.engine import Engine, learner_of
from pbrl.training.precision import choose_precision
from pbrl.types import Comparisons, Transitions

CPU = torch.device("cpu")
SCANNED = 200  # updates in one call of JAX


def mlp(*sizes: int) -> nn.Sequential:
    layers = [part for i, o in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def iql(draw: Callable[[], Transitions], table: Table) -> Callable[[], None]:
    """IQL with two critics, a value network and a policy of 2 × 256, each with its Adam."""
    obs, action = table.obs.shape[1], table.action.shape[1]
    critics = [mlp(obs + action, 256, 256, 1) for _ in range(2)]
    targets = [mlp(obs + action, 256, 256, 1) for _ in range(2)]
    value, actor = mlp(obs, 256, 256, 1), mlp(obs, 256, 256, action)
    log_std = nn.Parameter(torch.zeros(action))
    for target, critic in zip(targets, critics, strict=True):
        target.load_state_dict(critic.state_dict())
    critic_optim = torch.optim.Adam([p for critic in critics for p in critic.parameters()], lr=3e-4)
    value_optim = torch.optim.Adam(value.parameters(), lr=3e-4)
    actor_optim = torch.optim.Adam([*actor.parameters(), log_std], lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(actor_optim, 1_000_000)
    logged = {}

    def update() -> None:
        batch = draw()
        obs = batch.obs.state
        pair = torch.cat([obs, batch.action], 1)
        with torch.no_grad():
            q_min = torch.min(targets[0](pair), targets[1](pair)).squeeze(-1)
            next_v = value(batch.next_obs.state).squeeze(-1)
        advantage = q_min - value(obs).squeeze(-1)
        value_loss = (torch.abs(0.7 - (advantage < 0).float()) * advantage**2).mean()
        value_optim.zero_grad(set_to_none=True)
        value_loss.backward()
        value_optim.step()
        target_value = batch.reward + 0.99 * (1 - batch.done) * next_v
        critic_loss = sum(functional.mse_loss(critic(pair).squeeze(-1), target_value) for critic in critics) / 2
        critic_optim.zero_grad(set_to_none=True)
        critic_loss.backward()  # type: ignore[union-attr]
        critic_optim.step()
        with torch.no_grad():
            for target, critic in zip(targets, critics, strict=True):
                for t, s in zip(target.parameters(), critic.parameters(), strict=True):
                    t.data.copy_(0.995 * t.data + 0.005 * s.data)
        weight = (3.0 * advantage.detach()).exp().clamp(max=100.0)
        normal = torch.distributions.Normal(torch.tanh(actor(obs)), log_std.exp())
        actor_loss = (weight * -normal.log_prob(batch.action).sum(-1)).mean()
        actor_optim.zero_grad(set_to_none=True)
        actor_loss.backward()
        actor_optim.step()
        schedule.step()
        logged.update(value=value_loss.item(), critic=critic_loss.item(), actor=actor_loss.item())  # type: ignore[union-attr]

    return update


def ensemble(draw: Callable[[], Comparisons], table: Table) -> Callable[[], None]:
    """Seven reward networks of 3 × 256, one after the other."""
    sizes = table.obs.shape[1] + table.action.shape[1], 256, 256, 256, 1
    members = [mlp(*sizes) for _ in range(7)]
    optims = [torch.optim.Adam(member.parameters(), lr=3e-4) for member in members]
    logged = {}

    def update() -> None:
        batch = draw()
        steps = torch.cat([batch.segments.obs.state, batch.segments.action], -1)
        losses = []
        for member, optim in zip(members, optims, strict=True):
            scores = torch.tanh(member(steps)).squeeze(-1).sum(-1)
            loss = functional.cross_entropy(scores, batch.label.long())
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
            losses.append(loss.item())
        logged.update(loss=sum(losses) / len(losses))

    return update


def pairs(draw: Callable[[], Comparisons], table: Table) -> Callable[[], None]:
    """A reward network of 2 × 32, on one pair after the other."""
    net = mlp(table.obs.shape[1] + table.action.shape[1], 32, 32, 1)
    optim = torch.optim.Adam(net.parameters(), lr=1e-3)
    logged = {}

    def update() -> None:
        batch = draw()
        losses: list[Tensor] = []
        segments = batch.segments
        for obs, action, label in zip(segments.obs.state, segments.action, batch.label, strict=True):
            returns = [net(torch.cat([obs[k], action[k]], -1)).sum() for k in range(2)]
            probability = torch.sigmoid(returns[1] - returns[0])
            losses.append(functional.binary_cross_entropy(probability, label))
        loss = torch.stack(losses).mean()
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        logged.update(loss=loss.item())

    return update


def jax_iql(draw: Callable[[], Transitions], table: Table) -> Callable[[], None]:
    """IQL in JAX."""
    from benchmarks import scanned

    return scanned.iql(table, SCANNED)


RIVALS: dict[str, tuple[str, Callable[[Any, Table], Callable[[], None]] | None, float]] = {
    # our shape in benchmarks/speed.py, the rival (None: our update, eager in float32), and the ratio to reach
    "iql": ("iql", iql, 4.0),
    "iql, JAX": ("iql", jax_iql, 1.5),
    "ensemble of 7, 64 pairs": ("ensemble", ensemble, 2.3),
    "ensemble of 7, 128 pairs": ("ensemble_128", ensemble, 2.3),
    "32 pairs, 2 × 32": ("pairs", pairs, 10.0),
    "cpl, 96 pairs, 2 × 512": ("cpl_paper", None, 1.7),
}


def measure(name: str, threads: int) -> dict[str, Any]:
    """A line of the results."""
    torch.set_num_threads(threads)
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    sim.configs.register()
    shape, rival, aim = RIVALS[name]
    bench = speed.make_bench(shape, CPU)
    bf16 = choose_precision("auto", CPU).suits(learner_of(bench.phase), bench.draw())
    fast = Engine(CPU, compile=True, bf16=bf16).prepare(bench.phase)
    other = rival(bench.draw, bench.data.table) if rival is not None else lambda: bench.phase.update(bench.draw())
    each = {"ours": 1, "rival": SCANNED if rival is jax_iql else 1}  # updates in a call
    sides = {"ours": lambda: fast(bench.draw()), "rival": other}
    counts = {side: speed.warm_up(run) for side, run in sides.items()}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(5):
        for side, run in sides.items():
            began = time.process_time()
            for _ in range(counts[side]):
                run()
            rates[side].append(counts[side] * each[side] / (time.process_time() - began))
    middle = {side: sorted(found)[2] for side, found in rates.items()}
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["rival"], strict=True))
    return {
        "name": name, "threads": threads, "ratio": middle["ours"] / middle["rival"], "least": ratios[0],
        "most": ratios[-1], "aim": aim, **{f"{side}_per_cpu_second": rate for side, rate in middle.items()},
        "product_gflops": {
            "float32": speed.measure_products(torch.float32, CPU),
            "bfloat16": speed.measure_products(torch.bfloat16, CPU),
        },
        "torch": torch.__version__, "processor": processor_name(), "bf16": bf16,
        "load": [round(x, 1) for x in os.getloadavg()],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *RIVALS])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    file = RESULTS / "rivals.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for name in args.names or RIVALS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent, (True,)) as pool:
            line = pool.submit(measure, name, args.threads).result()
        known = [k for k in known if (k["name"], k["threads"]) != (name, args.threads)] + [line]
        print(f"{name:26s} {line['ratio']:5.1f} × ({line['least']:.1f} to {line['most']:.1f}, aim {line['aim']})")
        file.write_text("".join(to_json(k) + "\n" for k in known))


if __name__ == "__main__":
    main()
