"""`python -m pbrl.label env=… data=…`: a page in the browser where people answer questions about a data set.

Answers go to a store, from which training reads them: `train.py … feedback=kept store=…`. Everything is a flag: see
configs/label.yaml.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

import sim.configs
from pbrl.data import collect
from pbrl.data.rollout import auto_workers
from pbrl.data.table import Table
from pbrl.data.video import recording
from pbrl.feedback import questions as kinds
from pbrl.feedback.page.clips import Clips, Look, Renderers
from pbrl.feedback.sources.people import TEXTS
from pbrl.feedback.store.store import Store
from pbrl.types import Episode, UserError

sim.configs.register()


def serve(config: dict[str, Any]) -> None:
    """Asks, then serves the page until it is stopped. Raises UserError."""
    try:
        import uvicorn

        from pbrl.feedback.page.server import Desk, make_app, new_token
    except ImportError as error:
        raise UserError(f"the page needs a package more ({error.name}): `pip install pbrl[label]`") from error
    if config["run"]:
        config = of_run(config)
    if config["attached"]:
        threading.Thread(target=follow, daemon=True).start()
    source = {
        "env": config["env"], "data": config["data"], "folder": Path(config["data_dir"]), "seed": config["data_seed"],
        "workers": auto_workers(config["workers"]),
    }  # fmt: skip
    renderers = Renderers(source)
    episodes, dataset = collect.dataset(**source)
    renderers.read()
    look = Look(config["size"], config["fps"] or rate(episodes), config["camera"])
    store = Store(config["store"])
    if not (config["only_serve"] or config["run"]):
        asked = ask(config, store, Table(episodes), dataset)
        print(f"asked   {asked} questions; {store.wanting(dataset)} want an answer")
    del episodes
    clips = Clips(renderers, Path(config["cache"]), look=look, limit_mb=config["cache_mb"])
    port = free_port(config["host"], config["port"])
    raters = {new_token(): name for name in config["share"] or []}
    if raters:
        raters[new_token()] = config["rater"]
    desk = Desk(store, clips, dataset, config["instructions"], raters, config["rater"], config["checks"]["pass_mark"])
    names = ["localhost", "127.0.0.1", "[::1]", *addresses(config["host"]), *config["names"]]
    app = make_app(desk, names)
    at = f"http://{names[3] if len(names) > 3 and raters else 'localhost'}:{port}/"
    for token, name in raters.items():
        print(f"{name:8}{at}?token={token}")
    print(
        f"answers {at if not raters else 'by these links'} · kept in {config['store']} · stop with Ctrl-C", flush=True
    )
    uvicorn.run(app, host=config["host"], port=port, log_level="warning")
    if config["run"]:
        return
    query, counts = config["query"], store.counts(dataset=dataset)
    print(f"\nanswers {', '.join(f'{n} {what}' for what, n in counts.items())}; to learn from them:")
    print(f"  python train.py … feedback=kept store={config['store']} query.kind={query['kind']} "
          f"query.length={query['length']}")  # fmt: skip


def rate(episodes: Sequence[Episode]) -> int:
    """Frames a second, as they were recorded, and 20 where they are rendered. Raises UserError if neither can be."""
    if any(e.state is None and e.video is None for e in episodes):
        raise UserError(
            "clips are rendered from simulator states or cut from videos, and this data set has neither: choose "
            "another data=…, or data=recordings data.path=<a folder of videos>"
        )
    rates = [recording(e.video).fps for e in episodes if e.video is not None]
    return round(float(np.median(rates))) if rates else 20


def of_run(config: dict[str, Any]) -> dict[str, Any]:
    """The same with what a run asks about, and where it keeps answers."""
    folder = Path(config["run"])
    try:
        made = yaml.safe_load((folder / "config.yaml").read_text())
    except OSError as error:
        raise UserError(f"there is no run in {folder} ({error}): start it first, or leave run=… out") from error
    store = made["store"] or f"sqlite:///{folder / 'answers.sqlite'}"
    return {**config, "store": store, **{key: made[key] for key in ("env", "data", "data_dir", "data_seed")}}


def follow() -> None:
    """Stops when whoever started us is gone: then nobody holds the other end of our input."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


def ask(config: dict[str, Any], store: Store, table: Table, dataset: str) -> int:
    """Asks what is not asked yet; the same command asks the same. Returns how many questions there are."""
    query, words = config["query"], config["words"]
    kind = query["kind"]
    if kind not in TEXTS:
        raise UserError(f"query.kind={kind}: it is one of {', '.join(TEXTS)}")
    width = int(kinds.CLIPS.get(kind) or query["clips"])
    if kind == "ranking" and not 3 <= width <= 5:
        raise UserError("a ranking is of 3 to 5 clips: query.clips=4")
    if query["count"] < 1 or config["wanted"] < 1:
        raise UserError("query.count and wanted must be at least 1")
    more = {"pair": ("better", "strength"), "attributes": ("attributes",), "spans": ("stages",)}.get(kind, ())
    wording = {"text": words["text"] or TEXTS[kind], **{key: words[key] for key in more}}
    generator = torch.Generator().manual_seed(query["seed"])
    count, length, checks = query["count"], query["length"], config["checks"]
    same: dict[str, Any] = {
        "dataset": dataset, "length": length, "kind": kind, "strategy": "uniform", "round_": 0, "wording": wording,
    }  # fmt: skip
    starts = draw(table, length, count, width, generator)
    ids = store.ask(**same, starts=starts, wanted=config["wanted"])
    if kind != "pair":
        return len(ids)
    again = torch.randperm(count, generator=generator)[: round(checks["repeats"] * count)].tolist()
    if again:  # the mirror image, when the first is forgotten
        later = [i + max(10, count // 2) for i in again]
        store.ask(**same, starts=starts[again, ::-1], positions=later, wanted=config["wanted"], purpose="repeat",
                  repeats=[ids[i] for i in again])  # fmt: skip
    for purpose, n in (("gold", round(checks["gold"] * count)), ("practice", checks["practice"])):
        if n:
            clear, expected = certain(table, length, n, generator)
            every = max(1, count // n)
            store.ask(**same, starts=clear, expected=expected, purpose=purpose, wanted=EVERYBODY,
                      priority=float(purpose == "practice"), positions=range(every // 2, every * n, every))  # fmt: skip
    return len(ids)


EVERYBODY = 1_000_000  # answers that are wanted of a question that all shall be asked


def draw(table: Table, length: int, n: int, width: int, generator: torch.Generator) -> np.ndarray:
    """Starts [n, width] of different segments anywhere in the data. Raises UserError where there are too few."""
    places = table.segment_starts(length)
    if len(places) < width:
        raise UserError(f"query.length={length}: {len(places)} segments of that length fit into the data")
    return np.stack([places[torch.randperm(len(places), generator=generator)[:width]].numpy() for _ in range(n)])


def certain(table: Table, length: int, n: int, generator: torch.Generator) -> tuple[np.ndarray, list[float]]:
    """Of many pairs, those n [n, 2] whose true returns differ the most, and which is better by that."""
    pairs = draw(table, length, 20 * n, 2, generator)
    gap = table.reward[table.segment_rows(torch.from_numpy(pairs), length)].sum(-1).diff(dim=1)[:, 0].numpy()
    best = np.argsort(-np.abs(gap))[:n]
    return pairs[best], [float(gap[i] > 0) for i in best]


def free_port(host: str, first: int) -> int:
    """The first port from there on that nobody listens at."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
                return port
            except PermissionError as error:
                raise UserError(f"port {port} is not ours to use: choose another with port=…") from error
            except OSError:
                continue
    raise UserError(f"no port is free from {first} on: choose another with port=…")


def addresses(host: str) -> list[str]:
    """By which names other machines know this one, if they may call."""
    if host in ("127.0.0.1", "localhost", "::1"):
        return []
    own = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(own, None, socket.AF_INET)}
    except OSError:
        found = set()
    return [own, *sorted(found - {"127.0.0.1"}), *([] if host == "0.0.0.0" else [host])]


@hydra.main(config_path="../configs", config_name="label", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        serve(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except UserError as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
