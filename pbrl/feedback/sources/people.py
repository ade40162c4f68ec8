"""People at the labelling page: a run waits for their first answers, and learns from the others as it trains."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import KINDS, SKIP, Question, check_strengths
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
        flags = [f"run={context.folder}", f"port={self.port}", f"rater={self.rater}", "attached=true"]
        if context.folder is None:
            self.where = "at a labelling page of this store"
        elif self.serve:
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
                outcomes = [answer.value.outcome for answer in self.store.answers(questions) if answer.value]
                given = len(outcomes) - outcomes.count(SKIP)
                bar.update(min(given, enough) - bar.n)
                if given >= enough or not self.store.has_missing(questions):
                    return  # all are answered, though some raters could not tell
                time.sleep(self.pause_s)

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
            return page, f"at {line.split()[1]}"
    page.wait()
    time.sleep(0.1)  # its own message goes first
    raise UserError("the labelling page did not start: it says why above; feedback.serve=false goes on without it")
