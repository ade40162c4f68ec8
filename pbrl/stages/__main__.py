"""A model proposes the stages of a task: `python -m pbrl.stages env=franka/lift vlm=openai vlm.model=… --out own.yaml`.

    python -m pbrl.stages env=franka/clutter --check own.yaml     # … or says whether a file of yours fits the task

Flags are those of train.py; `seed` is the episode whose beginning is shown. Read what it proposes before you use it.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from pbrl.configs import compose_config
from pbrl.data.rollout import make_environment
from pbrl.stages.costs import score_stages
from pbrl.stages.description import load_stages
from pbrl.types import Environment, UserError


def main() -> None:
    """Proposes, or checks. Raises UserError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a new file for what is proposed")
    parser.add_argument("--check", help="a stage description that comes with pbrl, or a file, to look at instead")
    parser.add_argument("flags", nargs="*", help="of train.py: env=…, vlm=…, seed=…")
    given = parser.parse_intermixed_args()
    if given.out and given.out.exists():
        raise UserError(f"--out {given.out} is there already: choose another name, or move it")
    config = compose_config(*given.flags)
    env = make_environment(config["env"])
    seed = int(config["seed"])
    try:
        if given.check:
            print(check(given.check, env, seed))
            return
        from pbrl.stages.propose import propose_for  # not above: a file is checked without what asks models
        from pbrl.vlm.settings import Settings

        found = asyncio.run(propose_for(env, Settings.parse(config["vlm"]), seed, print))
    finally:
        env.close()
    print(found)
    if given.out:
        given.out.write_text(f"# {env.name}, as a model proposed it\n{found}")
        print(f"written to {given.out}; learn by it with algo=tpo algo.stages=1 algo.description={given.out}")


def check(name: str, env: Environment, seed: int) -> str:
    """What an episode that stands still costs by a file, as a sentence. Raises UserError where it does not fit."""
    env.reset(seed=seed)
    stages = load_stages(name)
    if env.task not in stages:
        raise UserError(f"{name} has no stages of {env.task}; it has those of {', '.join(stages)}")
    state = env.save_state()
    keypoints = {} if state is None else env.keypoints(seed, state[None])
    score = score_stages(stages[env.task], keypoints, env.control_hz)
    return f"{name} fits {env.name}: {len(stages[env.task])} stages; where nothing moves they score {score:.2f} of 1"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
