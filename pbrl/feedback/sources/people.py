"""People at the labelling page: a run waits for their first answers, and learns from the others as it trains."""

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from threading import Thread

from tqdm import tqdm

from pbrl.feedback.kinds import KINDS, SKIP, check_strengths, word_likeness
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.store import Store
from pbrl.ranges import Port, Share
from pbrl.settings import Query
from pbrl.types import Environment, UserError


class People:
    """Questions of a run for people: `wanted` answers each. Training goes on when `minimum` are there (None: all).

    With `serve` a page opens beside the run, at `port` or the next free one, for `rater`. `strengths` has P(better) for
    each strength of a preference (None: 1).
    """

    kinds = tuple(KINDS)
    pause_s = 0.5  # between reads of the store
    restarts = 3  # of a page that ends by itself
    apart: str | None = None  # a model that answers the same questions: its answers are not waited for

    def __init__(
        self,
        *,
        minimum: int | None,
        wanted: int,
        text: str | None,
        better: str,
        strength: bool,
        strengths: list[Share] | None,
        serve: bool,
        port: Port,
        rater: str,
    ):
        if wanted < 1 or (minimum is not None and minimum < 1):
            raise UserError("feedback.wanted and feedback.minimum must be at least 1")
        self.minimum, self.wanted = minimum, wanted
        self.words = {"text": text, "better": better, "strength": strength, "attributes": [], "stages": ["mark"]}
        self.selection = Selection(strengths=check_strengths(strengths))
        self.serve, self.port, self.rater = serve, port, rater
        self.where = "at the labelling page"
        self.page: subprocess.Popen | None = None

    def check(self, query: Query, env: Environment) -> None:
        """People answer questions of any kind."""

    def start(self, context: Context) -> None:
        """Opens the page on the run's questions, or says how to. Raises UserError if it does not start."""
        self.store: Store = context.store
        self.words["attributes"] = list(context.query.attributes or ())
        if context.query.kind == "triplet":
            self.words["text"] = self.words["text"] or word_likeness(self.words["attributes"])
        flags = [f"run={context.folder}", f"port={self.port}", f"rater={self.rater}", "attached=true"]
        if context.folder is None:
            self.where = "at a labelling page of this store"
        elif self.serve:
            self.flags = flags
            self.page, self.where = open_page(flags)
        else:
            self.where = f"at the page of `python -m pbrl.label {flags[0]}`"

    def form(self, question: Question) -> Question:
        """The question with what people read."""
        wording = KINDS[question.kind].wording(self.words)
        return replace(question, wording=wording, wanted=self.wanted, rater_kind="human")

    def answer(self, questions: Sequence[str]) -> None:
        """Waits until enough of these questions are answered."""
        enough = min(self.minimum or len(questions), len(questions))
        with tqdm(total=enough, desc=f"waiting for answers, {self.where}", unit="answer") as bar:
            while True:
                self._watch_page(bar)
                answers = [answer for answer in self.store.answers(questions) if answer.rater != self.apart]
                outcomes = [answer.value.outcome for answer in answers if answer.value]
                given = len(outcomes) - outcomes.count(SKIP)
                bar.update(min(given, enough) - bar.n)
                if given >= enough or not self.store.has_missing(questions):
                    return  # all are answered, though some raters could not tell
                time.sleep(self.pause_s)

    def _watch_page(self, bar: tqdm) -> None:
        """Opens the page again, where it was, if it has ended. Raises UserError if it goes on ending."""
        status = None if self.page is None else self.page.poll()
        if status is None:
            return
        if self.restarts < 1:
            raise UserError(
                f"the labelling page ended again (exit status {status}), and no answers can come: see what it said "
                "above. The same command goes on from here; no answer is lost"
            )
        self.restarts -= 1
        bar.write(f"the labelling page ended (exit status {status}): it is opened again")
        port = self.where.rstrip("/").rsplit(":", 1)[1]  # browsers that wait there find it again
        self.page, self.where = open_page([f"port={port}" if f.startswith("port=") else f for f in self.flags])
        bar.set_description(f"waiting for answers, {self.where}")

    def stop(self) -> None:
        """Closes the page."""
        if self.page is not None:
            self.page.terminate()


def open_page(flags: Sequence[str]) -> tuple[subprocess.Popen, str]:
    """A labelling page in a process beside, and where it is. Raises UserError if it does not start."""
    page = subprocess.Popen(
        [sys.executable, "-m", "pbrl.label", *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert page.stdout is not None
    for line in page.stdout:
        if line.startswith("answers "):
            print(line, end="", flush=True)
            Thread(target=_pass_on, args=[page.stdout], daemon=True).start()
            return page, f"at {line.split()[1]}"
    page.wait()
    time.sleep(0.1)  # its own message goes first
    raise UserError("the labelling page did not start: it says why above; feedback.serve=false goes on without it")


def _pass_on(lines: Iterable[str]) -> None:
    """Prints what the page says later; it would stop at a full pipe."""
    for line in lines:
        print(line, end="", flush=True)
