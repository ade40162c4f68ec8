"""Asks, and serves the labelling page until it is stopped."""

import math
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pbrl.data import collect
from pbrl.data.rendering import Renderers
from pbrl.data.rollout import worker_count
from pbrl.data.table import Table
from pbrl.data.video import read_video_info
from pbrl.feedback.page.clips import Clips, Look
from pbrl.feedback.store.address import hide_passwords, whole_address
from pbrl.feedback.store.datasets import adopt, adopt_recordings
from pbrl.feedback.store.progress import count_open
from pbrl.feedback.store.store import Store
from pbrl.label.command import CommandLine, training_command
from pbrl.label.questions import ask, has_clear_pairs
from pbrl.settings import check_label
from pbrl.types import Episode, UserError

if TYPE_CHECKING:
    from pbrl.feedback.page.project import Project


def serve(config: dict[str, Any], given: CommandLine) -> None:
    """Asks, serves the page until it is stopped, then says how to learn from the answers. Raises UserError."""
    try:
        from pbrl.feedback.page.server import make_app
        from pbrl.label import links, network
    except ImportError as error:
        raise UserError(f"the page needs a package more ({error.name}): `pip install pbrl[label]`") from error
    check_label(config)
    check(config)
    if config["run"]:
        config = settings_of_run(config)
    ended = links.check_names(config["revoke"], "revoke")
    if ended:
        return links.end_links(Store(config["store"]), ended)
    if config["attached"]:
        threading.Thread(target=stop_with_parent, daemon=True).start()
    project = open_project(config)
    at = network.listen(config["host"], config["port"])
    hosts = ["localhost", "127.0.0.1", "[::1]", *network.addresses(config["host"]), *config["names"]]
    tokens = {} if project.access.is_open else links.make_links(project.store, names_of(config))
    say = partial(print_links, project, tokens, hosts, at.getsockname()[1])
    network.run(make_app(project, hosts), at, say)
    if not config["run"]:
        print_summary(config, given, project.store, project.dataset)


def check(config: Mapping[str, Any]) -> None:
    """Raises UserError for settings that mean nothing."""
    names_of(config)
    checks = config["checks"]
    for name, most in (("repeats", 1), ("gold", math.inf), ("pass_mark", 1)):
        if not 0 <= checks[name] <= most:
            raise UserError(f"checks.{name}={checks[name]}: a share, from 0" + (" to 1" if most == 1 else ""))
    if not isinstance(checks["practice"], int) or checks["practice"] < 0:
        raise UserError(f"checks.practice={checks['practice']}: a number of questions, from 0")
    if not isinstance(config["size"], int) or config["size"] < 16 or config["size"] % 2:
        raise UserError(f"size={config['size']}: clips are an even number of pixels high, from 16 on")
    if config["fps"] is not None and not 1 <= config["fps"] <= 240:
        raise UserError(f"fps={config['fps']}: frames a second, from 1 to 240, or null for those of the recording")
    if config["answers_per_s"] is not None and not config["answers_per_s"] > 0:
        raise UserError(f"answers_per_s={config['answers_per_s']}: a number above 0, or null for no limit")


def names_of(config: Mapping[str, Any]) -> list[str]:
    """The raters who are given a link: those of `share`, and whoever runs the project."""
    from pbrl.label.links import check_names

    share = check_names(config["share"], "share")
    return [*share, *([] if config["rater"] in share else [config["rater"]])]


def open_project(config: Mapping[str, Any]) -> "Project":
    """The questions that the page shows, asked if they are not there yet."""
    from pbrl.feedback.page.project import Project, first_rows
    from pbrl.label.network import is_local

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
    look = Look(config["size"], config["fps"] or frame_rate(episodes), config["camera"], config["fps"] is None)
    store, table = Store(config["store"]), Table(episodes)
    adopt(store, content_hash, table.ids, table.steps)
    adopt_recordings(store, episodes)
    dataset = store.register(table.ids)
    if not (config["only_serve"] or config["run"]):
        asked = ask(config, store, table, dataset)
        print(f"asked   {asked} questions; {count_open(store, dataset)} want an answer")
    clips = Clips(renderers, Path(config["cache"]), look=look, limit_mb=config["cache_mb"], episodes=episodes)
    return Project(
        store,
        clips,
        dataset,
        first_rows(table),
        config["instructions"],
        me=config["rater"],
        needs_link=bool(config["share"]) or not is_local(config["host"]),
        pass_mark=config["checks"]["pass_mark"],
        answers_per_s=config["answers_per_s"],
        has_practice=has_clear_pairs(table),
        tasks=dict(zip(table.ids, table.instruction, strict=True)),
    )


def print_links(project: "Project", tokens: Mapping[str, str | None], hosts: Sequence[str], port: int) -> None:
    """Where the page is, for each rater who has a link."""
    at = f"http://{hosts[3] if len(hosts) > 3 and tokens else 'localhost'}:{port}/"
    width = max(map(len, tokens), default=0) + 2
    for name, token in tokens.items():
        link = f"{at}?token={token}" if token else f"the link from before; `revoke=[{name}]` ends it"
        print(f"{name:{width}}{link}")
    where = "by these links" if tokens else at
    print(f"answers {where} · kept in {project.store.address} · stop with Ctrl-C", flush=True)


def print_summary(config: Mapping[str, Any], given: CommandLine, store: Store, dataset: str) -> None:
    """What was answered, and how to learn from it."""
    counts = store.counts(dataset=dataset)
    print(f"\nanswers {', '.join(f'{n} {what}' for what, n in counts.items())}; to learn from them:")
    print(f"  {training_command(given, config['query'], store.address)}")


def frame_rate(episodes: Sequence[Episode]) -> int:
    """Frames a second, as they were recorded, and 20 where they are rendered. Raises UserError if neither can be."""
    if any(e.state is None and e.video is None for e in episodes):
        raise UserError(
            "clips are rendered from simulator states or cut from videos, and this data set has neither: choose "
            "another data=…, or data=recordings data.path=<a folder of videos>"
        )
    rates = [read_video_info(e.video).fps for e in episodes if e.video is not None]
    return max(1, round(float(np.median(rates)))) if rates else 20


def settings_of_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with what a run asks about, and where it keeps answers. Raises UserError."""
    folder = Path(config["run"])
    try:
        run = yaml.safe_load((folder / "config.yaml").read_text())
    except OSError as error:
        raise UserError(f"there is no run in {folder} ({error}): start it first, or leave run=… out") from error
    store = whole_address(run["store"] or f"sqlite:///{folder / 'answers.sqlite'}")
    if "***" in store:  # the folder keeps no password: the whole address must be given
        if hide_passwords(config["store"]) != store:
            raise UserError(f"the password of {store} is not kept in {folder}: give the whole address with store=…")
        store = config["store"]
    return {**config, "store": store, **{key: run[key] for key in ("env", "data", "data_dir", "data_seed")}}


def stop_with_parent() -> None:
    """Stops when the process that started this one has ended, and with it the other end of its input."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)
