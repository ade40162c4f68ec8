"""`python -m pbrl.rollout policy=<run folder> episodes=50`: plays a trained policy, and says how often it succeeds.

    python -m pbrl.rollout policy=runs/my-vla env.phrasings=held_out env.layouts=0   # in another environment
    python -m pbrl.rollout policy=ws://gpu-box:8000 out=datasets/played              # of a server; kept as a data set
    python -m pbrl.rollout policy=server.yaml video=played.mp4                       # of a server that a file describes

Episodes that are kept are data as any: train.py data=file data.path=datasets/played, or python -m pbrl.label. The
environment is the one that the policy was trained in; env=… and env.… change it. `seed` chooses the episodes: 0 are
those of train.py's evaluations.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from pbrl.configs import compose_config
from pbrl.data import episodes as storage
from pbrl.data.frames import without_images
from pbrl.data.rollout import PolicyActor, RolloutWorkers, make_environment, worker_count
from pbrl.data.video import frames, write_mp4
from pbrl.models.policy import LikelihoodPolicy, is_served, load_policy
from pbrl.ranges import Count, Seed, check_values
from pbrl.training.evaluate import evaluation_seeds, summarize
from pbrl.types import Episode, UserError

OPTIONS = {"policy": "", "episodes": "50", "seed": "0", "workers": "-1", "out": "", "video": ""}
NUMBERS: dict[str, Any] = {"episodes": Count, "seed": Seed, "workers": int}
FILMED, FPS = 3, 25  # episodes of a video


def read_words(about: str | None, options: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The command line's key=value → the options among them, with defaults, and flags of the environment.

    Raises UserError. Where no policy is named, it shows what the program is `about`, and ends.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    given, flags = dict(options), []
    for word in parser.parse_args().settings:
        name, sign, value = word.partition("=")
        if not sign or (name not in options and name != "env" and not name.startswith("env.")):
            raise UserError(f"{word}: it takes {', '.join(f'{name}=…' for name in options)} and flags of env")
        if name in options:
            given[name] = value
        else:
            flags.append(word)
    if not given["policy"]:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    return given, flags


def environment_of(where: str | Path, flags: Sequence[str]) -> dict[str, Any]:
    """The settings of the environment that a policy was trained in, as flags change them. Raises UserError."""
    from pbrl.serving.client import load_served  # not above: few policies are served

    if any(flag.startswith("env=") for flag in flags):
        return compose_config(*flags)["env"]
    if is_served(where):
        env = load_served(where).env
        if env is None:
            raise UserError(f"{where} does not say which environment it was trained in: add env=…")
    else:
        folder = Path(where).expanduser()
        try:
            env = yaml.safe_load(((folder if folder.is_dir() else folder.parent) / "config.yaml").read_text())["env"]
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{where} is not the folder of a run ({error}): add env=…") from error
    changed = {name.removeprefix("env."): yaml.safe_load(value) for name, _, value in (f.partition("=") for f in flags)}
    unknown = set(changed) - set(env)
    if unknown:
        raise UserError(f"this environment has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(env))}")
    return {**env, **changed}


def main() -> None:
    """Plays, prints, and keeps what is to be kept. Raises UserError."""
    given, flags = read_words(__doc__, OPTIONS)
    numbers = {name: yaml.safe_load(given[name]) for name in NUMBERS}
    check_values(numbers, NUMBERS)
    out = Path(given["out"]).expanduser() if given["out"] else None
    if out is not None and out.exists():
        raise UserError(f"out={out} is there already: choose another name, or move it")
    film_to = Path(given["video"]).expanduser() if given["video"] else None
    for file in (out, film_to):  # before anything is played
        if file is not None:
            make_folder(file.parent)
    env, policy = environment_of(given["policy"], flags), load_policy(given["policy"])
    is_single = isinstance(policy, LikelihoodPolicy) and policy.is_single
    workers = RolloutWorkers(env, 1 if is_single else worker_count(numbers["workers"]))
    seeds = evaluation_seeds(numbers["episodes"], numbers["seed"])
    with tempfile.TemporaryDirectory(dir=None if out is None else out.parent) as videos:
        try:
            with tqdm(total=len(seeds), desc="playing", unit="episode") as bar:
                keeps = Path(videos) if out or film_to else None
                episodes = workers.collect(PolicyActor(policy), seeds, bar.update, keeps)
        finally:
            workers.close()
        print(f"{len(episodes)} episodes: {summarize(episodes)}")
        if out is not None:
            storage.write(out, episodes, {"env": env, "policy": given["policy"], "seed": numbers["seed"]})
            print(f"written {out}; learn from it with train.py data=file data.path={out}")
        if film_to is not None:
            film(env, episodes[:FILMED], film_to)


def film(env: dict[str, Any], episodes: Sequence[Episode], file: Path) -> None:
    """Writes episodes one after the other. Raises UserError, also where nothing renders."""
    simulation = make_environment(without_images(env))
    every = max(1, round(simulation.control_hz / FPS))
    try:
        shown = [frame for one in episodes for frame in frames(simulation, one, width=320, height=240, every=every)]
        write_mp4(file, shown, FPS)
    except RuntimeError as error:
        raise UserError(f"no video: {error}") from error
    finally:
        simulation.close()
    print(f"written {file}")


def make_folder(folder: Path) -> None:
    """Makes a folder. Raises UserError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another folder") from error


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
