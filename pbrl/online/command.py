"""The command: a run's reward model, SAC on it, and a folder that says what happened."""

from pathlib import Path
from typing import Any

import torch
import yaml

from pbrl import files
from pbrl.data.episodes import versions
from pbrl.judge.from_run import own_data
from pbrl.models.policy import save_policy
from pbrl.online.reward import load_learned_reward
from pbrl.online.settings import Settings
from pbrl.online.training import Training
from pbrl.processor import available_cores
from pbrl.run import charts, report
from pbrl.run.folder import env_name, git_commit, make_folder
from pbrl.run.lock import hold
from pbrl.training.engine import pick_device
from pbrl.training.evaluate import summarize

SHOWN = ("return_mean", "success", "rewarded_return")


def train(config: dict[str, Any]) -> dict[str, Any]:
    """Trains as a config says, or goes on with it; returns what result.json holds. Raises UserError."""
    settings = Settings.parse(config)
    torch.set_num_threads(settings.threads or min(torch.get_num_threads(), available_cores()))
    run = Path(str(settings.rewards)).expanduser()
    folder = make_folder(settings.folder(settings.env or own_data(run)["env"]))
    with hold(folder, "another run", "wait for it, stop it, or choose another folder with run=…"):
        learnt = load_learned_reward(
            run, env=settings.env, every=settings.every, data_dir=settings.data_dir,
            device=pick_device(settings.device), workers=settings.workers,
        )  # fmt: skip
        training = Training(settings, learnt, folder)
        try:
            write_provenance(folder, settings)
            training.run()
            result = finish(training, settings, folder)
        finally:
            training.close()
    print(describe(result), f"written {folder}", sep="\n")
    return result


def write_provenance(folder: Path, settings: Settings) -> None:
    """Writes the settings, and what the run is made with."""
    with files.replacing(folder / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(settings.plain, sort_keys=False))
    files.write_json(folder / "versions.json", {"git": git_commit(), **versions()})


def finish(training: Training, settings: Settings, folder: Path) -> dict[str, Any]:
    """Saves the policy, evaluates it once more on more episodes, and draws the curve; returns the result."""
    policy = training.policy()
    save_policy(policy, folder / "policy.pt")
    final = training.measure(settings.final_episodes)
    result = {
        "env": env_name(training.learnt.env), "rewards": settings.rewards, "true_reward": settings.true_reward,
        "steps": training.model.num_timesteps, "policy": final.numbers, "evaluations": training.evaluations,
        "data": {**vars(summarize(training.learnt.episodes))},
    }  # fmt: skip
    files.write_json(folder / "result.json", result)
    draw(result, folder / "curve.png")
    if settings.video:
        report.video(folder, training.env_config, training.workers, policy, settings.eval_seed)
    return result


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws success, or else the true return, of the evaluations over steps, beside the data."""
    events = result["evaluations"]
    key = "return_mean" if events[-1]["success"] is None else "success"
    low, high = zip(*(event[f"{key.removesuffix('_mean')}_interval"] for event in events), strict=True)
    values = [event[key] for event in events]
    line = charts.Curve("SAC", [event["step"] for event in events], values, list(low), list(high))
    level = charts.Level("data", result["data"][key])
    title = f"{result['env']}, {'true' if result['true_reward'] else 'learnt'} reward"
    figure = charts.curves([line], [level], key, title, ink="0.2")
    figure.axes[0].set_xlabel("steps")
    with files.replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def describe(result: dict[str, Any]) -> str:
    """The last evaluation in a line, beside the data."""
    policy, data = result["policy"], result["data"]
    return f"policy: {_words(policy)}; data: {_words(data)}"


def _words(found: dict[str, Any]) -> str:
    known = [name for name in SHOWN if found.get(name) is not None]
    return ", ".join(f"{name.removesuffix('_mean').replace('_', ' ')} {found[name]:.4g}" for name in known)
