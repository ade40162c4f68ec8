"""A run: builds the parts that a config names, hands them to the loop, and leaves a folder that says what happened.

The folder holds `config.yaml`, `versions.json`, `metrics.jsonl`, `answers.sqlite`, `checkpoint.pt`, `policy.pt`,
`best.pt`, `result.json`, `curve.png` and `policy.mp4`; `bc/` holds the comparison. With `seeds=8` what each seed has
for itself lies in `seed0/` to `seed7/`.
"""

import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from pbrl import distributed
from pbrl.data import collect
from pbrl.data import frames as filmed
from pbrl.data.episodes import versions
from pbrl.data.rollout import Players, auto_workers
from pbrl.data.table import Table
from pbrl.feedback.sources.reference import Reference
from pbrl.feedback.store.store import Store
from pbrl.models.gaussian import save_policy
from pbrl.run import report
from pbrl.run.build import Config, build, digest, learner, reward_model
from pbrl.run.validate import FREE, check, check_fit
from pbrl.settings import Query, Schedule
from pbrl.training import evaluate
from pbrl.training.engine import pick_device
from pbrl.training.log import Log
from pbrl.training.loop import Training
from pbrl.training.replica import Seed
from pbrl.types import UserError


def train(config: Config) -> dict[str, Any]:
    """Runs a config to its end, or on from where it was; returns what `result.json` holds. Raises UserError.

    Of several processes (see pbrl/distributed.py) the first alone has a store, an environment and the run folder.
    """
    ask, schedule, sizes = check(config)
    device = distributed.begin(pick_device(config["device"]))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _train(config, ask, schedule, sizes, device, Path(scratch))
    finally:
        distributed.end()


def _train(
    config: Config, ask: Query | None, schedule: Schedule, sizes: tuple[int, int], device: torch.device, scratch: Path
) -> dict[str, Any]:
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    workers = auto_workers(config["workers"])
    source = {"folder": Path(config["data_dir"]), "seed": config["data_seed"], "workers": workers}
    episodes, dataset = distributed.after_first(lambda: collect.dataset(config["env"], config["data"], **source))
    data = evaluate.summarize(episodes)
    if config["only"] == "data":
        print(f"data    {len(episodes)} episodes, {data}")
        return {}
    check_fit(config, episodes[0], sizes)
    beside = {"folder": Path(config["data_dir"]), "workers": workers}
    film = partial(filmed.frames, config["env"], episodes, dataset, **beside)
    table = Table(episodes, device, distributed.after_first(film))
    del episodes, film
    folder = run_folder(config) if distributed.first() else scratch
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder} ({error}): choose another with run=…") from error
    shared: Config = {
        "dataset": dataset,
        "device": device,
        "compile": config["compile"],
        "bf16": config["bf16"],
        "settings": {k: v for k, v in config.items() if k not in FREE},
    }
    provenance(folder, config, dataset)
    if distributed.first():
        found = {"episodes": len(table.steps), "steps": len(table), "data": data}
        report.begin(config, folder, **found, asks=ask is not None, device=device)

    players = Players(config["env"], workers) if distributed.first() else None
    experts = None  # who play without images where policies have them: a scripted expert does not look
    if players is not None and config["env"].get("images"):
        experts = Players(filmed.blind(config["env"]), workers)
    page, seeds = None, []
    try:
        table.relabel_true(config["reward_scale"])
        clones = None
        if config["compare"] and config["only"] is None:
            clones = compare(config, table, folder / "bc", schedule, players, shared)
        seeds = make_seeds(config, table, folder, device)
        teacher, store = None, None
        if ask is not None:
            teacher = build(config["feedback"])
            if players is not None:
                store = Store(config["store"] or f"sqlite:///{folder / 'answers.sqlite'}")
                playing = players if config["reference"]["policy"] else experts or players
                introduce(teacher, config, table, dataset, playing)
        training = Training(
            folder=folder, seeds=seeds, teacher=teacher, store=store, ask=ask, schedule=schedule, players=players,
            **shared,
        )  # fmt: skip
        if hasattr(teacher, "open_page") and distributed.first():
            page = teacher.open_page(folder)  # type: ignore[union-attr]
        if config["only"] == "answers":
            training.ask_first()
            return {}
        summaries = training.run()
        if players is None:
            return {}
        for seed in seeds:
            save_policy(seed.algo.policy, seed.folder / "policy.pt")
        result = report.write(seeds, folder, config, data, clones, summaries, training.counts)
        if config["video"]:
            report.video(seeds[0].folder, config["env"], players, seeds[0].algo.policy, schedule.eval_seed)
        report.finish(folder)
        return result
    finally:
        if page is not None:
            page.terminate()
        for playing in filter(None, (players, experts)):
            playing.close()
        for seed in seeds:
            seed.log.close()


def make_seeds(config: Config, table: Table, folder: Path, device: torch.device) -> list[Seed]:
    """What each seed of a run starts with: one in the run's folder, several in folders of their own."""
    spec, several, seeds = table.spec(), config["seeds"] > 1, []
    for place, own in places(config, folder):
        place.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(own["seed"])
        reward = reward_model(own, spec)
        algo = learner(config["algo"], own, spec, device)
        log = Log(place, **config["logger"], config=own)
        seen = table.view() if several else table
        seeds.append(Seed(own["seed"], place, seen, algo, reward and reward.to(device), log))
    return seeds


def places(config: Config, folder: Path) -> list[tuple[Path, Config]]:
    """The folder and the config of each seed."""
    numbers = range(config["seed"], config["seed"] + config["seeds"])
    if len(numbers) == 1:
        return [(folder, config)]
    return [(folder / f"seed{number}", {**config, "seed": number}) for number in numbers]


def introduce(teacher: Any, config: Config, table: Table, dataset: str, players: Players) -> None:
    """Gives a scripted teacher its name in the store, where other settings make another teacher, and what it needs."""
    if hasattr(teacher, "answer"):
        teacher.author = f"scripted-{digest(config['feedback'], config['reference'])}"
    if teacher.needs_value:
        teacher.value = Reference(
            table, players, dataset=dataset, folder=Path(config["data_dir"]),
            discount=config["feedback"]["discount"], **config["reference"],
        ).values  # fmt: skip


def compare(
    config: Config, table: Table, folder: Path, schedule: Schedule, players: Players | None, shared: Config
) -> list[dict[str, Any]]:
    """Clones the data with the same policy class and number of updates; returns each seed's summary of that run."""
    cloning = {**config, "algo": config["baseline"], "reward": {"_target_": None}, "logger": {}}
    seeds = make_seeds(cloning, table, folder, shared["device"])
    try:
        return Training(folder=folder, seeds=seeds, schedule=schedule, players=players, name="bc", **shared).run()
    finally:
        for seed in seeds:
            seed.log.close()


def run_folder(config: Config) -> Path:
    """Where the run lives: named by the user, or after its settings."""
    if config["run"]:
        return Path(config["run"])
    target = config["env"]["_target_"].split(".")[1]
    algo = config["algo"]["_target_"].split(".")[-2]
    model = config["reward"]["_target_"]
    seeds = f"seed{config['seed']}" + (f"to{config['seed'] + config['seeds'] - 1}" if config["seeds"] > 1 else "")
    name = "-".join(filter(None, [algo, model and model.split(".")[-2], seeds, digest(config)]))
    return Path("runs") / f"{target}-{config['env'].get('task', '')}" / name


def provenance(folder: Path, config: Config, dataset: str) -> None:
    """Writes what the run is made of, once: going on with it changes nothing of that, and is noted beside it."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except OSError:
        git = ""
    made_with = {"git": git, "data": dataset, **versions()}
    first = folder / "versions.json"
    if not first.exists() or not (folder / "checkpoint.pt").exists():
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        for place, own in places(config, folder) if config["seeds"] > 1 else []:
            place.mkdir(exist_ok=True)
            alone = {**own, "seeds": 1, "run": str(place)}
            (place / "config.yaml").write_text(yaml.safe_dump(alone, sort_keys=False))
        first.write_text(json.dumps(made_with, indent=2))
    elif (known := json.loads(first.read_text())) | made_with != known:
        known["continued_with"] = [*known.get("continued_with", []), made_with]
        first.write_text(json.dumps(known, indent=2))
