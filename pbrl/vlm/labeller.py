"""A model as a rater: it takes open questions from the store by leases, as people do, and answers into the store.

Questions are in flight side by side; a reply is in the transcript before it is used, and an answer in the store before
its lease ends. So whenever the process is killed, nothing is paid for twice and nothing that was answered is lost.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pbrl.data.table import Table
from pbrl.feedback.kinds import SKIP, TIE
from pbrl.feedback.questions import Question, identity
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import Leased, find_open, lease, release
from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from pbrl.vlm.budget import BudgetReached
from pbrl.vlm.client import Client, NoReply
from pbrl.vlm.judging import Judge, Judgement, View, version_of
from pbrl.vlm.messages import Reply, Request
from pbrl.vlm.paying import pay
from pbrl.vlm.pictures import Pictures, Sight
from pbrl.vlm.settings import Settings
from pbrl.vlm.transcript import Transcript

LEASE_S = 600.0  # as long as all retries of a question may take
AHEAD = 2  # questions in flight for each request that may be
IDLE_S = 0.5  # between looks for new questions
LAST_S = 5.0  # for requests that are under way when it stops
MOST_FAILURES = 20  # questions in a row that got no reply: the server is gone


@dataclass
class Tally:
    """What came of the questions."""

    answered: int = 0
    ties: int = 0
    skipped: int = 0
    failed: int = 0
    unlike: int = 0  # both orders were said, and differ in which clip is preferred
    orders: list[tuple[float, float]] = field(default_factory=list)

    def add(self, judgement: Judgement) -> None:
        """Counts an answer."""
        outcome = judgement.value.outcome
        self.skipped += outcome == SKIP
        self.ties += outcome == TIE
        self.answered += outcome != SKIP
        said = [p for p in judgement.orders if p is not None]
        if len(said) == 2 == len(judgement.orders):
            self.orders.append((said[0], said[1]))
            self.unlike += (said[0] - 0.5) * (said[1] - 0.5) < 0

    def lines(self) -> list[str]:
        """Tie and refusal rates, and position bias, in words."""
        total = self.answered + self.skipped
        if not total:
            return ["nothing was answered"]
        found = [f"{total} answers, {self.ties / total:.0%} ties, {self.skipped / total:.0%} could not tell"]
        if self.orders:
            bias = sum(swapped - asked for asked, swapped in self.orders) / (2 * len(self.orders))
            found.append(
                f"position bias {100 * bias:+.1f} points towards the first, {self.unlike / len(self.orders):.0%} "
                "preferred another clip when the order was swapped"
            )
        return found + ([f"{self.failed} questions got no reply and stay open"] if self.failed else [])


class Labeller:
    """Answers the open questions of one data set, as the rater `rater`. `source` is what renderers take.

    `rater_kind` is vlm. `instruction` is the environment's; an episode's own and `vlm.task` go before it.
    """

    def __init__(self, store: Store, table: Table, settings: Settings, source: dict[str, Any], *, instruction: str):
        self.store, self.table, self.settings, self.instruction = store, table, settings, instruction
        self.judge: Judge = settings.make_judge()
        view = settings.view or self.judge.view
        self.sight = Sight(view, settings.size, settings.frames, settings.camera)
        self.transcript = Transcript(settings.cache_folder)
        self.pictures = Pictures(table, source, self.sight, settings.cache_folder, settings.workers)
        self.budget, self.tally = settings.make_budget(), Tally()
        self.client: Client | None = None if settings.replay else Client(settings.server())
        self.model = settings.model or ""
        self.ended: str | None = None  # why it answers no more
        self.error: UserError | None = None
        self.dataset = store.register(table.ids)
        self._tasks: dict[str, asyncio.Task[Answer | None]] = {}
        self._unanswered: set[str] = set()  # without a reply: not asked again by this process
        self._failures = 0
        self._paying: dict[str, asyncio.Future[Reply]] = {}
        self._key = AnswerKey(settings.answer_key, table) if settings.answer_key else None

    # Who it is

    async def begin(self) -> None:
        """Finds the server and its model, and makes the rater known. Raises UserError."""
        if self.client is not None:
            await self.client.check()
            self.model = self.client.model
        elif not self.model:
            raise UserError("vlm.replay=true plays back what one model replied: name it with vlm.model=…")
        self.store.add_rater(self.rater, "vlm", self.about)

    @property
    def rater(self) -> str:
        """Its name in the store, by all that decides its answers."""
        return f"{self.model.rsplit('/', 1)[-1][:40].strip() or 'vlm'}-{identity(self.about)[:8]}"

    @property
    def about(self) -> dict[str, Any]:
        """What decides its answers: with anything else it is another rater."""
        own = {name: getattr(self.settings, name) for name in ("judge", "swap", "options", "task", "more")}
        prompt = version_of(self.judge.prompt)
        return {"model": self.model, "prompt": prompt, **own, **asdict(self.sight), "look": self.pictures.digest}

    # Asking

    async def ask(self, request: Request) -> Reply:
        """A reply, from the transcript or paid for. Raises UserError, NoReply or BudgetReached."""
        kept = self.transcript.find(request, self.model)
        if kept is not None:
            self.budget.kept += 1
            return kept
        if self.client is None:
            raise UserError(f"vlm.replay=true, and {self.transcript.file} has no reply to this request")
        key = request.key(self.model)
        if key not in self._paying:  # two questions may show the same
            self._paying[key] = asyncio.ensure_future(self._pay(request))
            self._paying[key].add_done_callback(lambda _: self._paying.pop(key, None))
        return await asyncio.shield(self._paying[key])

    async def _pay(self, request: Request) -> Reply:
        assert self.client is not None
        return await pay(self.client, self.transcript, self.budget, self.model, request)

    # Answering

    async def run(self, once: bool) -> None:
        """Answers until there are no open questions (`once`) or for ever; sets `ended` and `error` when it stops."""
        try:
            await self._run(once)
        except BudgetReached as reached:
            self.ended = str(reached)
        except UserError as error:
            self.ended, self.error = str(error), error
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            if self._paying:  # a reply that is paid for is kept
                await asyncio.wait(self._paying.values(), timeout=LAST_S)
            await asyncio.to_thread(release, self.store, self.rater)
            if self.client is not None:
                await self.client.close()

    async def _run(self, once: bool) -> None:
        out_of_budget: BudgetReached | None = None
        while True:
            if out_of_budget is None:
                try:
                    await self._take_questions()
                except BudgetReached as reached:  # what is in flight is paid for: it is answered
                    out_of_budget = reached
            if not self._tasks:
                if out_of_budget is not None:
                    raise out_of_budget
                if once:
                    return
                await asyncio.sleep(IDLE_S)
                continue
            done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            try:
                await self._keep(done)
            except BudgetReached as reached:
                out_of_budget = reached

    async def _take_questions(self) -> None:
        """Leases questions until enough are in flight."""
        room = AHEAD * self.settings.concurrency - len(self._tasks)
        if room < max(1, self.settings.concurrency // 2) and self._tasks:
            return
        wanted = AHEAD * self.settings.concurrency + len(self._unanswered)
        for kind in self.judge.kinds:
            about = {"dataset": self.dataset, "kind": kind}
            found: list[Leased] = await asyncio.to_thread(
                lambda about=about: lease(self.store, self.rater, wanted, seconds=LEASE_S, **about)
            )
            for one in found:
                if one.id not in self._tasks and one.id not in self._unanswered:
                    self.budget.begin_question()
                    self._tasks[one.id] = asyncio.create_task(self._answer(one.id, one.question))

    async def _keep(self, done: set[asyncio.Task[Answer | None]]) -> None:
        """Writes answers to the store. Raises what stops the labeller, after what was answered is kept."""
        answers, stop = [], None
        for name in [name for name, task in self._tasks.items() if task in done]:
            task = self._tasks.pop(name)
            error = task.exception()
            if error is None:
                answer = task.result()
                answers += [answer] if answer else []
                self._failures = 0 if answer else self._failures + 1
                self._unanswered |= set() if answer else {name}
            elif isinstance(error, BudgetReached):
                stop = stop or error
                self._unanswered.add(name)
            else:
                stop = error
        if answers:
            await asyncio.to_thread(self.store.append, answers)
        if stop is not None:
            raise stop
        if self._failures >= MOST_FAILURES:
            raise UserError(
                f"{self.settings.base_url} has not answered {MOST_FAILURES} questions in a row: see whether the server "
                "runs, and start again with the same command; nothing is paid for twice"
            )

    async def _answer(self, name: str, question: Question) -> Answer | None:
        """The answer to a question; None where the server gave no reply."""
        views = await asyncio.gather(*(self.pictures.view(clip) for clip in question.clips))
        if self._key is not None:
            await asyncio.to_thread(self._key.add, question, views, self.sight)
        spent: list[Reply] = []

        async def ask(request: Request) -> Reply:
            spent.append(await self.ask(request))
            return spent[-1]

        try:
            judgement = await self.judge.judge(ask, question, views, self.task_of(question))
        except NoReply:
            self.tally.failed += 1
            return None
        if spent and all(reply.is_kept for reply in spent):
            self.budget.return_question()
        self.tally.add(judgement)
        return self._to_answer(name, judgement, spent)

    def _to_answer(self, name: str, judgement: Judgement, spent: Sequence[Reply]) -> Answer:
        tokens = [sum(r.prompt_tokens for r in spent), sum(r.reply_tokens for r in spent)]
        about = {"orders": list(judgement.orders), "tokens": tokens, "cost": self.budget.price(*tokens)}
        about |= {"prompt": version_of(self.judge.prompt), **judgement.detail}
        value = judgement.value._replace(detail={**(judgement.value.detail or {}), "vlm": about})
        seconds = sum(reply.seconds for reply in spent)
        return Answer(identity("answer", name, self.rater), name, self.rater, value, seconds=seconds)

    def task_of(self, question: Question) -> str:
        """The task in words: the setting, else the episode's own instruction, else the environment's."""
        if self.settings.task:
            return self.settings.task
        own = self.table.instruction[self.table.ids.index(question.clips[0].episode)]
        return own or self.instruction

    def find_open(self) -> list[str]:
        """The questions that are left for it to answer; without a model's name, also those that it has answered."""
        kinds = [find_open(self.store, self.rater, "vlm", dataset=self.dataset, kind=k) for k in self.judge.kinds]
        return [question for found in kinds for question in found]

    def close(self) -> None:
        """Stops the processes that draw."""
        self.pictures.close()


class AnswerKey:
    """What each picture shows, by its hash, for a simulated judge: the true reward, which no model is told.

    A line of the file is {"picture": SHA-256, "value": mean true reward of the steps that are shown}.
    """

    def __init__(self, file: str, table: Table):
        self.path, self.table = Path(file), table
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.known: set[str] = set()

    def add(self, question: Question, views: Sequence[View], sight: Sight) -> None:
        """Writes the values of a question's pictures."""
        lines: list[Mapping[str, Any]] = []
        for clip, view in zip(question.clips, views, strict=True):
            row = self.table.row(clip)
            each = [row + step for step in sight.steps(clip.length)]
            values = self.table.reward[each if len(view.pictures) > 1 or sight.view == "frame" else
                                       list(range(row, row + clip.length))].tolist()  # fmt: skip
            shown = values if len(view.pictures) > 1 else [sum(values) / len(values)]
            for picture, value in zip(view.pictures, shown, strict=True):
                if picture.id not in self.known:
                    self.known.add(picture.id)
                    lines.append({"picture": picture.id, "value": value})
        if lines:
            with self.path.open("a") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
