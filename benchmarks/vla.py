"""The small vision-language-action policy: how fast it decides, and what it learns from its own episodes.

    python -m benchmarks.vla --parts speed vision
    python -m benchmarks.vla --parts learning              # three seeds of each method; `--jobs` at a time

`speed`: CPU-seconds to decide a chunk, of one process in turns: number by number anew each time, with a key-value
cache, and in parallel. `vision`: CPU-seconds of an update of TPO on a model of SmolVLM-256M's sizes and random weights,
with what its frozen image encoder made of the images kept, or computed anew. `sentences`: how often an instruction that
no training had is nearest to one of its own task, by common words or by a frozen sentence encoder's cosine, and
CPU-seconds of a clone's gradient with either. `learning`: a cube is put down between two
glasses (franka/clutter), from clumsy demonstrations of which half succeed. A clone (SFT) is made once for each seed;
methods then play equally many episodes. `mt10`: a clone of 500 demonstrations of ten tasks, in scenes of training, in
others, told in words that no training had, and told another task's words; and a clone of nine tasks on the tenth.
`words`: such clones that learn words, beside those told by a frozen sentence encoder (policy.sentences=minilm).
Finished runs are not repeated. Writes `benchmarks/results/vla.jsonl`, prints tables in Markdown, draws docs/vla.png.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.report import RESULTS
from pbrl.algos.tpo import Batch
from pbrl.configs import compose_config
from pbrl.data.rollout import LOCKSTEP, PolicyActor, RolloutWorkers, stack_observations
from pbrl.models.policy import load_policy
from pbrl.models.sentences import load_sentences
from pbrl.models.text import tokenize, vocabulary_of, words_of
from pbrl.models.vla import VLAPolicy
from pbrl.objectives import Objective, bradley_terry
from pbrl.processor import processor_name
from pbrl.run.build import build as build_part
from pbrl.training.evaluate import evaluation_seeds
from pbrl.types import Environment, Observation, Policy, Segment, Spec, TrajectoryComparisons
from sim.instructions import PHRASINGS
from sim.multitask import SETS

FILE = RESULTS / "vla.jsonl"
PARTS = ("speed", "vision", "sentences", "learning", "mt10", "words")
PICTURE = Path(__file__).parent.parent / "docs" / "vla.png"
FOLDER = Path("runs/benchmark/vla")
DATA = ["env=franka/clutter", "data=offset", "data.success=null", "data.behaviour.strength=0.015",
        "data.behaviour.bias=[0,0,0]", "data.behaviour.hold=null", "data.behaviour.noise=0.05", "data.episodes=200",
        "policy=vla", "policy.width=96", "policy.layers=2"]  # fmt: skip
SFT = ["algo=bc", "algo.lr=1e-3", "algo.batch_size=96", "steps=1500", "eval_every=1500"]
PLAYED = ["algo.iterations=3", "algo.scenes=60", "algo.samples=4", "steps=150", "eval_every=150", "eval_episodes=10",
          "final_episodes=10"]  # fmt: skip
TPO, STAGES = ["algo=tpo", *PLAYED, "algo.lr_after=2e-4"], ["algo.stages=5", "algo.description=clutter"]
METHODS = {
    "TPO, success": TPO,
    "TPO, success and stages": [*TPO, *STAGES, "algo.margin=0.3"],
    "TPO, success and confidence": [*TPO, "algo.confidence=1"],
    "TPO, stage by stage": [*TPO, *STAGES, "algo.margin=0.3", "algo.compare=stages"],
    "TPO, branches": [*TPO, "algo.compare=branches", "algo.branch=4"],
    "TPO, any two scenes": [*TPO, "algo.same_scene=false"],
    "TPO, no divergence": [*TPO, "algo.kl_weight=0"],
    "TPO, wrong answers": [*TPO, "algo.mistake=1"],
    "KTO, success": [*TPO, "objective=kto"],
    "filtered cloning": ["algo=filtered_bc", *PLAYED],
    "filtered cloning, all iterations": ["algo=filtered_bc", *PLAYED, "algo.keep=true"],
    "weighted cloning": ["algo=filtered_bc", *PLAYED, "algo.clone=weighted"],
}
MT10 = ["env=multitask/mt10", "data=expert", "policy=vla", "env.layouts=50", *SFT, "algo.batch_size=128", "steps=2000",
        "eval_every=2000"]  # fmt: skip
LEFT_OUT = "window-close"
NINE = [task for task in SETS["mt10"] if task != LEFT_OUT]
MT10_TESTS = {  # flags of the environment, and whether it is told what the next task is
    "scenes of training": ({}, False),
    "other scenes": ({"layouts": 0}, False),
    "other words": ({"layouts": 0, "phrasings": "held_out"}, False),
    "words of another task": ({"layouts": 0}, True),
}
READERS = {"learnt words": ("mt10", []), "minilm": ("mt10-minilm", ["policy.sentences=minilm"])}  # a run's name, flags
WORDS_TESTS = {**MT10_TESTS, "new words": ({"layouts": 0, "phrasings": "new_words"}, False)}
EPISODES = 96  # of a test, in scenes that nothing was learnt in
MEASURES = {
    "success": "success, %",
    "collided": "episodes that touched a glass, %",
    "contact_steps": "steps in contact",
}
DECIDED = {"horizon": 8, "execute": 8, "bins": 256, "width": 128, "layers": 3, "heads": 4, "channels": 16,
           "temperature": 1.0}  # fmt: skip


def measure_speed(rounds: int = 15) -> dict[str, Any]:
    """CPU-seconds of one decision, medians over rounds in which all take turns, on one thread."""
    torch.set_num_threads(1)
    spec = Spec(4, 4, (0.0,) * 4, (1.0,) * 4, 120, {"corner2": (48, 48, 3), "gripperPOV": (48, 48, 3)}, False, ("a",))
    parallel = VLAPolicy(spec, decode="parallel", **DECIDED)
    in_turn = VLAPolicy(spec, decode="autoregressive", **DECIDED)
    images = {name: torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8) for name in spec.images}
    obs = Observation(torch.randn(1, 4), images, {"tokens": torch.ones(1, 16, dtype=torch.long)})
    ways = {
        "anew": lambda: in_turn.draw_bins(obs, None, cached=False),
        "cache": lambda: in_turn.draw_bins(obs, None),
        "parallel": lambda: parallel.draw_bins(obs, None),
    }
    with torch.no_grad():
        assert torch.equal(ways["anew"](), ways["cache"]()), "the same actions"
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, decide in ways.items():
                decide()
                began = time.process_time()
                decide()
                taken[name].append(time.process_time() - began)
    seconds = {name: float(np.median(own)) for name, own in taken.items()}
    ratios = {f"{name}_ratio": float(np.median(np.divide(taken["anew"], own))) for name, own in taken.items()}
    return {"part": "speed", "processor": processor_name(), "cpu_seconds": seconds, **ratios, "git": revision()}


SMOLVLM = {  # SmolVLM-256M-Instruct's config.json
    "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
               "image_size": 512, "patch_size": 16},
    "text": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "scale": 4,
    "rows": 48_000,
}  # fmt: skip


def measure_vision(rounds: int = 3) -> dict[str, Any]:
    """CPU-seconds of an update of TPO on one pair of episodes of two decisions, medians of turns on one thread."""
    from pbrl.models.hf_vla import TokenVLA
    from tests.models.vision_language import idefics3

    torch.set_num_threads(1)
    spec = Spec(4, 4, (0.0,) * 4, (1.0,) * 4, 120, {"corner2": (224, 224, 3)}, False, ("open",))
    settings = compose_config("policy=hf_vla", "policy.statistics=unit", "policy.freeze_vision=true")["policy"]
    with tempfile.TemporaryDirectory() as folder:
        idefics3(Path(folder), **SMOLVLM)
        del settings["_target_"]
        policy = TokenVLA(spec, **{**settings, "path": folder})
    learner = build_part(compose_config("algo=tpo")["algo"], spec, policy=policy, objective=Objective(bradley_terry))
    images = {"corner2": torch.randint(0, 256, (1, 2, 2, 224, 224, 3), dtype=torch.uint8)}
    obs = Observation(torch.randn(1, 2, 2, 4), images, {"tokens": torch.full((1, 2, 2, 16), 2)})
    chunks = Segment(obs, torch.rand(1, 2, 2, 1, 4) * 2 - 1, torch.ones(1, 2, 2, 1))
    own = TrajectoryComparisons(
        chunks,
        torch.ones(1),
        torch.ones(1),
        torch.zeros(1, 2, 2),
        torch.ones(1, 2, 2),
        torch.ones(1, 2, dtype=torch.bool),
    )
    data = Segment(Observation(*(take_first(part) for part in obs)), chunks.action[:, 0, :1, 0], torch.ones(1, 1))
    taken: dict[str, list[float]] = {"anew": [], "kept": []}
    for _ in range(rounds):
        for way, own_taken in taken.items():
            if way == "anew":
                policy.vlm.vision.forget()  # type: ignore[union-attr]
            began = time.process_time()
            learner.update(Batch(own, data))
            own_taken.append(time.process_time() - began)
    seconds = {way: float(np.median(own_taken)) for way, own_taken in taken.items()}
    ratio = float(np.median(np.divide(taken["anew"], taken["kept"])))
    return {"part": "vision", "processor": processor_name(), "cpu_seconds": seconds, "ratio": ratio, "git": revision()}


def measure_sentences(rounds: int = 15) -> dict[str, Any]:
    """Shares of MT10's other instructions that are nearest to one of their own task, and what a gradient takes."""
    torch.set_num_threads(1)
    tasks = {told: task for task, own in PHRASINGS.items() for told in own.training}
    with tempfile.TemporaryDirectory() as folder:
        sentences = load_sentences("minilm", tasks, folder=Path(folder))
    assert sentences is not None
    nearest: dict[str, dict[str, float]] = {}
    for kind in ("held_out", "new_words"):
        told = [(words, task) for task, own in PHRASINGS.items() for words in getattr(own, kind)]
        common = [tasks[max(tasks, key=lambda known: share_words(words, known))] == task for words, task in told]
        meant = [tasks[sentences.find_nearest(words)[0]] == task for words, task in told]
        nearest[kind] = {"count": len(told), "common words": float(np.mean(common)), "minilm": float(np.mean(meant))}

    text = {
        "words": {"tokens": torch.from_numpy(tokenize([*tasks], vocabulary_of(tasks)))},
        "minilm": {"sentence": sentences.embeddings},
    }
    sizes = (39, 4, (0.0,) * 39, (1.0,) * 39, 120)
    specs = {"words": Spec(*sizes, vocabulary=vocabulary_of(tasks)), "minilm": Spec(*sizes, sentences=sentences)}
    policies = {name: VLAPolicy(spec, decode="parallel", **DECIDED) for name, spec in specs.items()}
    state, chunk, rows = torch.randn(128, 39), torch.rand(128, 8, 4) * 2 - 1, torch.arange(128) % len(tasks)
    taken: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(rounds):
        for name, policy in policies.items():
            obs = Observation(state, {}, {key: own[rows] for key, own in text[name].items()})
            began = time.process_time()
            policy.log_prob(obs, chunk).mean().backward()
            taken[name].append(time.process_time() - began)
    seconds = {name: float(np.median(own)) for name, own in taken.items()}
    ratio = float(np.median(np.divide(taken["words"], taken["minilm"])))
    return {"part": "sentences", "processor": processor_name(), "nearest": nearest, "cpu_seconds": seconds,
            "ratio": ratio, "weights": sentences.weights, "git": revision()}  # fmt: skip


def share_words(one: str, other: str) -> float:
    """How many of the words of two instructions they have in common, as a share of all."""
    ours, theirs = set(words_of(one)), set(words_of(other))
    return len(ours & theirs) / len(ours | theirs)


def take_first(part: Any) -> Any:
    """[1, 2, 2, …] → [1, 1, …], of a tensor or of several by name."""
    return {k: v[:, 0, :1] for k, v in part.items()} if isinstance(part, dict) else part[:, 0, :1]


def revision() -> str:
    """The commit."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def run(name: str, seed: int, flags: Sequence[str], data_dir: str, data: Sequence[str] = DATA) -> Path:
    """Trains, or finds a finished run; its folder."""
    folder = FOLDER / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        fixed = ["threads=1", "workers=1", "compare=false", "video=false", "compile=never", "feedback=none",
                 f"seed={seed}", f"run={folder}", f"data_dir={data_dir}"]  # fmt: skip
        command = [sys.executable, "train.py", *data, *fixed, *flags]
        with open(folder / "output.txt", "w") as output:
            if subprocess.run(command, stdout=output, stderr=output).returncode:
                raise RuntimeError(f"{' '.join(command)} failed; see {folder / 'output.txt'}")
    return folder


def watch(envs: Sequence[Environment], seeds: Sequence[int], policy: Policy) -> list[dict[str, float]]:
    """Plays an episode for each seed: whether and when it succeeded, and for how many steps a glass was touched."""
    actor = PolicyActor(policy)
    obs = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    actor.start(envs, seeds)
    horizon, running = envs[0].horizon, np.ones(len(seeds), bool)
    won, touched = np.full(len(seeds), horizon), np.zeros(len(seeds))
    for t in range(horizon):
        actions = actor.act(stack_observations(obs), running)
        for i, env in enumerate(envs):
            obs[i], _, _, _, info = env.step(actions[i])
            touched[i] += info["collisions"] > 0
            won[i] = min(won[i], t) if info["success"] else won[i]
    return [
        {"success": float(w < horizon), "collided": float(c > 0), "contact_steps": float(c), "steps": float(w)}
        for w, c in zip(won, touched, strict=True)
    ]


def evaluate_run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """How often a run's policy succeeds and touches a glass, and how its own episodes went."""
    file = folder / "test.json"
    if not file.exists():
        workers = RolloutWorkers(yaml.safe_load((folder / "config.yaml").read_text())["env"], 2)
        seeds = evaluation_seeds(EPISODES, 1)
        shares = [list(seeds[i : i + LOCKSTEP]) for i in range(0, EPISODES, LOCKSTEP)]
        played = [one for _, own in workers.map(watch, shares, load_policy(folder)) for one in own]
        workers.close()
        file.write_text(json.dumps({key: float(np.mean([one[key] for one in played])) for key in played[0]}))
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rollouts = [{k: e[k] for k in ("success", "stages", "telling_scenes")} for e in events if e["phase"] == "rollouts"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return {
        "part": "learning", "method": name, "seed": seed, "episodes": EPISODES, **json.loads(file.read_text()),
        "rollouts": rollouts, "seconds": json.loads((folder / "result.json").read_text())["policy"]["seconds"],
        "algo": config["algo"], "objective": config["objective"],
        "git": json.loads((folder / "versions.json").read_text())["git"], "processor": processor_name(),
    }  # fmt: skip


def learn(method: str, seed: int, data_dir: str) -> Path:
    """What a method makes of the clone of a seed, or that clone: the run's folder."""
    clone = run("SFT", seed, SFT, data_dir)
    return run(method, seed, [*METHODS[method], f"algo.start_from={clone}"], data_dir) if method != "SFT" else clone


def tell(envs: Sequence[Environment], seeds: Sequence[int], policy: Policy, wrong: bool) -> list[bool]:
    """Plays an episode for each seed, told what its task is, or what that of the next one is: whether it succeeded."""
    actor = PolicyActor(policy)
    obs = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    actor.start(envs, seeds)
    if wrong:
        actor.text = {name: np.roll(told, 1, axis=0) for name, told in actor.text.items()}
    won = np.zeros(len(seeds), bool)
    for _ in range(envs[0].horizon):
        actions = actor.act(stack_observations(obs), ~won)
        for i, env in enumerate(envs):
            obs[i], _, _, _, info = env.step(actions[i])
            won[i] |= info["success"]
    return won.tolist()


def succeed(folder: Path, changes: dict[str, Any], wrong: bool) -> float:
    """How often a run's policy succeeds in 100 episodes of its environment with these changes."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    workers = RolloutWorkers({**config["env"], **changes}, 2)
    first = evaluation_seeds(100, 1)[0] // 10 * 10
    shares = [list(range(first + i, first + i + 10)) for i in range(0, 100, 10)]
    found = [won for _, own in workers.map(tell, shares, load_policy(folder), wrong) for won in own]
    workers.close()
    return float(np.mean(found))


def evaluate_mt10(seed: int, whole: Path, nine: Path) -> dict[str, Any]:
    """How often a clone of ten tasks succeeds in each of the tests, and one of nine on the tenth."""
    tests = {name: succeed(whole, *how) for name, how in MT10_TESTS.items()}
    tests["task left out"] = succeed(nine, {"layouts": 0, "tasks": [LEFT_OUT]}, False)
    return {"part": "mt10", "method": "SFT", "seed": seed, "tests": tests, "git": commit_of(whole),
            "processor": processor_name()}  # fmt: skip


def commit_of(folder: Path) -> str:
    """The commit that a run was made with."""
    return json.loads((folder / "versions.json").read_text())["git"]


def compare_words(seeds: Sequence[int], jobs: int, data_dir: str) -> list[dict[str, Any]]:
    """Clones of ten tasks that learn words, or are told by a frozen encoder: how often they succeed in each test."""
    recipe = ["data.episodes=500"]
    subprocess.run([sys.executable, "train.py", *MT10, *recipe, "only=data", f"data_dir={data_dir}"], check=True)
    names = [(method, seed) for seed in seeds for method in READERS]
    with ThreadPoolExecutor(jobs) as pool:
        made = [pool.submit(run, READERS[method][0], seed, [*recipe, *READERS[method][1]], data_dir, MT10)
                for method, seed in names]  # fmt: skip
        folders = [job.result() for job in made]
    return [
        {"part": "words", "method": method, "seed": seed, "git": commit_of(folder), "processor": processor_name(),
         "tests": {name: succeed(folder, *how) for name, how in WORDS_TESTS.items()}}
        for (method, seed), folder in zip(names, folders, strict=True)
    ]  # fmt: skip


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Means over the seeds, and the smallest and largest; Markdown."""
    rows = ["| method | seeds | " + " | ".join(MEASURES.values()) + " |", "|---" * (len(MEASURES) + 2) + "|"]
    for method in {line["method"]: None for line in lines}:
        own, cells = [line for line in lines if line["method"] == method], []
        for key, words in MEASURES.items():
            found = [line[key] * (100 if words.endswith("%") else 1) for line in own]
            digits = 0 if words.endswith("%") else 1
            cells.append(f"{np.mean(found):.{digits}f} ({min(found):.{digits}f} to {max(found):.{digits}f})")
        rows.append(f"| {method} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(lines: Sequence[dict[str, Any]]) -> None:
    """A panel for success and one for collisions; a bar for each method, and a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = list({line["method"]: None for line in lines})
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 0.8 + 0.3 * len(methods)), sharey=True, layout="constrained")
    for axes, (key, words) in zip(panels, list(MEASURES.items())[:2], strict=True):
        for j, method in enumerate(methods):
            found = [100 * line[key] for line in lines if line["method"] == method]
            axes.barh(j, np.mean(found), 0.6, color="C7" if method == "SFT" else "C0", alpha=0.7)
            axes.plot(found, [j] * len(found), ".k", markersize=5)
        base = np.mean([100 * line[key] for line in lines if line["method"] == "SFT"])
        axes.axvline(float(base), color="0.3", linewidth=0.8, linestyle="--")
        axes.set_xlabel(words)
        axes.set_xlim(0, None)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.savefig(PICTURE, dpi=110)


def write(lines: Sequence[dict[str, Any]], part: str) -> None:
    """Replaces the lines of a part that were measured again."""

    def key(line: dict[str, Any]) -> tuple[Any, ...]:
        return (
            line["part"],
            line.get("method"),
            line.get("seed"),
            line["processor"] if part in ("speed", "vision", "sentences") else None,
        )

    old = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    new = {key(line) for line in lines}
    kept = [line for line in old if key(line) not in new]
    FILE.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *lines]))


def main() -> None:
    """Measures what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data-dir", default=os.environ.get("PBRL_DATA", "datasets"))
    given = parser.parse_args()
    if "speed" in given.parts:
        line = measure_speed()
        print(json.dumps(line, indent=2))
        write([line], "speed")
    if "vision" in given.parts:
        line = measure_vision()
        print(json.dumps(line, indent=2))
        write([line], "vision")
    if "sentences" in given.parts:
        line = measure_sentences()
        print(json.dumps(line, indent=2))
        write([line], "sentences")
    if "mt10" in given.parts:
        recipes = {"mt10": ["data.episodes=500"], "mt10-nine": ["data.episodes=450", f"env.tasks=[{','.join(NINE)}]"]}
        for recipe in recipes.values():
            subprocess.run([sys.executable, "train.py", *MT10, *recipe, "only=data", f"data_dir={given.data_dir}"])
        with ThreadPoolExecutor(given.jobs) as pool:
            jobs = [pool.submit(run, name, seed, recipe, given.data_dir, MT10)
                    for seed in given.seeds for name, recipe in recipes.items()]  # fmt: skip
            made = [job.result() for job in jobs]
        pairs = zip(given.seeds, made[::2], made[1::2], strict=True)
        lines = [evaluate_mt10(seed, whole, nine) for seed, whole, nine in pairs]
        write(lines, "mt10")
        for name in lines[0]["tests"]:
            found = [100 * line["tests"][name] for line in lines]
            print(f"| {name} | {np.mean(found):.0f} ({min(found):.0f} to {max(found):.0f}) |")
    if "words" in given.parts:
        lines = compare_words(given.seeds, given.jobs, given.data_dir)
        write(lines, "words")
        for name in WORDS_TESTS:
            found = [[100 * one["tests"][name] for one in lines if one["method"] == method] for method in READERS]
            print(f"| {name} | " + " | ".join(f"{np.mean(f):.0f} ({min(f):.0f} to {max(f):.0f})" for f in found) + " |")
    if "learning" in given.parts:
        command = [sys.executable, "train.py", *DATA, "only=data", f"data_dir={given.data_dir}"]
        subprocess.run(command, check=True)
        folders: list[Path] = []
        for methods in (["SFT"], given.methods):  # all clones, and then what is made of them
            with ThreadPoolExecutor(given.jobs) as pool:
                jobs = [pool.submit(learn, m, seed, given.data_dir) for m in methods for seed in given.seeds]
                folders += [job.result() for job in jobs]
        names = [(m, seed) for m in ("SFT", *given.methods) for seed in given.seeds]
        lines = [evaluate_run(*name, folder) for name, folder in zip(names, folders, strict=True)]
        write(lines, "learning")
        measured = [json.loads(line) for line in FILE.read_text().splitlines()]
        order = ["SFT", *METHODS]
        learned = [line for line in measured if line["part"] == "learning" and line["method"] in order]
        learned.sort(key=lambda line: (order.index(line["method"]), line["seed"]))
        print(table(learned))
        draw(learned)


if __name__ == "__main__":
    main()
