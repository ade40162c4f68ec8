"""A run: builds the parts that a config names, hands them to the loop, and leaves a folder that says what happened.

The folder holds `config.yaml`, `versions.json`, `metrics.jsonl`, `answers.sqlite`, `checkpoint.pt`, `policy.pt`,
`best.pt`, `result.json`, `curve.png` and `policy.mp4`; `bc/` holds the comparison. With `seeds=8` what each seed has
for itself lies in `seed0/` to `seed7/`.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pbrl import distributed, files
from pbrl.data import collect, frames
from pbrl.data.inspection import Report
from pbrl.data.inspection import report as report_data
from pbrl.data.rollout import RolloutWorkers, worker_count
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.address import remember_address, without_password
from pbrl.feedback.store.datasets import adopt, adopt_recordings
from pbrl.feedback.store.store import Store
from pbrl.models.policy import save_policy
from pbrl.models.sentences import load_sentences
from pbrl.processor import available_cores
from pbrl.rewards.pictures import Pictures, load_beside, load_pictures, show_pictures
from pbrl.run import outcome, report, summary
from pbrl.run.build import build, build_algorithm, build_reward
from pbrl.run.folder import hold_folder, make_folder, run_folder, seed_folders, settle_precision, write_provenance
from pbrl.run.validate import Plan, check_sizes, check_store, validate
from pbrl.settings import Part, RunSettings
from pbrl.training.engine import pick_device
from pbrl.training.evaluate import Evaluation, summarize
from pbrl.training.log import Log
from pbrl.training.loop import Training
from pbrl.training.precision import Precision, choose_precision
from pbrl.training.replica import Replica
from pbrl.types import Episode, FeedbackSource


class World(NamedTuple):
    """What a run learns from and where it is tried out. Rollout workers exist on rank 0 alone."""

    table: Table
    dataset: str  # hash of the content
    report: Report  # of what the data set holds
    data: Evaluation  # of the data set's own episodes
    workers: RolloutWorkers | None
    experts: RolloutWorkers | None  # without images, which a scripted expert does not need
    device: torch.device
    recordings: list[Episode]  # of the data set, those of a camera
    encoders: dict[str, Any]  # that are frozen, of the reward's pictures and of instructions: the hash of their weights


def train(config: dict[str, Any]) -> dict[str, Any]:
    """Runs a config to its end, or on from where it was; returns what `result.json` holds. Raises UserError.

    Of several processes (see pbrl/distributed.py) rank 0 alone has a store, an environment and the run folder.
    """
    settings = RunSettings.parse(config)
    plan = validate(settings)
    check_store(settings)
    device = distributed.begin(pick_device(settings.device))
    try:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            return _train(settings, plan, device, Path(scratch), stack)
    finally:
        distributed.end()


def _train(settings: RunSettings, plan: Plan, device: torch.device, scratch: Path, stack: ExitStack) -> dict[str, Any]:
    torch.set_num_threads(settings.threads or min(torch.get_num_threads(), available_cores()))
    world = make_world(settings, plan, device, stack)
    if settings.only == "data":
        print(summary.lines(world.report.lines()))
        return {}
    folder = run_folder(settings) if distributed.is_rank_0() else make_folder(scratch)
    distributed.on_rank_0(lambda: stack.enter_context(hold_folder(settings, folder)))
    precision = distributed.from_rank_0(lambda: settle_precision(folder, settings, device))
    write_provenance(folder, settings, world.dataset, precision, world.encoders)
    files.write_json(folder / "data.json", world.report.to_dict())
    table = world.table
    if distributed.is_rank_0():
        where = name_device(settings, device, precision)
        report.begin(
            without_password(settings.plain), folder, table, world.data, asks=plan.query is not None, device=where
        )
        print(
            summary.lines([("WARNING", text) for text in world.report.warnings]), end="\n" * bool(world.report.warnings)
        )

    table.relabel_true(settings.reward_scale)
    if plan.query is not None:
        table.segment_starts(settings.query.length)  # before the baseline trains for minutes
    clones = None
    if settings.compare and settings.only is None:
        clones = train_baseline(settings, world, precision, folder / "bc")
    replicas = make_replicas(settings, world, folder, settings.algo, settings.logger, stack)
    asking = make_asking(settings, plan, world, folder, stack)
    training = Training(
        folder=folder, replicas=replicas, asking=asking, query=plan.query, **shared_settings(settings, world, precision)
    )
    if settings.only == "answers":
        training.ask_first()
        return {}
    ended = outcome.end_of(folder) if distributed.is_rank_0() and not settings.grow else None
    if ended:
        print(f"this run ended on {ended}, and nothing is trained again; after a change of code use another run=…")
    summaries = training.run()
    if world.workers is None:
        return {}
    return finish(settings, world, folder, replicas, clones, summaries, training.counts)


def make_world(settings: RunSettings, plan: Plan, device: torch.device, stack: ExitStack) -> World:
    """Collects or reads the data, and starts the rollout workers. Raises UserError."""
    processes = worker_count(settings.workers)
    source = {"folder": settings.data_dir, "seed": settings.data_seed, "workers": processes}
    found, dataset = distributed.after_rank_0(lambda: collect.load_inspected(settings.env, settings.data, **source))
    episodes, inspected = found.episodes, report_data(found)
    images, pictures, other, sentences = {}, Pictures(), None, None
    if settings.only != "data":
        check_sizes(settings, episodes[0], plan)
        beside = {"folder": settings.data_dir, "workers": processes}
        images = distributed.after_rank_0(lambda: frames.load_images(settings.env, episodes, dataset, **beside))
        pictures = distributed.after_rank_0(
            lambda: load_pictures(settings.env, settings.reward, episodes, dataset, **beside)
        )
        other = distributed.after_rank_0(lambda: load_beside(settings.reward, **beside))
        told, encoder = [episode.instruction for episode in episodes], settings.policy.get("sentences")
        sentences = distributed.after_rank_0(lambda: load_sentences(encoder, told, folder=settings.data_dir))
    data = summarize(episodes)
    table = Table(episodes, device, images=images, pictures=pictures.values, beside=other, sentences=sentences)
    workers = RolloutWorkers(settings.env, processes) if distributed.is_rank_0() else None
    experts = workers
    if workers and settings.env.get("images"):
        experts = RolloutWorkers(frames.without_images(settings.env), processes)
    for own in filter(None, (workers, experts)):
        stack.callback(own.close)
    recordings = [episode for episode in episodes if episode.filmed]
    encoders = pictures.provenance() | (sentences.provenance() if sentences else {})
    return World(table, dataset, inspected, data, workers, experts, device, recordings, encoders)


def name_device(settings: RunSettings, device: torch.device, precision: Precision) -> str:
    """The device in words, and how updates run on it."""
    threads = f", threads={torch.get_num_threads()}" if device.type == "cpu" else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    words = str(precision)
    if settings.bf16 == "auto":
        here = choose_precision("auto", device)
        faster = "bfloat16" if here.bf16 else "float32"
        words += " (bf16=auto" + (f" where this run began; {faster} is faster here)" if here != precision else ")")
    return f"{name}{threads}, {words}, compile={settings.compile}"


def shared_settings(settings: RunSettings, world: World, precision: Precision) -> dict[str, Any]:
    """What trainings of the run have in common."""
    return {
        "schedule": settings.schedule,
        "workers": world.workers,
        "device": world.device,
        "compile": settings.compile,
        "precision": precision,
        "settings": settings.identity,
        "grow": settings.grow,
    }


def make_replicas(
    settings: RunSettings, world: World, folder: Path, algo: Part, logger: dict[str, Any], stack: ExitStack
) -> list[Replica]:
    """What each seed of a run starts with: one in the run's folder, several in folders of their own."""
    spec, replicas = world.table.spec(), []
    shown = {"env": settings.env, "reward": settings.reward, "folder": settings.data_dir}
    show = partial(show_pictures, **shown, workers=worker_count(settings.workers))
    is_baseline = algo is settings.baseline
    for seed, own in seed_folders(settings, folder):
        make_folder(own)
        torch.manual_seed(seed)
        reward = None if is_baseline else build_reward(settings, spec)
        learner = build_algorithm(algo, settings, seed, spec, world.device, reward)
        log = Log(own, **logger, config={**without_password(settings.plain), "seed": seed})
        stack.callback(log.close)
        table = world.table.view() if settings.seeds > 1 else world.table
        replicas.append(
            Replica(
                seed,
                own,
                table,
                learner,
                reward and reward.to(world.device),
                log,
                length=settings.query.learnt_length,
                held_out=settings.query.held_out if reward else 0.0,  # nothing else is tested with them
                show=show,
            )
        )
    return replicas


def train_baseline(settings: RunSettings, world: World, precision: Precision, folder: Path) -> list[dict[str, Any]]:
    """Trains `baseline` (behavior cloning) on the data with as many updates; returns each seed's summary."""
    with ExitStack() as stack:
        replicas = make_replicas(settings, world, folder, settings.baseline, {}, stack)
        return Training(
            folder=folder, replicas=replicas, name="bc", **shared_settings(settings, world, precision)
        ).run()


def make_asking(settings: RunSettings, plan: Plan, world: World, folder: Path, stack: ExitStack) -> Asking | None:
    """What asks the run's questions, on rank 0, if it asks any."""
    if plan.query is None or world.workers is None:
        return None
    source: FeedbackSource = build(settings.feedback)
    if settings.store:
        remember_address(settings.store)  # the run folder keeps no password
    store, table = Store(settings.store or f"sqlite:///{folder / 'answers.sqlite'}"), world.table
    adopt(store, world.dataset, table.ids, table.steps)
    adopt_recordings(store, world.recordings)
    experts = world.experts or world.workers
    shown = {"env": settings.env, "data": settings.data, "folder": settings.data_dir, "seed": settings.data_seed}
    context = Context(
        store,
        table,
        plan.query,
        data_dir=settings.data_dir,
        dataset=world.dataset,
        folder=folder,
        workers=world.workers,
        experts=experts,
        source={**shown, "workers": 1},
        instruction=plan.instruction,
    )
    source.start(context)
    stack.callback(source.stop)
    return Asking(table=table, query=plan.query, source=source, store=store)


def finish(
    settings: RunSettings,
    world: World,
    folder: Path,
    replicas: list[Replica],
    clones: list[dict[str, Any]] | None,
    summaries: list[dict[str, Any]],
    counts: dict[str, int],
) -> dict[str, Any]:
    """Saves the policies and writes the report; returns the result."""
    for replica in replicas:
        save_policy(replica.algo.policy, replica.folder / "policy.pt")
    result = report.write(replicas, folder, without_password(settings.plain), world.data, clones, summaries, counts)
    if settings.video and world.workers is not None:
        first = replicas[0]
        report.video(first.folder, settings.env, world.workers, first.algo.policy, settings.schedule.eval_seed)
    report.finish(folder)
    return result
