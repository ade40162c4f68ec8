"""`python -m pbrl.steer run=<folder> speed=0.8 height=null`: rolls out a planner of algo=aligndiff with these targets.

Prints what was asked for, what the attribute model reads, and what the environment measures in its own units, and
writes the episodes to steer.mp4, or to video=….mp4 or ….webp. Strengths lie between 0 and 1, the ends of what the data
have; null: any.

    python -m pbrl.steer run=runs/walker speed=0.8 episodes=2 steps=200
    python -m pbrl.steer run=runs/walker grid=speed,height              # one episode of each of 3 x 3 targets
    python -m pbrl.steer run=runs/lift grid=speed,height after=80       # nothing is asked for in the first 80 steps
    python -m pbrl.steer run=runs/walker speed=0.1 schedule=100:speed=0.9,200:height=0.2   # changes on the way
    python -m pbrl.steer run=runs/walker speed=0.8 say="a bit slower, and as gentle as possible"
    python -m pbrl.steer run=runs/walker live=true                      # sliders on a page, and the robot beside them
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from pbrl.data.frames import without_images
from pbrl.data.rollout import EpisodeRecorder, make_environment, state_of, to_observation
from pbrl.data.video import frames, write_mp4, write_webp
from pbrl.models.attributes import read_strengths
from pbrl.models.planner import Planner, Targets
from pbrl.models.policy import load_policy
from pbrl.steering.words import read_sentence
from pbrl.training.evaluate import evaluation_seeds
from pbrl.types import Environment, Episode, UserError

LEVELS = (0.0, 0.5, 1.0)  # of a grid
SIZES = {".mp4": (240, 180, 25), ".webp": (160, 120, 10)}  # of an episode in pixels, and frames a second at most
FILMED = ("episodes", "steps", "grid", "after", "schedule", "video")  # what a page has no use for
OPTIONS = ("run", "seed", *FILMED, "say", "live", "port")
Change = tuple[int, str, float | None]  # from which step on, attribute, strength


class Wish(NamedTuple):
    """Targets, and an episode that was played with them."""

    targets: dict[str, float | None]
    episode: Episode
    read: dict[str, float]  # the attribute model's strength, mean over the episode's windows
    measured: dict[str, float]  # mean over its steps, in the environment's units


def load_planner(folder: Path) -> tuple[Planner, dict[str, Any]]:
    """A run's planner and its environment's settings. Raises UserError."""
    policy: Any = load_policy(folder)
    if not isinstance(policy, Planner):
        raise UserError(f"{folder} holds a {type(policy).__name__}, which takes no targets: train with algo=aligndiff")
    try:
        return policy, without_images(yaml.safe_load((folder / "config.yaml").read_text())["env"])
    except (OSError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not the folder of a run ({error})") from error


def play(
    env: Environment,
    policy: Planner,
    targets: Targets,
    *,
    seed: int,
    steps: int,
    state: np.ndarray | None = None,
    schedule: Sequence[Change] = (),
) -> Episode:
    """An episode of at most `steps` steps, from the simulator's `state` [S] on if there is one. `schedule` changes
    targets on the way."""
    policy.reset()
    policy.set_targets(targets)
    obs, info = env.reset(seed=seed)
    if state is not None:
        obs = env.restore(seed, state)
    recorder = EpisodeRecorder(env, seed, obs, info)
    wanted = dict(targets)
    for t in range(steps):
        changed = {name: value for at, name, value in schedule if at == t}
        if changed:
            policy.set_targets(wanted := {**wanted, **changed})
        action = policy.act(to_observation(state_of(obs)[None].astype(np.float32)))[0].numpy()
        obs, reward, terminated, truncated, info = env.step(action)
        recorder.add(action, obs, reward, terminated, info)
        if terminated or truncated:
            break
    return recorder.episode("steered")


def examine(env: Environment, policy: Planner, targets: Targets, episode: Episode) -> Wish:
    """What the attribute model reads in an episode, and what the environment measures of it."""
    read = read_strengths(policy.strengths, policy.attributes, episode.obs)
    measured: dict[str, float] = {}
    if env.attributes and episode.state is not None:
        each = env.measure(episode.seed, episode.state)
        measured = {name: float(np.nanmean(v)) for name, v in each.items() if not np.isnan(v).all()}
    return Wish(dict(targets), episode, read, measured)


def steer(options: dict[str, Any], targets: dict[str, float | None]) -> list[Wish]:
    """Plays what the command asks for, prints a table and writes the video; or serves the page. Raises UserError."""
    folder = Path(options["run"]).expanduser()
    policy, settings = load_planner(folder)
    policy.set_targets(targets)  # refused before anything is played
    if options["say"]:
        targets = {**targets, **read_sentence(options["say"], policy.attributes, targets)}
    if options["live"]:
        serve_live(options, policy, settings, targets)
        return []
    wishes = [{**targets, **own} for own in grid_of(options["grid"], policy)]
    env, seeds = make_environment(settings), evaluation_seeds(options["episodes"], options["seed"])
    steps = options["steps"] or env.horizon
    found = []
    try:
        for wish, seed in product(wishes, seeds):
            asked = [(options["after"], name, strength) for name, strength in wish.items()]
            schedule = [*asked, *options["schedule"]]
            episode = play(env, policy, dict.fromkeys(wish), seed=seed, steps=steps, schedule=schedule)
            found.append(examine(env, policy, wish, episode))
            print(describe(found[-1], policy.attributes), flush=True)
        if options["video"]:
            path = options["video"] if isinstance(options["video"], Path) else folder / "steer.mp4"
            write_video(env, [one.episode for one in found], path, columns=len(options["grid"]))
    finally:
        env.close()
    return found


def serve_live(options: dict[str, Any], policy: Planner, settings: dict[str, Any], targets: Targets) -> None:
    """Serves the page on which targets change while the robot moves, until Ctrl-C. Raises UserError."""
    try:
        from pbrl.steering.server import serve
    except ImportError as error:
        raise UserError(f"the page needs a package more ({error.name}): `pip install pbrl[label]`") from error
    serve(settings, policy, targets, seed=options["seed"], port=options["port"])


def grid_of(names: Sequence[str], policy: Planner) -> list[dict[str, float | None]]:
    """Every combination of LEVELS of the named attributes. Raises UserError for more than two, or unknown ones."""
    policy.set_targets({**policy.targets, **dict.fromkeys(names)})
    if len(names) > 2:
        raise UserError(f"grid={','.join(names)}: a grid is of one attribute, or of two")
    return [dict(zip(names, levels, strict=True)) for levels in product(LEVELS, repeat=len(names))]


def describe(wish: Wish, attributes: Sequence[str]) -> str:
    """A line: what was asked for, read and measured of each attribute."""
    parts = []
    for name in attributes:
        asked, measured = wish.targets.get(name), wish.measured.get(name)
        parts.append(
            f"{name}: asked {'any' if asked is None else f'{asked:.2f}'}, read {wish.read[name]:.2f}"
            + ("" if measured is None else f", measured {measured:.3g}")
        )
    return f"seed {wish.episode.seed}, {len(wish.episode.action)} steps · " + " · ".join(parts)


def write_video(env: Environment, episodes: Sequence[Episode], path: Path, *, columns: int) -> None:
    """Writes the episodes: one after the other, or side by side where they are of a grid of one or two attributes."""
    width, height, fps = SIZES[path.suffix]
    every = max(1, round(env.control_hz / fps))
    try:
        films = [list(frames(env, episode, width=width, height=height, every=every)) for episode in episodes]
        write = write_webp if path.suffix == ".webp" else write_mp4
        write(path, tile(films) if columns else (frame for film in films for frame in film), env.control_hz / every)
    except (RuntimeError, UserError) as error:  # no renderer: the numbers are printed all the same
        print(f"no video: {error}")
        return
    print(f"written {path}")


def tile(films: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Films of F frames [H, W, 3] in rows of len(LEVELS); one that is over shows its last frame."""
    longest = max(map(len, films))
    whole = [[*film, *[film[-1]] * (longest - len(film))] for film in films]
    rows = [whole[i : i + len(LEVELS)] for i in range(0, len(whole), len(LEVELS))]
    blank = np.zeros_like(whole[0][0])
    return [
        np.concatenate([np.concatenate([*(film[t] for film in row), *[blank] * (len(LEVELS) - len(row))], 1)
                        for row in rows])
        for t in range(longest)
    ]  # fmt: skip


# The command line


def read_words(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, float | None]]:
    """key=value → options and targets. Raises UserError."""
    given: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise UserError(f"{word}: it takes key=value, as in run=runs/walker speed=0.8")
        given[name] = value
    if "run" not in given:
        raise UserError("run=… names the folder of a run of algo=aligndiff")
    targets = {name: read_strength(name, value) for name, value in given.items() if name not in OPTIONS}
    options = {
        "run": given["run"],
        "episodes": read_count("episodes", given.get("episodes", "1")),
        "steps": read_count("steps", given["steps"]) if "steps" in given else None,
        "seed": read_count("seed", given.get("seed", "0"), least=0),
        "grid": [name for name in given.get("grid", "").split(",") if name],
        "after": read_count("after", given.get("after", "0"), least=0),
        "schedule": read_schedule(given.get("schedule", "")),
        "video": read_video(given.get("video", "true")),
        "say": given.get("say", ""),
        "live": read_flag("live", given.get("live", "false")),
        "port": read_count("port", given.get("port", "8780")),
    }
    if options["live"] and (unused := [name for name in FILMED if name in given]):
        raise UserError(f"live=true is steered on its page: leave {', '.join(unused)} out")
    return options, targets


def read_schedule(words: str) -> list[Change]:
    """100:speed=0.9,200:height=null → from which steps on there are which targets. Raises UserError."""
    found: list[Change] = []
    for word in filter(None, words.split(",")):
        at, _, rest = word.partition(":")
        name, sign, value = rest.partition("=")
        if not sign:
            raise UserError(f"schedule={word}: it is step:attribute=strength, as in 100:speed=0.9")
        found.append((read_count("schedule", at, least=0), name, read_strength(name, value)))
    return found


def read_strength(name: str, value: str) -> float | None:
    """A strength, or None. Raises UserError."""
    return None if value == "null" else _number(name, value, float)


def read_video(words: str) -> bool | Path:
    """true, false or a file → whether a video is written, or where. Raises UserError."""
    if words not in ("true", "false") and Path(words).suffix not in SIZES:
        raise UserError(f"video={words}: it is true, false, or a file that ends with .mp4 or .webp")
    return words == "true" if words in ("true", "false") else Path(words).expanduser()


def read_flag(name: str, value: str) -> bool:
    """true or false. Raises UserError."""
    if value not in ("true", "false"):
        raise UserError(f"{name}={value}: it is true or false")
    return value == "true"


def read_count(name: str, value: str, least: int = 1) -> int:
    """A whole number. Raises UserError."""
    found = _number(name, value, int)
    if found < least:
        raise UserError(f"{name}={value}: at least {least}")
    return found


def _number(name: str, value: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except ValueError:
        whole = "a whole number" if kind is int else "a number from 0 to 1, or null"
        raise UserError(f"{name}={value}: it is {whole}") from None


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pbrl.steer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help=f"{', '.join(OPTIONS)}, or an attribute")
    try:
        steer(*read_words(parser.parse_args(argv).words))
    except UserError as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
