"""The one training loop, for offline learning and for asking in rounds.

A run is a fixed list of stages: in each round the teacher is asked, the reward model (if any) is trained and relabels
the table, and the algorithm is trained. Position in that list, parameters, generators and counters go into the
checkpoint, so a run that was killed goes on from there and ends with the same bits.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch.utils._pytree import tree_map
from tqdm import tqdm

from pbrl import distributed, files
from pbrl.data.rollout import Players
from pbrl.feedback.asking import Interview
from pbrl.feedback.store.store import Store
from pbrl.models.gaussian import save_policy
from pbrl.settings import Query, Schedule
from pbrl.training.batches import Preferences
from pbrl.training.engine import Engine, Updates, wants_compile
from pbrl.training.evaluate import evaluate
from pbrl.training.replica import Seed
from pbrl.training.vmap import Together
from pbrl.types import Metrics, UserError


class Stage(NamedTuple):
    """Part of a run: `enter` happens once before its `steps` updates, which are what `method` of each learner does."""

    name: str
    steps: int
    enter: Callable[[], None]
    learners: list[Any]
    method: str


class Training:
    """A run in `folder`, of one seed or of several at once. Call `run()`; it resumes by itself from what is there."""

    def __init__(
        self,
        *,
        folder: Path,
        seeds: list[Seed],
        dataset: str,
        schedule: Schedule,
        players: Players | None,
        device: torch.device,
        compile: str = "auto",
        bf16: bool = False,
        teacher: Any = None,
        store: Store | None = None,
        ask: Query | None = None,
        name: str = "",
        settings: dict[str, Any] | None = None,
    ):
        self.folder, self.seeds, self.dataset, self.ask = folder, seeds, dataset, ask
        self.schedule, self.players = schedule, players
        self.device, self.compile, self.bf16, self.settings = device, compile, bf16, settings or {}
        algo, reward, table = seeds[0].algo, seeds[0].reward, seeds[0].table
        self.name = name or type(algo).__name__
        self.preferences = self.interview = None
        if ask is not None:
            held_out = 0.0 if reward is None else ask.held_out  # nothing else is judged by them
            self.preferences = Preferences(
                table, kind=ask.kind, length=ask.learnt_length, held_out=held_out, seed=ask.seed
            )
            self.interview = Interview(
                table=table,
                dataset=dataset,
                ask=ask,
                teacher=teacher,
                store=cast(Store, store),
                preferences=self.preferences,
            )
        for learner in filter(None, (algo, reward)):
            for size in ("batch_size", "step_batch_size", "unasked_batch_size"):
                distributed.check_size(getattr(learner, size, 0))
        self.stages = list(self._plan())
        self.ready: dict[str, Updates] = {}  # what was prepared for a stage serves those of the same name
        self.together: dict[int, Together] = {}  # by the first of the learners
        self.stage, self.step, self.policy_step, self.round = 0, 0, 0, 0
        self.seconds = {"train": 0.0, "evaluate": 0.0}

    # The plan

    def _plan(self) -> Iterator[Stage]:
        rounds = self.ask.rounds if self.ask else 1
        algos, rewards = [seed.algo for seed in self.seeds], [seed.reward for seed in self.seeds]
        for r in range(rounds):
            if rewards[0] is not None:
                yield Stage("reward", rewards[0].steps, self._ask_round, rewards, "update")
            elif self.ask is not None:
                yield Stage("answers", 0, self._ask_round, [], "")
            if r == 0 and getattr(algos[0], "pretrain_steps", 0):
                yield Stage("pretrain", algos[0].pretrain_steps, self._nothing, algos, "pretrain")
            steps = self.schedule.steps * (r + 1) // rounds - self.schedule.steps * r // rounds
            yield Stage("policy", steps, self._begin_policy if r == 0 else self._relabel, algos, "update")

    def _updates(self, stage: Stage) -> Updates:
        """What makes the updates of a stage, compiled where there are enough to pay for it."""
        if stage.name not in self.ready:
            engine = Engine(self.device, compile=self._compiles(stage), bf16=self.bf16)
            generators = [seed.sampling for seed in self.seeds]

            def draw() -> Any:
                pairs = zip(self.seeds, stage.learners, strict=True)
                batches = [seed.draw(learner, self.preferences) for seed, learner in pairs]
                one = batches[0] if len(batches) == 1 else tree_map(lambda *parts: torch.stack(parts), *batches)
                return distributed.share(one)

            first, *others = stage.learners
            if not others:
                update = engine.prepare(getattr(first, stage.method))
            else:
                if id(first) not in self.together:
                    self.together[id(first)] = Together(stage.learners)
                drawn = [generator.get_state() for generator in generators]
                update = engine.prepare_together(self.together[id(first)], stage.method, draw())
                for generator, state in zip(generators, drawn, strict=True):
                    generator.set_state(state)
            self.ready[stage.name] = engine.repeat(draw, update, generators)
        return self.ready[stage.name]

    def _compiles(self, stage: Stage) -> bool:
        total = sum(other.steps for other in self.stages if other.name == stage.name)
        return wants_compile(self.compile, total)

    # What happens on entering a stage

    def _nothing(self) -> None:
        pass

    def _begin_policy(self) -> None:
        self._relabel()
        for seed in self.seeds:
            if hasattr(seed.algo, "begin"):
                seed.algo.begin()

    def _relabel(self) -> None:
        for seed in self.seeds:
            if seed.reward is not None:
                assert self.preferences is not None
                seed.table.relabel(seed.reward)
                judged = self.preferences.judge(seed.reward)
                seed.log.write("judge", self.policy_step, {"round": self.round, **judged})
            if hasattr(seed.algo, "measure"):
                seed.algo.measure(seed.table)
        self._changed()

    def _note_answers(self, found: dict[str, float]) -> None:
        for seed in self.seeds:
            seed.log.write("answers", self.policy_step, {"round": self.round, **found})
        self._changed()

    def _changed(self) -> None:
        """Answers or rewards are others than they were."""
        for updates in self.ready.values():
            updates.forget()

    def _ask_round(self) -> None:
        interview = self.interview
        assert interview is not None
        found = self._told(lambda: interview.round(self.round, self.seeds[0].reward))
        self._note_answers(found)
        self.round += 1

    def _hear(self) -> None:
        """People go on answering, and take back, while we train."""
        interview = self.interview
        found = self._told(interview.hear) if interview is not None and interview.people else {}
        if found:
            self._note_answers(found)

    def _told(self, ask: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What the first process is told, which all then know."""
        parts = self.interview, self.preferences
        found, *states = distributed.told_by_first(lambda: (ask(), *(part.state_dict() for part in parts)))  # type: ignore[union-attr]
        if not distributed.first():
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)  # type: ignore[union-attr]
        return found

    # The run

    def run(self) -> list[dict[str, Any]]:
        """Trains to the end and returns the summary of each seed's evaluations. Raises UserError."""
        self._resume()
        while self.stage < len(self.stages):
            stage = self.stages[self.stage]
            if self.step == 0:
                self._save()
                stage.enter()
            if stage.steps:
                self._run_stage(stage)
            self.stage, self.step = self.stage + 1, 0
        self._save()
        found = [seed.summary() for seed in self.seeds]
        return [{**summary, "seconds": dict(self.seconds)} if summary else {} for summary in found]

    @property
    def counts(self) -> dict[str, int]:
        """How many questions were asked, answered, tied and skipped."""
        return {} if self.interview is None else self.interview.counts

    def ask_first(self) -> None:
        """Asks the first round and stops; a run in the same folder later starts with the same questions."""
        self.stages[0].enter()
        print(f"answers {', '.join(f'{n} {what}' for what, n in self.counts.items())}")

    def _run_stage(self, stage: Stage) -> None:
        s = self.schedule
        compiling = stage.name not in self.ready and self._compiles(stage)
        updates = self._updates(stage)
        title = self.name if stage.name == "policy" else stage.name
        bar = tqdm(total=stage.steps, initial=self.step, desc=title, unit="update", mininterval=0.5,
                   disable=not distributed.first())  # fmt: skip
        if compiling:
            bar.set_postfix_str("compiling")
        began = time.perf_counter()
        while self.step < stage.steps:
            made = updates.run(self._quiet(stage))
            self.step += made
            last = self.step == stage.steps
            bar.update(made)
            if stage.name == "policy":
                self.policy_step += made
            if self.step % s.log_every == 0 or last:
                self._write(stage, updates.read(), time.perf_counter() - began, bar)
                self._hear()
            if self._evaluates(stage, last):
                self.seconds["train"] += time.perf_counter() - began
                self._evaluate(stage.name, bar)
                began = time.perf_counter()
            if self.step % s.checkpoint_every == 0 and not last:
                self.seconds["train"] += time.perf_counter() - began
                self._save()
                began = time.perf_counter()
        self.seconds["train"] += time.perf_counter() - began
        bar.close()

    def _quiet(self, stage: Stage) -> int:
        """How many updates follow before there is something else to do."""
        s = self.schedule
        ahead = [stage.steps - self.step, *(every - self.step % every for every in (s.log_every, s.checkpoint_every))]
        return min(*ahead, s.eval_every - self.policy_step % s.eval_every)

    def _write(self, stage: Stage, means: Metrics, seconds: float, bar: tqdm) -> None:
        step = self.policy_step if stage.name == "policy" else self.step
        for i, seed in enumerate(self.seeds):
            own = {key: value if len(self.seeds) == 1 else value[i] for key, value in means.items()}
            values = seed.log.write(stage.name, step, {**own, "seconds": self.seconds["train"] + seconds})
            if i == 0:
                bar.set_postfix({k: f"{v:.3g}" for k, v in list(values.items())[:3]})

    def _evaluates(self, stage: Stage, last: bool) -> bool:
        if self.players is None or stage.name == "reward":
            return False
        return (
            last
            if stage.name == "pretrain"
            else self.policy_step % self.schedule.eval_every == 0 or self.policy_step == self.schedule.steps
        )

    def _evaluate(self, phase: str, bar: tqdm) -> None:
        assert self.players is not None
        s = self.schedule
        final = phase == "policy" and self.policy_step == s.steps
        for seed in self.seeds:
            began = time.perf_counter()
            episodes = s.final_episodes if final else s.eval_episodes
            result = asdict(found := evaluate(self.players, seed.algo.policy, episodes, s.eval_seed))
            self.seconds["evaluate"] += time.perf_counter() - began
            seed.evaluations.append({"phase": phase, "step": self.policy_step, **result})
            seed.log.write("evaluate", self.policy_step, {"of": phase, **result, "seconds": self.seconds["evaluate"]})
            bar.write(f"{seed.folder.name + ' ' if len(self.seeds) > 1 else ''}{bar.desc} {self.policy_step}: {found}")
            if phase == "policy" and seed.best_is_last():
                save_policy(seed.algo.policy, seed.folder / "best.pt")

    # What is kept

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _save(self) -> None:
        if not distributed.first():
            return
        files.save(
            self._path,
            {
                "dataset": self.dataset, "settings": self.settings,
                "stage": self.stage, "step": self.step, "policy_step": self.policy_step, "round": self.round,
                "seeds": [seed.state_dict() for seed in self.seeds],
                "preferences": None if self.preferences is None else self.preferences.state_dict(),
                "interview": None if self.interview is None else self.interview.state_dict(),
                "random": files.random_state(self.device),
                "seconds": self.seconds,
            },
        )  # fmt: skip

    def _resume(self) -> None:
        state = distributed.told_by_first(lambda: files.load(self._path, self.device))
        if state is None:
            for seed in self.seeds:
                seed.log.rewind(0)
            return
        if state["dataset"] != self.dataset:
            raise UserError(
                f"{self._path} was made on another data set; choose another run folder with run=…, or delete it"
            )
        changed = files.differences(state["settings"], self.settings)
        if changed:
            raise UserError(
                f"{self._path} was made with other settings ({', '.join(changed)}); choose another run folder with "
                "run=…, or delete it"
            )
        try:
            for seed, own in zip(self.seeds, state["seeds"], strict=True):
                seed.load_state_dict(own)
        except (KeyError, RuntimeError, TypeError) as error:
            raise UserError(
                f"{self._path} was made with other settings; choose another run folder with run=…, or delete it"
            ) from error
        if self.preferences is not None:
            self.preferences.load_state_dict(state["preferences"])
        self.stage, self.step, self.policy_step, self.round = (
            state[k] for k in ("stage", "step", "policy_step", "round")
        )
        if self.interview is not None:
            self.interview.load_state_dict(state["interview"])
        files.set_random_state(state["random"], self.device)
        self.seconds = state["seconds"]
