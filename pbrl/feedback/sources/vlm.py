"""A vision-language model answers a run's questions, beside the training, as a rater of the store (RL-VLM-F).

Wang et al. 2024, arXiv:2402.03681; offline: Venkataraman et al. 2024, arXiv:2411.05273. With `reward=image algo=iql`
the answers become image rewards, with `algo=cpl` a policy straight away (PLARE, arXiv:2507.23391).
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from pbrl.feedback.kinds import SKIP
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question
from pbrl.feedback.sources.context import Context
from pbrl.ranges import Count
from pbrl.settings import Query
from pbrl.types import Environment, UserError
from pbrl.vlm.labeller import Labeller
from pbrl.vlm.settings import Settings


class VLM:
    """Training goes on when `minimum` answers to a round are there (None: all); it learns from the rest as they come.

    `vlm` are the settings of the model; see pbrl/vlm/settings.py.
    """

    pause_s = 0.1  # between reads of the store

    def __init__(self, *, vlm: dict[str, Any], minimum: Count | None):
        self.settings, self.minimum = Settings.parse(vlm), minimum
        self.judge = self.settings.make_judge()
        self.kinds = self.judge.kinds
        self.selection = Selection()
        self.labeller: Labeller | None = None
        self.working: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def check(self, query: Query, env: Environment) -> None:
        """Raises UserError where the judge cannot answer what is asked, or the task is not told in words."""
        if query.kind not in self.kinds:
            raise UserError(
                f"vlm.judge={self.settings.judge} answers {', '.join(self.kinds)}, not query.kind={query.kind}: choose "
                "another of both"
            )
        if not (self.settings.task or env.instruction):
            raise UserError("a model must be told the task: set vlm.task='…' or the environment's env.instruction='…'")
        if not self.settings.replay:
            self.settings.server().key()

    def start(self, context: Context) -> None:
        """Finds the server and begins to answer in a thread beside. Raises UserError."""
        if context.source is None:
            raise UserError("feedback=vlm renders clips, for which a run's data set is needed: use train.py or "
                            "`python -m pbrl.label.vlm`")  # fmt: skip
        self.store = context.store
        self.labeller = Labeller(
            context.store, context.table, self.settings, context.source, instruction=context.instruction
        )
        self.began = threading.Event()
        self.thread = threading.Thread(target=self._run, args=[self.labeller], daemon=True, name="vlm")
        self.thread.start()
        self.began.wait()
        if self.labeller.error is not None:
            raise self.labeller.error
        self.selection = Selection(rater=self.labeller.rater)

    def _run(self, labeller: Labeller) -> None:
        async def work() -> None:
            task = asyncio.current_task()
            assert task is not None
            self.working = asyncio.get_running_loop(), task
            try:
                await labeller.begin()
            except UserError as error:
                labeller.ended, labeller.error = str(error), error
                return
            finally:
                self.began.set()
            await labeller.run(once=False)

        try:
            asyncio.run(work())
        except asyncio.CancelledError:
            pass
        except Exception as error:
            labeller.ended, labeller.error = str(error), UserError(f"the labeller stopped: {error!r}")
        finally:
            self.began.set()

    def form(self, question: Question) -> Question:
        """The question, for models of this kind."""
        return replace(question, rater_kind="vlm")

    def answer(self, questions: Sequence[str]) -> None:
        """Waits until enough of these questions are answered, or no more can be. Raises UserError where none are."""
        assert self.labeller is not None
        enough = min(self.minimum or len(questions), len(questions))
        name = f"{self.settings.judge} of {self.labeller.model}"
        with tqdm(total=enough, desc=f"asking for {name}", unit="answer") as bar:
            while True:
                given = self._count(questions)
                bar.update(min(given, enough) - bar.n)
                if given >= enough or not self.store.has_missing(questions):
                    break
                if self.labeller.ended is not None or not self.thread.is_alive():
                    self._say_why(self._count(questions), bar)
                    break
                time.sleep(self.pause_s)
        for line in [*self._notices(), *self.labeller.tally.lines(), self._spent()]:
            print(f"vlm     {line}", flush=True)

    def _count(self, questions: Sequence[str]) -> int:
        answers = self.store.answers(questions, rater=self.selection.rater)
        return sum(answer.value is not None and answer.value.outcome != SKIP for answer in answers)

    def _say_why(self, given: int, bar: tqdm) -> None:
        """Goes on with the answers there are, or raises UserError where there are none."""
        assert self.labeller is not None
        if self.labeller.error is not None or not given:
            raise self.labeller.error or UserError(str(self.labeller.ended))
        bar.write(f"WARNING {self.labeller.ended}: training goes on with {given} answers")

    def _notices(self) -> list[str]:
        assert self.labeller is not None
        return self.labeller.client.notices if self.labeller.client is not None else []

    def _spent(self) -> str:
        assert self.labeller is not None
        return describe_spent(self.labeller)

    def stop(self) -> None:
        """Ends the thread and gives its leases back."""
        if self.labeller is None:
            return
        if self.working is not None and self.thread.is_alive():
            loop, task = self.working
            loop.call_soon_threadsafe(task.cancel)
            self.thread.join(10)
        self.labeller.close()


def describe_spent(labeller: Labeller) -> str:
    """What was paid, in words."""
    budget = labeller.budget
    tokens = f"{budget.prompt_tokens:,} + {budget.reply_tokens:,} tokens"
    cost = "" if budget.cost is None else f", ${budget.cost:.4f}"
    return f"{budget.requests} requests paid ({tokens}{cost}), {budget.kept} replies kept from before"
