"""The one training loop, for offline learning and for asking in rounds.

A run is a fixed list of stages: in each round the teacher is asked, the reward model (if any) is trained and relabels
the table, and the algorithm is trained. Position in that list, parameters, generators and counters go into the
checkpoint, so a run that was killed goes on from there and ends with the same bits.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from tqdm import tqdm

from pbrl import checkpoint, parallel
from pbrl.engine import Engine, Mean, wants_compile
from pbrl.evaluate import evaluate
from pbrl.feedback.store import Store
from pbrl.interview import Interview
from pbrl.likelihoods import save_policy
from pbrl.log import Log
from pbrl.plan import Query, Schedule
from pbrl.preferences import Preferences
from pbrl.rollout import Players
from pbrl.table import Table
from pbrl.types import PairsAndSteps, PairsAndUnasked, PreferenceBatch, Transitions, UserError, Windows


class Stage(NamedTuple):
    """Part of a run: `enter` happens once before its `steps` updates."""

    name: str
    steps: int
    enter: Callable[[], None]
    update: Callable[[Any], Any]
    draw: Callable[[], Any]


class Training:
    """A run in `folder`. Call `run()`; it resumes by itself from what the folder holds."""

    def __init__(
        self,
        *,
        folder: Path,
        table: Table,
        dataset: str,
        algo: Any,
        schedule: Schedule,
        log: Log,
        players: Players | None,
        seed: int,
        compile: str = "auto",
        bf16: bool = False,
        reward: Any = None,
        teacher: Any = None,
        store: Store | None = None,
        ask: Query | None = None,
        name: str = "",
        settings: dict[str, Any] | None = None,
    ):
        self.folder, self.table, self.dataset, self.seed = folder, table, dataset, seed
        self.algo, self.reward, self.ask = algo, reward, ask
        self.schedule, self.log, self.players, self.name = schedule, log, players, name or type(algo).__name__
        self.device = table.device
        self.compile, self.bf16, self.settings = compile, bf16, settings or {}
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
            for name in ("batch_size", "step_batch_size", "unasked_batch_size"):
                parallel.check_size(getattr(learner, name, 0))
        self.sampling = torch.Generator(self.device).manual_seed(seed)  # which batches
        self.rows = algo.rows(table) if hasattr(algo, "rows") else table.rows
        self.stages = list(self._plan())
        self.stage, self.step, self.policy_step, self.round = 0, 0, 0, 0
        self.evaluations: list[dict[str, Any]] = []
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.mean = Mean()

    # The plan

    def _plan(self) -> Iterator[Stage]:
        rounds = self.ask.rounds if self.ask else 1
        for r in range(rounds):
            if self.reward is not None:
                yield Stage("reward", self.reward.steps, self._ask_round, self.reward.update, self._drawer(self.reward))
            elif self.ask is not None:
                yield Stage("answers", 0, self._ask_round, lambda batch: {}, lambda: None)
            if r == 0 and getattr(self.algo, "pretrain_steps", 0):
                yield Stage(
                    "pretrain", self.algo.pretrain_steps, self._nothing, self.algo.pretrain, self._drawer(self.algo)
                )
            steps = self.schedule.steps * (r + 1) // rounds - self.schedule.steps * r // rounds
            yield Stage(
                "policy",
                steps,
                self._begin_policy if r == 0 else self._relabel,
                self.algo.update,
                self._drawer(self.algo),
            )

    def _drawer(self, learner: Any) -> Callable[[], Any]:
        size = learner.batch_size

        def rows(count: int = size) -> torch.Tensor:
            return self.rows[torch.randint(len(self.rows), (count,), generator=self.sampling, device=self.device)]

        if learner.batch is Transitions:
            return lambda: self.table.transitions(rows())
        if learner.batch is Windows:
            return lambda: self.table.windows(rows(), learner.context)
        preferences = self.preferences
        if preferences is None:
            raise UserError(f"{type(learner).__name__} learns from answers: choose a teacher with feedback=…")
        if learner.batch is PreferenceBatch:
            judged = self.reward is not None and learner is not self.reward
            sample = preferences.sample_judged if judged else preferences.sample
            return lambda: sample(size, self.sampling, getattr(learner, "segments", 2))
        if learner.batch is PairsAndUnasked:
            return lambda: PairsAndUnasked(
                preferences.sample(size, self.sampling),
                preferences.sample_unasked(learner.unasked_batch_size, self.sampling),
            )
        if learner.batch is PairsAndSteps:
            return lambda: PairsAndSteps(
                preferences.sample(size, self.sampling), self.table.transitions(rows(learner.step_batch_size))
            )
        raise UserError(f"{type(learner).__name__} eats {learner.batch}, which this loop does not serve")

    # What happens on entering a stage

    def _nothing(self) -> None:
        pass

    def _begin_policy(self) -> None:
        self._relabel()
        if hasattr(self.algo, "begin"):
            self.algo.begin()

    def _relabel(self) -> None:
        if self.reward is not None:
            assert self.preferences is not None
            self.table.relabel(self.reward)
            self.log.write("judge", self.policy_step, {"round": self.round, **self.preferences.judge(self.reward)})
        if hasattr(self.algo, "measure"):
            self.algo.measure(self.table)

    def _ask_round(self) -> None:
        interview = self.interview
        assert interview is not None
        found = self._told(lambda: interview.round(self.round, self.reward))
        self.log.write("answers", self.policy_step, {"round": self.round, **found})
        self.round += 1

    def _hear(self) -> None:
        """People go on answering, and take back, while we train."""
        interview = self.interview
        found = self._told(interview.hear) if interview is not None and interview.people else {}
        if found:
            self.log.write("answers", self.policy_step, {"round": self.round, **found})

    def _told(self, ask: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What the first process is told, which all then know."""
        parts = self.interview, self.preferences
        found, *states = parallel.told_by_first(lambda: (ask(), *(part.state_dict() for part in parts)))  # type: ignore[union-attr]
        if not parallel.first():
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)  # type: ignore[union-attr]
        return found

    # The run

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns the summary of evaluations. Raises UserError."""
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
        return self.summary()

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
        engine = Engine(self.device, compile=wants_compile(self.compile, stage.steps), bf16=self.bf16)
        update = engine.prepare(stage.update)
        title = self.name if stage.name == "policy" else stage.name
        bar = tqdm(total=stage.steps, initial=self.step, desc=title, unit="update", mininterval=0.5,
                   disable=not parallel.first())  # fmt: skip
        if engine.compile:
            bar.set_postfix_str("compiling")
        began = time.perf_counter()
        while self.step < stage.steps:
            self.mean.add(update(parallel.share(stage.draw())))
            self.step += 1
            last = self.step == stage.steps
            bar.update(1)
            if stage.name == "policy":
                self.policy_step += 1
            if self.step % s.log_every == 0 or last:
                seconds = time.perf_counter() - began
                values = self.log.write(stage.name, self.policy_step if stage.name == "policy" else self.step,
                                        {**self.mean.read(), "seconds": self.seconds["train"] + seconds})  # fmt: skip
                bar.set_postfix({k: f"{v:.3g}" for k, v in list(values.items())[:3]})
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
        began = time.perf_counter()
        final = phase == "policy" and self.policy_step == self.schedule.steps
        s = self.schedule
        episodes = s.final_episodes if final else s.eval_episodes
        result = evaluate(self.players, self.algo.policy, episodes, s.eval_seed)
        self.seconds["evaluate"] += time.perf_counter() - began
        self.evaluations.append({"phase": phase, "step": self.policy_step, **asdict(result)})
        self.log.write(
            "evaluate", self.policy_step, {"of": phase, **asdict(result), "seconds": self.seconds["evaluate"]}
        )
        bar.write(f"{bar.desc} {self.policy_step}: {result}")
        scores = [
            e["success"] if e["success"] is not None else e["return_mean"]
            for e in self.evaluations
            if e["phase"] == "policy"
        ]
        if phase == "policy" and scores[-1] > max(scores[:-1], default=-math.inf):
            save_policy(self.algo.policy, self.folder / "best.pt")

    def summary(self) -> dict[str, Any]:
        """The last, best and running maximum (of means of up to 8 evaluations), and the clone's if there is one."""
        policy = [e for e in self.evaluations if e["phase"] == "policy"]
        clone = [e for e in self.evaluations if e["phase"] == "pretrain"]
        if not policy:
            return {}
        measure = "return_mean" if policy[-1]["success"] is None else "success"
        scores = [e[measure] for e in policy]
        windows = [scores[max(0, i - 8) : i] for i in range(min(8, len(scores)), len(scores) + 1)]
        return {
            "measure": measure,
            "last": policy[-1],
            "best": max(policy, key=lambda e: e[measure]),
            "running_max": max(sum(w) / len(w) for w in windows),
            "clone": clone[-1] if clone else None,
            "seconds": dict(self.seconds),
        }

    # What is kept

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _save(self) -> None:
        if not parallel.first():
            return
        checkpoint.save(
            self._path,
            {
                "dataset": self.dataset, "settings": self.settings,
                "stage": self.stage, "step": self.step, "policy_step": self.policy_step, "round": self.round,
                "algo": self.algo.state_dict(),
                "reward": None if self.reward is None else self.reward.state_dict(),
                "learned": self.table.learned if self.reward is not None else None,
                "preferences": None if self.preferences is None else self.preferences.state_dict(),
                "sampling": self.sampling.get_state(),
                "interview": None if self.interview is None else self.interview.state_dict(),
                "random": checkpoint.random_state(self.device),
                "log": self.log.position(), "evaluations": self.evaluations,
                "seconds": self.seconds,
            },
        )  # fmt: skip

    def _resume(self) -> None:
        state = parallel.told_by_first(lambda: checkpoint.load(self._path, self.device))
        if state is None:
            self.log.rewind(0)
            return
        if state["dataset"] != self.dataset:
            raise UserError(
                f"{self._path} was made on another data set; choose another run folder with run=…, or delete it"
            )
        changed = checkpoint.differences(state["settings"], self.settings)
        if changed:
            raise UserError(
                f"{self._path} was made with other settings ({', '.join(changed)}); choose another run folder with "
                "run=…, or delete it"
            )
        try:
            self.algo.load_state_dict(state["algo"])
            if self.reward is not None:
                self.reward.load_state_dict(state["reward"])
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"{self._path} was made with other settings; choose another run folder with run=…, or delete it"
            ) from error
        if state["learned"] is not None:
            self.table.learned = state["learned"].to(self.device)
        if self.preferences is not None:
            self.preferences.load_state_dict(state["preferences"])
        self.stage, self.step, self.policy_step, self.round = (
            state[k] for k in ("stage", "step", "policy_step", "round")
        )
        self.sampling.set_state(state["sampling"].cpu())
        if self.interview is not None:
            self.interview.load_state_dict(state["interview"])
        checkpoint.set_random_state(state["random"], self.device)
        self.log.rewind(state["log"])
        self.evaluations, self.seconds = state["evaluations"], state["seconds"]
