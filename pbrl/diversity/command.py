"""The command: asks triplets, learns measures of them, evolves an archive over these, and shows it as pictures.

With more than one of `rounds` it is QDHF's iterative version (arXiv:2310.12103, algorithm 1): behaviours of the archive
join the episodes that are asked about, the measures are learnt again, and the archive is projected anew. Everything is
decided by seeds, and what is saved goes on to the same bits.
"""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from pbrl import files
from pbrl.data import collect
from pbrl.data import episodes as storage
from pbrl.data.behaviours import Waves
from pbrl.data.episodes import episode_id
from pbrl.data.frames import without_images
from pbrl.data.rollout import RolloutWorkers, make_environment, worker_count
from pbrl.data.table import Table
from pbrl.diversity.page import choose, write_pages
from pbrl.diversity.projection import describe, features_at, learn
from pbrl.diversity.search import Rated, Search, bounds_of
from pbrl.diversity.settings import Settings
from pbrl.diversity.solutions import Scene, play_all
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.address import without_password
from pbrl.feedback.store.store import Store
from pbrl.judge.from_run import load_reward
from pbrl.objectives import Objective
from pbrl.run.build import build, build_objective, check_part
from pbrl.run.folder import make_folder
from pbrl.run.lock import hold
from pbrl.types import Environment, Episode, RewardModel, UserError

FINISHED = "the same command has finished already; search.iterations=… makes more"


class QDHF:
    """A search with learnt measures, and all that it goes on from."""

    def __init__(self, settings: Settings, folder: Path):
        """Collects or reads the episodes, and what there is of the search in its folder. Raises UserError."""
        self.settings, self.folder, search = settings, folder, settings.search
        self.objective = build_objective(settings.objective)
        self.source = build(settings.feedback, flag="feedback")
        self.scene = Scene(search.scene, search.steps)
        self.workers = RolloutWorkers(without_images(settings.env), worker_count(settings.workers))
        self.size = check(settings, self.source, self.objective)
        place = {"folder": Path(settings.data_dir), "seed": settings.data_seed, "workers": self.workers.workers}
        episodes, _ = collect.load_dataset(settings.env, settings.data, **place)
        self.table, self.store = Table(episodes), Store(settings.store or f"sqlite:///{folder / 'answers.sqlite'}")
        self.reward = None if search.quality == "return" else load_reward(Path(search.quality).expanduser(), self.table)
        self.random = np.random.default_rng(settings.seed)
        self.round, self.iteration = 0, 0
        self.log: list[dict[str, Any]] = []
        self.joined = np.empty((0, self.size))  # solutions whose episodes joined the table
        self.load()

    # The search

    def run(self) -> None:
        """Searches to the end, with a progress bar; saves on the way. Answers that came meanwhile are learnt first."""
        settings, search = self.settings, self.settings.search
        if self.iteration >= search.iterations:
            print(FINISHED)
        if self.round and self.asking.refresh():
            self.project(self.search.elites)
            self.save()
        each = search.batch_size * search.emitters
        total, done = search.iterations * each, self.iteration * each
        with tqdm(total=total, initial=done, desc="searching", unit="solution") as bar:
            while self.iteration < search.iterations:
                if self.round < settings.round_at(self.iteration / search.iterations):
                    self.begin_round()
                solutions = self.search.ask()
                rated = self.rate(solutions, bar)
                self.search.tell(rated.quality, rated.features, rated.measures)
                self.iteration += 1
                bar.set_postfix(coverage=f"{self.search.archive.stats.coverage:.0%}", refresh=False)
                if self.iteration % settings.checkpoint_every == 0 or self.iteration == search.iterations:
                    self.save()

    def begin_round(self) -> None:
        """Asks, about the archive's behaviours too where there is one, and learns the measures."""
        known = self.search.elites if self.round else None
        if known is not None:
            self.join(self.random.permutation(known.solutions)[: self.settings.behaviours])
        self.asking.ask(self.round, None)
        self.round += 1
        self.project(known)

    def project(self, known: Rated | None) -> None:
        """Learns the measures, and puts the known solutions, else a first population, into a grid over them."""
        settings, search = self.settings, self.settings.search
        self.projection, found = learn(
            self.table, self.asking.labels, self.objective, settings.projection, held_out=settings.query.held_out,
            seed=settings.seed,
        )  # fmt: skip
        self.log.append({"round": self.round, "iteration": self.iteration, **found})
        print(describe_learning(self.log[-1]), flush=True)
        if known is None:
            first = self.random.random((search.population, self.size))
            with tqdm(total=len(first), desc="playing the first population", unit="solution") as bar:
                known = self.rate(first, bar)
        known = known._replace(measures=self.measure(known.features))
        length = settings.query.length
        data = features_at(self.table, self.table.separate_starts(length), length, settings.projection.frames)
        bounds = bounds_of(np.concatenate([self.measure(data.numpy()), known.measures]), search.margin)
        self.search = Search(search, known, bounds, settings.seed + 1000 * len(self.log))

    def rate(self, solutions: np.ndarray, bar: tqdm) -> Rated:
        """Plays solutions [N, P], and measures what came of them."""
        episodes = play_all(self.workers, self.settings.waves, solutions, self.scene, progress=bar.update)
        frames = self.settings.projection.frames
        features = np.stack([describe(torch.from_numpy(e.obs[:-1]), frames).numpy() for e in episodes])
        return Rated(solutions, quality_of(episodes, self.reward), features, self.measure(features))

    @torch.no_grad()
    def measure(self, features: np.ndarray) -> np.ndarray:
        """features [N, F] → measures [N, M]."""
        return self.projection(torch.from_numpy(features)).double().numpy()

    # Answers

    def join(self, solutions: np.ndarray) -> None:
        """Adds the episodes of these solutions [N, P] to the table, with states, so that clips of them can be shown."""
        for episode in play_all(self.workers, self.settings.waves, solutions, self.scene, states=True):
            if episode_id(episode) not in self.table.ids:
                self.table.append(episode)
        self.joined = np.concatenate([self.joined, solutions])
        self.start_source()

    def start_source(self) -> None:
        """Hands the source the table as it is now; what it was asked before counts on. Raises UserError."""
        query, data_dir = self.settings.query, Path(self.settings.data_dir)
        self.source.start(Context(self.store, self.table, query, data_dir, experts=self.workers))

    # What it goes on from

    def save(self) -> None:
        """Replaces the checkpoint, whole."""
        state = {
            "identity": self.settings.identity,
            "round": self.round,
            "iteration": self.iteration,
            "log": self.log,
            "joined": self.joined,
            "random": self.random,
            "asking": self.asking.state_dict(),
            "projection": self.projection,
            "search": self.search,
        }
        with files.replacing(self.folder / "search.pkl") as partial:
            partial.write_bytes(pickle.dumps(state))

    def load(self) -> None:
        """Goes on from the checkpoint, where there is one. Raises UserError where it is of other settings."""
        path, state = self.folder / "search.pkl", None
        if path.exists():
            try:
                state = pickle.loads(path.read_bytes())  # of our own, beside the answers of this machine
            except Exception as error:
                raise UserError(f"{path} is damaged ({error}): delete it to start this search anew") from error
            changed = files.differences(state["identity"], self.settings.identity)
            if changed:
                raise UserError(f"{self.folder} holds another search ({', '.join(changed)}): choose another with run=…")
        if state is not None and len(state["joined"]):
            self.join(state["joined"])
        else:
            self.start_source()
        self.asking = Asking(table=self.table, query=self.settings.query, source=self.source, store=self.store)
        if state is None:
            plain = without_password(self.settings.plain)
            (self.folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
            return
        self.joined, self.random, self.projection, self.search, self.log = (
            state[name] for name in ("joined", "random", "projection", "search", "log")
        )
        self.round, self.iteration = state["round"], state["iteration"]
        self.asking.load_state_dict(state["asking"])


def check(settings: Settings, source: Any, objective: Objective) -> int:
    """P, how many numbers a solution is; raises UserError where the search cannot work, before anything is made."""
    if source is None or (source.kinds and "triplet" not in source.kinds):
        raise UserError("the measures are learnt from triplets: feedback=perfect, another teacher, or feedback=stored")
    if objective.segments > 2 or objective.is_unpaired:
        raise UserError(f"{objective.name} is of no triplets: objective=bradley_terry, smoothed, robust or hinge")
    if settings.feedback["_target_"].endswith("people.People"):
        raise UserError(
            "people answer ahead of the search: python -m pbrl.label query.kind=triplet with the same env and data, "
            "then feedback=stored store=sqlite:///labels.sqlite"
        )
    check_part({"_target_": f"{Waves.__module__}.Waves", "noise": 0.0, **settings.waves}, "waves")
    env: Environment = make_environment(settings.env)
    try:
        source.check(settings.query, env)
        return Waves.count_parameters(env.action_space.shape[0])
    finally:
        env.close()


@torch.no_grad()
def quality_of(episodes: list[Episode], reward: RewardModel | None) -> np.ndarray:
    """The true returns [N] of episodes, or the sums of a learnt reward, the mean of its members."""
    if reward is None:
        return np.array([episode.reward.sum(dtype=np.float64) for episode in episodes])
    table = Table(episodes)
    table.set_label("quality", reward.label(table).mean(0))
    total = table.labels["quality"].double().cumsum(0)
    return (total[table.closing] - total[table.opening] + table.labels["quality"][table.opening]).numpy()


def describe_learning(found: dict[str, Any]) -> str:
    """A line about a round's measures."""
    words = f"round {found['round']}: {found['answers']} triplets, {found['train_accuracy']:.0%} as answered"
    if "held_out" not in found:
        return words
    return f"{words}, {found['held_out_accuracy']:.0%} of {found['held_out']} that were held out"


def search(config: dict[str, Any]) -> dict[str, Any]:
    """What a config asks for, from answers to pictures; returns what result.json holds. Raises UserError."""
    settings = Settings.parse(config)
    folder = make_folder(settings.folder())
    with hold(folder, "another search", "wait for it, stop it, or choose another folder with run=…"):
        made = QDHF(settings, folder)
        try:
            made.run()
            result = {"rounds": made.log, **made.search.report(), "solutions": made.size}
            write_archive(folder / "archive.npz", made)
            shown = choose(made.search, settings.pictures["parts"])
            played = play_all(made.workers, settings.waves, shown.solutions, made.scene, states=True)
            shutil.rmtree(folder / "episodes", ignore_errors=True)
            storage.write(folder / "episodes", played, {"env": settings.env, "archive": str(folder)})
            write_pages(settings, made.search, shown, played, result, folder)
        finally:
            made.source.stop()
            made.workers.close()
        files.write_json(folder / "result.json", result)
    print(
        f"{result['elites']} behaviours fill {result['coverage']:.0%} of the grid, QD score {result['qd_score']:.4g}, "
        f"best {result['best']:.4g}, mean {result['mean']:.4g}\nwritten {folder / 'index.html'}"
    )
    return result


def write_archive(path: Path, made: QDHF) -> None:
    """Writes solutions [N, P], their quality [N], measures [N, M] and features [N, F], and the projection."""
    parts = {name: part.numpy() for name, part in made.projection.state_dict().items()}
    parts |= made.search.elites._asdict()
    with files.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **parts)
