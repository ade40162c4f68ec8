"""A vision-language model proposes the stages of a task, from its instruction and a picture; GRAPE, arXiv:2411.19309.

What it says is checked as a file would be, against the keypoints that the environment has; where it does not fit, it is
told why and asked again. Requests and replies are kept in the transcript, and nothing is paid for twice.
"""

import re
from collections.abc import Callable, Mapping
from importlib import resources

import numpy as np
import yaml

from pbrl.stages.costs import check_keypoints
from pbrl.stages.description import parse_stages
from pbrl.types import Environment, UserError
from pbrl.vlm.client import Client
from pbrl.vlm.judging import Ask
from pbrl.vlm.messages import Picture, Reply, Request
from pbrl.vlm.paying import pay
from pbrl.vlm.pictures import encode
from pbrl.vlm.reading import read_words
from pbrl.vlm.settings import Settings
from pbrl.vlm.transcript import Transcript

TRIES = 4
MAX_TOKENS = 1500
FENCE = re.compile(r"```(?:ya?ml)?\s*\n(.*?)```", re.S)


async def propose(
    ask: Ask, task: str, instruction: str, picture: Picture, keypoints: Mapping[str, np.ndarray], more: Mapping
) -> str:
    """The stages of a task as yaml, as a file of stage descriptions has them. Raises UserError where none fit."""
    refused = ""
    for attempt in range(TRIES):
        parts = picture, prompt(instruction, keypoints, refused)
        reply = await ask(Request(parts, MAX_TOKENS, attempt=attempt, more=more))
        if reply.is_refused:
            raise UserError(f"the model would not describe {instruction!r}: {reply.refusal or 'it was filtered'}")
        try:
            return read_stages(reply, task, keypoints)
        except UserError as error:
            refused = f"\nYour last reply could not be used: {error}"
    raise UserError(f"of {TRIES} replies none was a stage description; the last one: {refused.strip()}")


def prompt(instruction: str, keypoints: Mapping[str, np.ndarray], refused: str) -> str:
    """What the model is asked."""
    places = "\n".join(f"- {name}: {', '.join(f'{x:.2f}' for x in path[0])}" for name, path in keypoints.items())
    template = (resources.files("pbrl.stages") / "prompt.txt").read_text()
    return template.format(instruction=instruction, keypoints=places, refused=refused)


def read_stages(reply: Reply, task: str, keypoints: Mapping[str, np.ndarray]) -> str:
    """The stages that a reply describes, checked. Raises UserError for one that describes none that fit."""
    words = read_words(reply)
    fenced = FENCE.findall(words)
    try:
        found = yaml.safe_load(fenced[-1] if fenced else words)
    except yaml.YAMLError as error:
        raise UserError(f"it is no YAML: {' '.join(str(error).split())[:200]}") from None
    found = found.get("stages", found) if isinstance(found, dict) else found
    stages = parse_stages({task: found}, "the reply")
    check_keypoints(stages[task], keypoints)
    return yaml.safe_dump({task: found}, sort_keys=False, default_flow_style=None, width=110)


async def propose_for(env: Environment, settings: Settings, seed: int, say: Callable[[str], object]) -> str:
    """Asks the model of the settings for an environment's task, shown as episode `seed` begins. Raises UserError."""
    env.reset(seed=seed)
    state = env.save_state()
    keypoints = {} if state is None else env.keypoints(seed, state[None])
    instruction = settings.task or env.instruction
    if not instruction:
        raise UserError("a model must be told the task: set vlm.task='open the drawer', or env.instruction")
    if not keypoints:
        raise UserError(f"{env.name} names no keypoints, so stages have nothing to speak of")
    picture = Picture(encode(env.render(settings.size, settings.size, settings.camera)))
    transcript, budget, client = Transcript(settings.cache_folder), settings.make_budget(), Client(settings.server())
    try:
        await client.check()

        async def ask(request: Request) -> Reply:
            kept = transcript.find(request, client.model)
            return kept or await pay(client, transcript, budget, client.model, request)

        found = await propose(ask, env.task, instruction, picture, keypoints, settings.more or {})
    finally:
        await client.close()
    spent = budget.summary()
    say(f"{client.model}: {', '.join(f'{key} {value:g}' for key, value in spent.items() if value is not None)}")
    return found
