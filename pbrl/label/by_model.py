"""A vision-language model labels a data set: what is asked, how much that would be, and what came of it."""

import asyncio
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pbrl.data import collect
from pbrl.data.frames import without_images
from pbrl.data.rollout import make_environment, worker_count
from pbrl.data.table import Table
from pbrl.feedback.sources.vlm import describe_spent
from pbrl.feedback.store.datasets import adopt, adopt_recordings
from pbrl.feedback.store.store import Store
from pbrl.label.command import CommandLine, training_command
from pbrl.label.questions import ask
from pbrl.types import UserError
from pbrl.vlm.labeller import Labeller
from pbrl.vlm.settings import Settings


def label(config: dict[str, Any], given: CommandLine) -> None:
    """Asks what is not asked yet, has the model answer what is open, says how to learn from it. Raises UserError."""
    settings = Settings.parse(config["vlm"])
    judge = settings.make_judge()
    if config["query"]["kind"] not in judge.kinds:
        raise UserError(
            f"vlm.judge={settings.judge} answers {', '.join(judge.kinds)}, not query.kind={config['query']['kind']}"
        )
    if not settings.replay:
        settings.server().key()  # before anything is made
    shown = {"env": config["env"], "data": config["data"], "folder": Path(config["data_dir"])}
    source = {**shown, "seed": config["data_seed"], "workers": worker_count(config["workers"])}
    episodes, content_hash = collect.load_dataset(**source)
    store, table = Store(config["store"]), Table(episodes)
    adopt(store, content_hash, table.ids, table.steps)
    adopt_recordings(store, episodes)
    dataset = store.register(table.ids)
    instruction = settings.task or find_instruction(config["env"])
    if not instruction and not all(table.instruction):
        raise UserError("a model must be told the task: set vlm.task='open the drawer', or env.instruction")
    if not config["only_answer"]:
        asked = ask(config, store, table, dataset)
        print(f"asked   {asked} questions")
    labeller = Labeller(store, table, settings, source, instruction=instruction)
    try:
        work = estimate(labeller, store) if config["dry_run"] else answer(labeller, store)
        asyncio.run(work)
    finally:
        labeller.close()
    if not config["dry_run"]:
        print(f"answers by {labeller.rater} in {store.address}; to learn from them:")
        print(f"  {training_command(given, config['query'], store.address)}")


def find_instruction(env: dict[str, Any]) -> str:
    """The environment's task in words; empty where there is no environment, as of recordings."""
    if not env or not env.get("_target_"):
        return ""
    made = make_environment(without_images(env))
    made.close()
    return made.instruction


async def answer(labeller: Labeller, store: Store) -> None:
    """Answers all open questions, with a progress bar. Raises UserError."""
    await labeller.begin()
    total = len(labeller.find_open())
    with tqdm(total=total, desc=f"{labeller.settings.judge} of {labeller.model}", unit="answer") as bar:
        working = asyncio.ensure_future(labeller.run(once=True))
        while not working.done():
            await asyncio.wait([working], timeout=0.2)
            bar.update(labeller.tally.answered + labeller.tally.skipped - bar.n)
    working.result()
    notices = labeller.client.notices if labeller.client is not None else []
    for line in [*notices, *labeller.tally.lines(), describe_spent(labeller)]:
        print(line)
    if labeller.ended:
        raise labeller.error or UserError(f"{labeller.ended}; the same command goes on")


async def estimate(labeller: Labeller, store: Store) -> None:
    """Prints what the questions that are left would take, all like the first: requests, tokens and their price."""
    left = labeller.find_open()
    total = len(left)
    if not left:
        print("no question is open: nothing would be asked")
        return
    (question,) = store.questions(left[:1]).values()
    views = await asyncio.gather(*(labeller.pictures.view(clip) for clip in question.clips))
    requests = labeller.judge.requests(question, views, labeller.task_of(question))
    each = [labeller.budget.estimate(request) for request in requests]
    prompt, reply = (total * sum(part) for part in zip(*each, strict=True))
    price = labeller.budget.price(prompt, reply)
    cost = (
        "no price is set: vlm.price.input, vlm.price.output" if price is None else f"${price:.2f} where all are so long"
    )
    print(
        f"{total} questions are open, {len(requests)} requests each, {len(requests[0].pictures)} pictures in the first"
    )
    print(f"about {prompt:,.0f} tokens of prompts and at most {reply:,.0f} of replies; {cost}")
