"""Plans, chunks and updates of diffusion a CPU-second, beside the same and the released shapes written the usual way.

    python -m benchmarks.diffusion_speed               # planning, acting, training, memory
    python -m benchmarks.diffusion_speed --parts training --turns 15

The usual way is written in `benchmarks/usual_diffusion.py`: layers of torch.nn, schedulers and averages of `diffusers`,
batches of a DataLoader. All take turns in one process on one thread; rates are medians of 1 / CPU-seconds. Ours draws
from a table, compiled and in the precision that a run chooses. Shapes: walker2d's 17 and 6 numbers and plans of 32
steps with five attributes, 64 candidates and 5 steps of sampling, guided (two evaluations each) and chosen by an
attribute model; chunks of 16 actions by 10 steps of DDIM. Nothing is trained: speed does not depend on it.
Adds lines to `benchmarks/results/diffusion_speed.jsonl`.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sim.configs
from benchmarks import usual_diffusion as usual
from benchmarks.image_reward import take_turns
from benchmarks.report import RESULTS
from benchmarks.speed import Bench, compose_settings, count_gflop, make_episodes, measure_products
from benchmarks.usual_diffusion import diffusers
from pbrl.data.table import Table
from pbrl.processor import processor_name
from pbrl.run.build import build_algorithm, build_reward
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.engine import Engine
from pbrl.training.precision import choose_precision
from pbrl.types import Observation, Phase

FILE = RESULTS / "diffusion_speed.jsonl"
CPU = torch.device("cpu")
OBS, ACTION, PLAN, CHUNK = 17, 6, 32, 16
ATTRIBUTES, BINS, CANDIDATES, PLAN_STEPS, CHUNK_STEPS = 5, 20, 64, 5, 10
NAMES = [f"attribute_{i}" for i in range(ATTRIBUTES)]
ALIGNDIFF = [
    "algo=aligndiff",
    "reward=attributes",
    "query.kind=attributes",
    f"query.attributes=[{','.join(NAMES)}]",
    f"query.length={PLAN}",
]
RELEASED_PLANNER = ["algo.width=384", "algo.layers=6", "algo.heads=12", "reward.width=128", "algo.batch_size=32"]
Runs = dict[str, Callable[[], Any]]


def our_planner(*flags: str) -> tuple[Any, RunSettings, Table]:
    """A planner that is told all of its attributes, its settings and a table whose windows have strengths."""
    settings = compose_settings(*ALIGNDIFF, *flags)
    table = Table(make_episodes(OBS, ACTION))
    strengths = torch.rand(table.row_count, ATTRIBUTES)
    table.labels["attributes"] = strengths
    reward = build_reward(settings, table.spec())
    learner = build_algorithm(settings.algo, settings, 0, table.spec(), CPU, reward)
    learner.policy.set_targets(dict.fromkeys(NAMES, 0.5))
    return learner, settings, table


def our_decision(*flags: str) -> Callable[[], Any]:
    """A plan as it is made in an episode."""
    policy = our_planner(*flags)[0].policy.eval()
    policy.reset()
    obs = Observation(torch.zeros(1, OBS))
    return lambda: policy.plan(obs)


def usual_decision(width: int, layers: int, heads: int, reader: int) -> Callable[[], Any]:
    """The same: candidates, and the one whose strengths an attribute model reads as nearest."""
    sizes = (BINS,) * ATTRIBUTES
    network = usual.DiT(OBS + ACTION, sizes, horizon=PLAN, width=width, layers=layers, heads=heads).eval()
    model = usual.Reader(OBS, ATTRIBUTES, members=3, width=reader, layers=2, heads=4).eval()
    scheduler, told = diffusers.EDMDPMSolverMultistepScheduler(), tuple(torch.ones(1, BINS) for _ in sizes)
    first, target = torch.zeros(OBS), torch.full((ATTRIBUTES,), 0.5)

    @torch.no_grad()
    def decide() -> Tensor:
        plans = usual.draw_plans(
            network, told, first, scheduler, steps=PLAN_STEPS, candidates=CANDIDATES, size=OBS + ACTION, guidance=2.0
        )
        return plans[(model(plans[..., :OBS]) - target).square().sum(1).argmin()]

    return decide


def measure_planning(turns: int) -> dict[str, Any]:
    """Decisions of a planner: ours and the usual way, at our small sizes and at those that AlignDiff released."""
    runs = {
        "ours, small": our_decision(),
        "usual, small": usual_decision(64, 2, 4, 32),
        "ours, released": our_decision(*RELEASED_PLANNER),
        "usual, released": usual_decision(384, 6, 12, 128),
    }
    return measure(runs, turns)


def our_policy(*flags: str) -> tuple[Any, RunSettings, Table]:
    settings = compose_settings("algo=bc", "policy=diffusion", *flags)
    table = Table(make_episodes(OBS, ACTION))
    return build_algorithm(settings.algo, settings, 0, table.spec(), CPU), settings, table


def our_chunk() -> Callable[[], Any]:
    policy = our_policy()[0].policy.eval()
    policy.reset()
    obs = Observation(torch.zeros(1, OBS))
    return lambda: policy.plan(obs)


def usual_chunk(network: nn.Module) -> Callable[[], Any]:
    scheduler = diffusers.DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    network, observed = network.eval(), torch.zeros(1, OBS)
    return lambda: usual.draw_chunk(network, observed, scheduler, CHUNK_STEPS, (1, CHUNK, ACTION))


def measure_acting(turns: int) -> dict[str, Any]:
    """Chunks of a diffusion policy for one observation: ours, the same the usual way, and the released shape."""
    runs = {
        "ours, small": our_chunk(),
        "usual, small": usual_chunk(usual.UNet(ACTION, (OBS,), width=64, layers=2)),
        "usual, released": usual_chunk(usual.ReleasedUNet(ACTION, OBS)),
    }
    return measure(runs, turns)


def our_update(learner: Any, phase: Phase, table: Table) -> Callable[[], Any]:
    """An update as a run makes it: drawn from the table, compiled, in the precision that it chooses."""
    data = Data(table, torch.Generator().manual_seed(0), length=PLAN)
    bf16 = choose_precision("auto", CPU).suits(learner, phase.draw(data))
    engine = Engine(CPU, compile=True, bf16=bf16)
    updates = engine.repeat(lambda: phase.draw(data), engine.prepare(phase), [data.generator])
    return lambda: updates.run(1)


def batches(*columns: Tensor, size: int) -> Iterator[list[Tensor]]:
    """Batches of a DataLoader without end."""
    loader = DataLoader(TensorDataset(*columns), batch_size=size, shuffle=True, drop_last=True)
    while True:
        yield from loader


def usual_trainer(network: nn.Module, loss_of: Callable[..., Tensor], drawn: Iterator, clip: float | None) -> Callable:
    """AdamW on a cosine with warm-up, and an average of the parameters, as `diffusers`' own examples train."""
    optim = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-4)
    schedule = diffusers.optimization.get_cosine_schedule_with_warmup(optim, 500, 100_000)
    average = diffusers.training_utils.EMAModel(network.parameters(), decay=0.995, use_ema_warmup=True, power=0.75)

    def update() -> None:
        loss = loss_of(network, *next(drawn))
        optim.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optim.step()
        schedule.step()
        average.step(network.parameters())

    return update


def windows(table: Table, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """All windows of a table at once, as data sets of the usual way hold them: observations, actions, first rows."""
    starts = table.segment_starts(length)
    found = table.segments(starts, length)
    return found.obs.state, found.action, starts


def usual_policy_update(table: Table, size: int) -> Callable[[], Any]:
    noise = diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    obs, action, _ = windows(table, CHUNK)

    def loss_of(network: nn.Module, observed: Tensor, chunk: Tensor) -> Tensor:
        eps, steps = torch.randn_like(chunk), torch.randint(0, 100, chunk.shape[:1])
        noisy = noise.add_noise(chunk, eps, steps)
        return nn.functional.mse_loss(network(noisy, steps, (observed,)), eps)

    drawn = batches(obs[:, 0], action, size=size)
    return usual_trainer(usual.UNet(ACTION, (OBS,), width=64, layers=2), loss_of, drawn, None)


def usual_planner_update(table: Table, size: int) -> Callable[[], Any]:
    edm = diffusers.EDMDPMSolverMultistepScheduler()
    obs, action, starts = windows(table, PLAN)
    weight = torch.ones(PLAN, OBS + ACTION)
    weight[0, :OBS], weight[0, OBS:] = 0, 10

    def loss_of(network: nn.Module, plan: Tensor, strength: Tensor) -> Tensor:
        sigma = (-1.2 + 1.2 * torch.randn(len(plan), 1, 1)).exp()
        noisy = plan + sigma * torch.randn_like(plan)
        noisy[:, 0, :OBS] = plan[:, 0, :OBS]
        told = tuple(nn.functional.one_hot((value * BINS).long(), BINS).float() for value in strength.unbind(1))
        given = torch.bernoulli(torch.full(strength.shape, 0.8))
        out = network(edm.precondition_inputs(noisy, sigma), sigma.log().flatten(), told, given)
        clean = edm.precondition_outputs(noisy, out, sigma)
        loss = (clean - plan).square() * (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        return (loss * weight).mean()

    drawn = batches(torch.cat([obs, action], -1), table.labels["attributes"][starts].clamp(max=0.999), size=size)
    sizes = (BINS,) * ATTRIBUTES
    network = usual.DiT(OBS + ACTION, sizes, horizon=PLAN, width=64, layers=2, heads=4)
    return usual_trainer(network, loss_of, drawn, 10.0)


def measure_training(turns: int) -> list[dict[str, Any]]:
    """Updates of the small networks, ours and the usual way, at the same batch.

    `highest_ratio` is what an update would reach that took no longer than its matrix products do, at the rate of large
    ones.
    """
    found = []
    for of, make, usual_update in (
        ("policy", our_policy, usual_policy_update),
        ("planner", our_planner, usual_planner_update),
    ):
        learner, settings, table = make()
        phase = learner.phases(settings.schedule.steps)[-1]
        gflop = count_gflop(Bench(phase, Data(table, torch.Generator().manual_seed(0), length=PLAN)))
        runs = {"ours": our_update(learner, phase, table), "usual": usual_update(table, settings.algo["batch_size"])}
        line = measure(runs, turns)
        floor = measure_products(torch.float32, CPU) / (gflop or float("nan"))
        found.append({"of": of, **line, "gflop": gflop, "highest_ratio": floor / line["per_cpu_second"]["usual"]})
    return found


def measure(runs: Runs, turns: int) -> dict[str, Any]:
    """Rates of each by CPU-seconds, and what the first has of each of the others, with the range over turns."""
    counts = {name: warm_up(run) for name, run in runs.items()}
    several = {name: lambda run=run, n=counts[name]: [run() for _ in range(n)] for name, run in runs.items()}
    seconds = {name: np.array(found) / counts[name] for name, found in take_turns(several, turns).items()}
    first, *others = runs
    each = {other: seconds[other] / seconds[first] for other in others}
    return {
        "per_cpu_second": {name: float(1 / np.median(found)) for name, found in seconds.items()},
        "first": first,
        "times_of": {name: [float(np.median(x)), float(x.min()), float(x.max())] for name, x in each.items()},
    }


def warm_up(run: Callable[[], Any]) -> int:
    """Runs until all is compiled; returns how many fill half a CPU-second."""
    for _ in range(2):
        began = time.process_time()
        run()
    return max(1, round(0.5 / (time.process_time() - began)))


def measure_memory() -> dict[str, Any]:
    """Bytes that a planner's data take, windows with their strengths included, by those of the arrays they hold."""
    _, _, table = our_planner()
    data = Data(table, torch.Generator(), length=PLAN)
    data.attribute_windows(64, PLAN)
    arrays = table.obs, table.action, table.reward, table.labels["attributes"]
    held = bytes_of(vars(table)) + bytes_of({k: v for k, v in vars(data).items() if k != "table"})
    wanted = sum(array.nbytes for array in arrays)
    return {"held": held, "arrays": wanted, "ratio": held / wanted}


def bytes_of(parts: Any) -> int:
    """Bytes of the storages that tensors and arrays in nested containers have, each counted once."""
    found: dict[int, int] = {}

    def look(part: Any) -> None:
        if isinstance(part, Tensor):
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        elif isinstance(part, np.ndarray):
            base = part if part.base is None else part.base
            found[id(base)] = getattr(base, "nbytes", part.nbytes)
        elif isinstance(part, dict):
            for value in part.values():
                look(value)
        elif isinstance(part, (list, tuple)):
            for value in part:
                look(value)

    look(parts)
    return sum(found.values())


PARTS: dict[str, Callable[[int], dict[str, Any] | list[dict[str, Any]]]] = {
    "planning": measure_planning,
    "acting": measure_acting,
    "training": measure_training,
    "memory": lambda turns: measure_memory(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--turns", type=int, default=9, help="of each, besides one that warms up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sim.configs.register()
    known = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    lines = [line for line in known if line["part"] not in args.parts]
    for part in args.parts:
        found = PARTS[part](args.turns)
        for line in found if isinstance(found, list) else [found]:
            lines.append({
                "part": part, **line, "processor": processor_name(), "threads": 1, "turns": args.turns,
                "torch": torch.__version__, "load": [round(x, 1) for x in os.getloadavg()],
            })  # fmt: skip
            print(json.dumps(lines[-1]), flush=True)
    FILE.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
