"""People at the labelling page: a run waits for their first answers, and hears the others as it trains."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pbrl.feedback.questions import check_sureness
from pbrl.types import UserError

TEXTS = {
    "pair": "Which clip is better?",
    "rating": "How good is this?",
    "ranking": "Order the clips from best to worst",
    "attributes": "Which clip has more of it?",
    "triplet": "Which clip is more like the first?",
    "spans": "Where is it good, where is it bad?",
}


class Human:
    """Questions of a run for people: `wanted` answers each. A round begins when `minimum` are there (None: all).

    A ranking is of `clips`. With `serve` a page opens beside the run, at `port` or the next free one, for `rater`.
    """

    needs_value = False
    pause_s = 0.5

    def __init__(
        self, *, minimum: int | None, wanted: int, text: str | None, better: str, strength: bool,
        sureness: list[float] | None, clips: int, serve: bool, port: int, rater: str,
    ):  # fmt: skip
        if wanted < 1 or (minimum is not None and minimum < 1):
            raise UserError("feedback.wanted and feedback.minimum must be at least 1")
        if not 3 <= clips <= 5:
            raise UserError(f"feedback.clips={clips}: a ranking is of 3 to 5 clips")
        self.minimum, self.wanted, self.clips = minimum, wanted, clips
        self.text, self.better, self.strength, self.sureness = text, better, strength, check_sureness(sureness)
        self.serve, self.port, self.rater = serve, port, rater
        self.where = "at the labelling page"

    def wording(self, kind: str) -> dict[str, Any]:
        """What people read."""
        extra = {"better": self.better, "strength": self.strength} if kind == "pair" else {}
        return {"text": self.text or TEXTS[kind], **extra}

    def open_page(self, folder: Path) -> subprocess.Popen | None:
        """Starts the page on a run's questions, or says how to."""
        flags = [f"run={folder}", f"port={self.port}", f"rater={self.rater}", "attached=true"]
        if not self.serve:
            self.where = f"at the page of `python -m pbrl.label {flags[0]}`"
            return None
        command = [sys.executable, "-m", "pbrl.label", *flags]
        page = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert page.stdout is not None
        for line in page.stdout:
            if line.startswith("answers "):
                self.where = f"at {line.split()[1]}"
                print(line, end="", flush=True)
                return page
        page.wait()
        time.sleep(0.1)  # what it had to say goes first
        raise UserError("the labelling page did not start: it says why above; feedback.serve=false goes on without it")
