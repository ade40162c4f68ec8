"""The one training loop, for offline learning and for asking in rounds.

A run is a fixed list of stages: in each round questions are asked, the reward model (if any) is trained and labels the
table, and the algorithm is trained. Position in that list, parameters, generators and counters go into the checkpoint,
so a run that was killed goes on from there and ends with the same bits.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map
from tqdm import tqdm

from pbrl import distributed, files
from pbrl.data.rollout import RolloutWorkers
from pbrl.feedback.asking import Asking
from pbrl.models.policy import is_eager, save_policy
from pbrl.settings import Query, Schedule
from pbrl.training import interrupts
from pbrl.training.engine import Engine, Updates, learner_of, wants_compile
from pbrl.training.evaluate import evaluate
from pbrl.training.held_out import evaluate_reward
from pbrl.training.playing import take_rollouts
from pbrl.training.precision import FLOAT32, Precision
from pbrl.training.replica import Replica
from pbrl.training.stages import Stage, plan
from pbrl.training.vmap import LearnerStack
from pbrl.types import UserError


class Training:
    """A run in `folder`, of one seed or of several at once. Call `run()`; it resumes by itself from what is there.

    `query` says whether and how questions are asked; `asking`, which asks them, and the rollout workers exist on rank 0
    alone.
    """

    def __init__(
        self,
        *,
        folder: Path,
        replicas: list[Replica],
        schedule: Schedule,
        workers: RolloutWorkers | None,
        device: torch.device,
        compile: str = "auto",
        precision: Precision = FLOAT32,
        query: Query | None = None,
        asking: Asking | None = None,
        name: str = "",
        settings: dict[str, Any] | None = None,
        grow: bool = False,
    ):
        self.folder, self.replicas, self.grow = folder, replicas, grow
        self.schedule, self.workers, self.asking = schedule, workers, asking
        self.device, self.compile, self.precision, self.settings = device, compile, precision, settings or {}
        self.name = name or type(replicas[0].algo).__name__
        rounds = query.rounds if query else 1
        self.stages = plan(replicas, schedule.steps, rounds=rounds, asks=query is not None)
        self.counts: dict[str, int] = {}  # of questions: asked, answered, ties, skipped
        self.updates: dict[str, Updates] = {}  # prepared for one stage, they serve all of its name
        self.stacks: dict[int, LearnerStack] = {}  # by the first of the learners
        self.stage, self.step, self.policy_step, self.round, self.iteration = 0, 0, 0, 0, 0
        self.unread: dict[str, Any] = {}  # metrics of a run that was stopped between an update and what follows it
        self.seconds = {"train": 0.0, "evaluate": 0.0}

    # Updates

    def _prepare(self, stage: Stage) -> Updates:
        """The updates of a stage, compiled where there are enough to pay for it."""
        if stage.name not in self.updates:
            engine = Engine(self.device, compile=self._is_compiled(stage), bf16=self._is_bf16(stage))
            generators = [replica.generator for replica in self.replicas]
            self.updates[stage.name] = engine.repeat(
                lambda: self._draw(stage), self._update_of(stage, engine), generators
            )
        return self.updates[stage.name]

    def _draw(self, stage: Stage) -> Any:
        """A batch of each replica, stacked where there are several; this process's share of it."""
        batches = [phase.draw(replica.data) for phase, replica in zip(stage.phases, self.replicas, strict=True)]
        batch = batches[0] if len(batches) == 1 else tree_map(lambda *parts: torch.stack(parts), *batches)
        return distributed.share(batch)

    def _draw_example(self, stage: Stage) -> Any:
        """Such a batch, without any change in what is drawn later."""
        states = [replica.generator.get_state() for replica in self.replicas]
        batch = self._draw(stage)
        for replica, state in zip(self.replicas, states, strict=True):
            replica.generator.set_state(state)
        return batch

    def _update_of(self, stage: Stage, engine: Engine) -> Callable[[Any], Any]:
        if len(stage.phases) == 1:
            return engine.prepare(stage.phases[0])
        learners = [learner_of(phase) for phase in stage.phases]
        if id(learners[0]) not in self.stacks:  # a second stack would take the learners' tensors from the first
            self.stacks[id(learners[0])] = LearnerStack(learners)
        stack = self.stacks[id(learners[0])]
        return engine.prepare_stack(stack, stage.phases[0], self._draw_example(stage))

    def _is_compiled(self, stage: Stage) -> bool:
        if is_eager(learner_of(stage.phases[0])):
            return False
        total = sum(other.steps for other in self.stages if other.name == stage.name)
        return wants_compile(self.compile, total)

    def _is_bf16(self, stage: Stage) -> bool:
        return self.precision.suits(learner_of(stage.phases[0]), self._draw_example(stage))

    def _forget_captured(self) -> None:
        """Labels or rewards have changed: captured graphs would read the old ones."""
        for updates in self.updates.values():
            updates.forget()

    # On entering a stage

    def _enter(self, stage: Stage) -> None:
        if stage.asks:
            self._ask()
        if stage.relabels:
            self._relabel()
        for phase, replica in zip(stage.phases, self.replicas, strict=False):
            if phase.before and stage.is_begin:
                phase.before(replica.data)
        if stage.plays:
            self._play(stage)
        for phase, replica in zip(stage.phases, self.replicas, strict=False):
            if phase.on_labels:
                phase.on_labels(replica.data)

    def _play(self, stage: Stage) -> None:
        """The policies play, on rank 0, and learn from these episodes of theirs from now on."""
        self.iteration += 1
        for phase, replica in zip(stage.phases, self.replicas, strict=True):
            assert phase.rollouts is not None
            measures, words = take_rollouts(phase.rollouts, replica, self.iteration, self.workers, self.device)
            replica.log.write("rollouts", self.policy_step, {"iteration": self.iteration, **measures})
            prefix = f"{replica.folder.name} " if len(self.replicas) > 1 else ""
            print(f"{prefix}rollouts {self.iteration}: {words}", flush=True)
        self._forget_captured()

    def _ask(self) -> None:
        asking = self.asking
        self._take_labels(lambda: asking.ask(self.round, self.replicas[0].reward))  # type: ignore[union-attr]
        self.round += 1

    def _refresh(self) -> None:
        """Raters go on answering, and take answers back, during training."""
        if self.counts:
            self._take_labels(lambda: self.asking.refresh())  # type: ignore[union-attr]

    def _take_labels(self, read: Callable[[], dict[str, float]]) -> None:
        """Reads labels on rank 0 and hands them to all replicas of all ranks, if they changed."""

        def read_all() -> tuple[Any, ...]:
            found = read()
            assert self.asking is not None
            return (found, self.asking.labels, self.asking.counts) if found else ({}, None, {})

        found, labels, counts = distributed.from_rank_0(read_all)
        if not found:
            return
        self.counts = counts
        for replica in self.replicas:
            replica.set_labels(labels)
            replica.log.write("answers", self.policy_step, {"round": self.round, **found})
        self._forget_captured()

    def _relabel(self) -> None:
        for replica in self.replicas:
            if replica.reward is not None:
                replica.table.relabel(replica.reward)
                measures = evaluate_reward(replica.data, replica.reward)
                replica.log.write("held_out", self.policy_step, {"round": self.round, **measures})
        self._forget_captured()

    # The run

    def run(self) -> list[dict[str, Any]]:
        """Trains to the end and returns the summary of each seed's evaluations. Raises UserError."""
        self._resume()
        while self.stage < len(self.stages):
            stage = self.stages[self.stage]
            if self.step == 0:
                self._save()
                self._enter(stage)
            if stage.steps:
                self._run_stage(stage)
            self.stage, self.step = self.stage + 1, 0
        self._save()
        found = [replica.summary() for replica in self.replicas]
        return [{**summary, "seconds": dict(self.seconds)} if summary else {} for summary in found]

    def ask_first(self) -> None:
        """Asks the first round and stops; a run in the same folder later starts with the same questions."""
        self._enter(self.stages[0])
        print(f"answers {', '.join(f'{n} {what}' for what, n in self.counts.items())}")

    def _run_stage(self, stage: Stage) -> None:
        compiling = stage.name not in self.updates and self._is_compiled(stage) and stage.phases[0].compiles
        updates = self._prepare(stage)
        bar = tqdm(
            total=stage.steps,
            initial=self.step,
            desc=self.name if stage.trains_policy else stage.name,
            unit="update",
            mininterval=0.5,
            disable=not distributed.is_rank_0(),
        )
        if compiling:
            bar.set_postfix_str("compiling")
        clock = Stopwatch(self.seconds)
        updates.go_on_from(self.unread)
        if self.unread:
            self._pause(stage, updates, clock, bar)
            self.unread = {}
        while self.step < stage.steps:
            with interrupts.deferred():
                updates_done = updates.run(self._updates_until_pause(stage))
                self.step += updates_done
                self.policy_step += updates_done * stage.trains_policy
                bar.update(updates_done)
            if interrupts.is_due():
                clock.stop("train")
                self._stop(updates)
            self._pause(stage, updates, clock, bar)
        clock.stop("train")
        bar.close()

    def _stop(self, updates: Updates) -> None:
        """Saves what an uninterrupted run has between an update and what follows it, and ends the run."""
        self._save_before_pause(updates)
        raise interrupts.Stopped

    def _save_before_pause(self, updates: Updates) -> None:
        """Saves what a run has between an update and what follows it."""
        self.unread = updates.state_dict()
        self._save()
        self.unread = {}

    def _pause(self, stage: Stage, updates: Updates, clock: "Stopwatch", bar: tqdm) -> None:
        """Logs, evaluates and saves, where it is time for that. An evaluation that is cut short is done anew."""
        is_last = self.step == stage.steps
        if self._is_evaluation_due(stage, is_last):
            clock.stop("train")
            self._save_before_pause(updates)
            clock.start()
        if self.step % self.schedule.log_every == 0 or is_last:
            self._log(stage, updates, clock, bar)
            self._refresh()
        if self._is_evaluation_due(stage, is_last):
            clock.stop("train")
            self._evaluate(stage, bar)
            clock.start()
        if self.step % self.schedule.checkpoint_every == 0 and not is_last:
            clock.stop("train")
            self._save()
            clock.start()

    def _updates_until_pause(self, stage: Stage) -> int:
        """How many updates follow before there is something else to do."""
        s = self.schedule
        ahead = [stage.steps - self.step, *(every - self.step % every for every in (s.log_every, s.checkpoint_every))]
        return min(*ahead, s.eval_every - self.policy_step % s.eval_every)

    def _log(self, stage: Stage, updates: Updates, clock: "Stopwatch", bar: tqdm) -> None:
        means, step = updates.read(), self.policy_step if stage.trains_policy else self.step
        seconds = self.seconds["train"] + clock.elapsed()
        for i, replica in enumerate(self.replicas):
            own = {name: value if len(self.replicas) == 1 else value[i] for name, value in means.items()}
            values = replica.log.write(stage.name, step, {**own, "seconds": seconds})
            self._check_finite(stage, step, values)
            if i == 0:
                bar.set_postfix({name: f"{value:.3g}" for name, value in list(values.items())[:3]})

    def _check_finite(self, stage: Stage, step: int, values: dict[str, Any]) -> None:
        """Raises UserError where a logged metric is no finite number: what trains is spoilt, and is not saved."""
        spoilt = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        if spoilt:
            raise UserError(
                f"training diverged: {', '.join(spoilt)} of {stage.name} became {values[spoilt[0]]} within the "
                f"{self.schedule.log_every} updates up to {step}; no policy was saved. Lower the learning rate "
                "(algo.lr=…, reward.lr=…), or look at the scales that only=data reports, and start in another run=…"
            )

    def _is_evaluation_due(self, stage: Stage, is_last: bool) -> bool:
        """Whether episodes are rolled out now: at the end of each of the algorithm's phases, and on the way."""
        if self.workers is None or learner_of(stage.phases[0]) is not self.replicas[0].algo:
            return False
        if not stage.trains_policy:
            return is_last
        return self.policy_step % self.schedule.eval_every == 0 or self.policy_step == self.schedule.steps

    def _evaluate(self, stage: Stage, bar: tqdm) -> None:
        assert self.workers is not None
        s, phase = self.schedule, stage.name
        is_final = stage.trains_policy and self.policy_step == s.steps
        for replica in self.replicas:
            began = time.perf_counter()
            episodes = s.final_episodes if is_final else s.eval_episodes
            result = asdict(found := evaluate(self.workers, replica.algo.policy, episodes, s.eval_seed))
            self.seconds["evaluate"] += time.perf_counter() - began
            replica.evaluations.append({"phase": phase, "step": self.policy_step, **result})
            of = {"of": phase, **result, "seconds": self.seconds["evaluate"]}
            replica.log.write("evaluate", self.policy_step, of)
            prefix = f"{replica.folder.name} " if len(self.replicas) > 1 else ""
            bar.write(f"{prefix}{bar.desc} {self.policy_step}: {found}")
            if stage.trains_policy and replica.is_last_best():
                save_policy(replica.algo.policy, replica.folder / "best.pt")

    # What is kept

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _save(self) -> None:
        if not distributed.is_rank_0():
            return
        position = {
            "stage": self.stage,
            "step": self.step,
            "policy_step": self.policy_step,
            "round": self.round,
            "iteration": self.iteration,
        }
        state = {
            "episodes": self.replicas[0].table.ids,
            "settings": self.settings,
            "position": position,
            "replicas": [replica.state_dict() for replica in self.replicas],
            "asking": None if self.asking is None else self.asking.state_dict(),
            "random": files.random_state(self.device),
            "unread": self.unread,
            "seconds": self.seconds,
        }
        files.save(self._path, state)

    def _resume(self) -> None:
        state = distributed.from_rank_0(lambda: files.load(self._path, self.device))
        if state is None:
            for replica in self.replicas:
                replica.log.rewind(0)
            return
        self._check_same(state)
        position = state["position"]
        self.stage, self.step, self.policy_step, self.round = (
            position[key] for key in ("stage", "step", "policy_step", "round")
        )
        self.unread = state.get("unread", {})
        self._resume_answers(state["asking"])
        try:
            for replica, own in zip(self.replicas, state["replicas"], strict=True):
                replica.load_state_dict(own)
        except (KeyError, RuntimeError, TypeError) as error:
            raise UserError(
                f"{self._path} was made with other settings; choose another run folder with run=…, or delete it"
            ) from error
        files.set_random_state(state["random"], self.device)
        self.iteration = position.get("iteration", 0)
        if self.step and self.stages[self.stage].plays:
            for phase, replica in zip(self.stages[self.stage].phases, self.replicas, strict=True):
                assert phase.rollouts is not None
                take_rollouts(phase.rollouts, replica, self.iteration, None, self.device)
        self.seconds = state["seconds"]
        if state["episodes"] != self.replicas[0].table.ids:
            self._relabel()

    def _resume_answers(self, state: dict[str, Any] | None) -> None:
        """Reads the labels that there were."""

        def read() -> tuple[Any, Any]:
            if self.asking is None:
                return None, {}
            self.asking.load_state_dict(state or {})
            return self.asking.labels, self.asking.counts

        labels, self.counts = distributed.from_rank_0(read)
        for replica in self.replicas if self.round else ():
            replica.set_labels(labels)

    def _check_same(self, state: dict[str, Any]) -> None:
        """Raises UserError where the checkpoint is of another run."""
        if "position" not in state:
            raise UserError(f"{self._path} is of an older version: choose another run folder with run=…, or delete it")
        has_grown = self._check_episodes(set(state["episodes"]), set(self.replicas[0].table.ids))
        old, new = state["settings"], self.settings
        if has_grown:  # by data of another recipe, perhaps
            old, new = ({k: v for k, v in part.items() if k not in ("data", "data_seed")} for part in (old, new))
        changed = files.differences(old, new)
        if changed:
            raise UserError(
                f"{self._path} was made with other settings ({', '.join(changed)}); choose another run folder with "
                "run=…, or delete it"
            )

    def _check_episodes(self, old: set[str], new: set[str]) -> bool:
        """Whether the data set has grown. Raises UserError where it is another one, or growing was not asked for."""
        if old == new:
            return False
        lost, added = len(old - new), len(new - old)
        if lost:
            raise UserError(
                f"{self._path} was made on another data set: {lost} of its {len(old)} episodes are missing and {added} "
                "are new; choose another run folder with run=…, or delete it"
            )
        if not self.grow:
            raise UserError(
                f"{self._path} was made on {len(old)} of these {len(new)} episodes: grow=true goes on with all of "
                "them, or choose another run folder with run=…"
            )
        return True


class Stopwatch:
    """Adds the time between `start` and `stop` to what it was given."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds = seconds
        self.start()

    def start(self) -> None:
        """Starts the measurement anew."""
        self.began = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.perf_counter() - self.began

    def stop(self, what: str) -> None:
        """Adds the seconds since `start` to `what`, and starts anew."""
        self.seconds[what] += self.elapsed()
        self.start()
