"""Asks, and serves the labelling page until it is stopped."""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pbrl.data import collect
from pbrl.data.rollout import worker_count
from pbrl.data.table import Table
from pbrl.data.video import read_video_info
from pbrl.feedback.page.clips import Clips, Look, Renderers
from pbrl.feedback.store.datasets import adopt
from pbrl.feedback.store.progress import count_open
from pbrl.feedback.store.store import Store
from pbrl.label.network import addresses, free_port
from pbrl.label.questions import ask
from pbrl.settings import check_label
from pbrl.types import Episode, UserError

if TYPE_CHECKING:
    from pbrl.feedback.page.project import Project


def serve(config: dict[str, Any]) -> None:
    """Asks, then serves the page until it is stopped. Raises UserError."""
    try:
        import uvicorn

        from pbrl.feedback.page.server import make_app
    except ImportError as error:
        raise UserError(f"the page needs a package more ({error.name}): `pip install pbrl[label]`") from error
    check_label(config)
    if config["run"]:
        config = settings_of_run(config)
    if config["attached"]:
        threading.Thread(target=stop_with_parent, daemon=True).start()
    project = open_project(config)
    port = free_port(config["host"], config["port"])
    hosts = ["localhost", "127.0.0.1", "[::1]", *addresses(config["host"]), *config["names"]]
    print_links(config, project.raters, hosts, port)
    uvicorn.run(make_app(project, hosts), host=config["host"], port=port, log_level="warning")
    if not config["run"]:
        print_summary(config, project.store.counts(dataset=project.dataset))


def open_project(config: Mapping[str, Any]) -> "Project":
    """The questions that the page shows, asked if they are not there yet."""
    from pbrl.feedback.page.project import Project, first_rows
    from pbrl.feedback.page.server import new_token

    source = {
        "env": config["env"],
        "data": config["data"],
        "folder": Path(config["data_dir"]),
        "seed": config["data_seed"],
        "workers": worker_count(config["workers"]),
    }
    renderers = Renderers(source)
    episodes, content_hash = collect.load_dataset(**source)
    renderers.read()
    look = Look(config["size"], config["fps"] or frame_rate(episodes), config["camera"])
    store, table = Store(config["store"]), Table(episodes)
    adopt(store, content_hash, table.ids, table.steps)
    dataset = store.register(table.ids)
    if not (config["only_serve"] or config["run"]):
        asked = ask(config, store, table, dataset)
        print(f"asked   {asked} questions; {count_open(store, dataset)} want an answer")
    clips = Clips(renderers, Path(config["cache"]), look=look, limit_mb=config["cache_mb"])
    raters = {new_token(): name for name in config["share"] or []}
    if raters:
        raters[new_token()] = config["rater"]
    return Project(
        store,
        clips,
        dataset,
        first_rows(table),
        config["instructions"],
        raters,
        config["rater"],
        config["checks"]["pass_mark"],
    )


def print_links(config: Mapping[str, Any], raters: Mapping[str, str], hosts: Sequence[str], port: int) -> None:
    """Where the page is, for each rater who was given a link."""
    at = f"http://{hosts[3] if len(hosts) > 3 and raters else 'localhost'}:{port}/"
    for token, name in raters.items():
        print(f"{name:8}{at}?token={token}")
    where = "by these links" if raters else at
    print(f"answers {where} · kept in {config['store']} · stop with Ctrl-C", flush=True)


def print_summary(config: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    """What was answered, and how to learn from it."""
    query = config["query"]
    print(f"\nanswers {', '.join(f'{n} {what}' for what, n in counts.items())}; to learn from them:")
    print(
        f"  python train.py … feedback=stored store={config['store']} query.kind={query['kind']} "
        f"query.length={query['length']}"
    )


def frame_rate(episodes: Sequence[Episode]) -> int:
    """Frames a second, as they were recorded, and 20 where they are rendered. Raises UserError if neither can be."""
    if any(e.state is None and e.video is None for e in episodes):
        raise UserError(
            "clips are rendered from simulator states or cut from videos, and this data set has neither: choose "
            "another data=…, or data=recordings data.path=<a folder of videos>"
        )
    rates = [read_video_info(e.video).fps for e in episodes if e.video is not None]
    return round(float(np.median(rates))) if rates else 20


def settings_of_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with what a run asks about, and where it keeps answers. Raises UserError."""
    folder = Path(config["run"])
    try:
        run = yaml.safe_load((folder / "config.yaml").read_text())
    except OSError as error:
        raise UserError(f"there is no run in {folder} ({error}): start it first, or leave run=… out") from error
    store = run["store"] or f"sqlite:///{folder / 'answers.sqlite'}"
    return {**config, "store": store, **{key: run[key] for key in ("env", "data", "data_dir", "data_seed")}}


def stop_with_parent() -> None:
    """Stops when the process that started this one has ended, and with it the other end of its input."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)
