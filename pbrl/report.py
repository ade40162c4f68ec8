"""What a run leaves for people: a few lines on the screen, `result.json`, a learning curve, a video."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from pbrl import evaluate, log
from pbrl.evaluate import Evaluation
from pbrl.frames import blind
from pbrl.likelihoods import Likelihood
from pbrl.rollout import Players


def write(
    folder: Path,
    config: dict[str, Any],
    data: Evaluation,
    clone: dict | None,
    summary: dict[str, Any],
    counts: dict[str, int],
) -> dict[str, Any]:
    """Writes `result.json` and `curve.png`, prints the comparison, and returns the result."""
    answers, judged = log.read(folder, "answers"), log.read(folder, "judge")
    result = {
        "env": config["env"], "algo": config["algo"]["_target_"].split(".")[-2], "seed": config["seed"],
        "data": asdict(data), "bc": clone, "policy": summary, "answers": counts,
        "label_accuracy": answers[-1].get("label_accuracy") if answers else None,
        "reward_model": {k: v for k, v in judged[-1].items() if k not in ("phase", "step")} if judged else None,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    rows = [("data", data)]
    if clone:
        rows.append(("BC", _evaluation(clone["last"])))
    if summary["clone"]:
        rows.append(("before preferences", _evaluation(summary["clone"])))
    rows.append((str(result["algo"]), _evaluation(summary["last"])))
    print(f"\n{config['env'].get('task', '')}, {summary['last']['episodes']} episodes, 95 % intervals")
    for name, evaluation in rows:
        print(f"  {name:20s} {evaluation}")
    print(f"  {'best on the way':20s} {_evaluation(summary['best'])}")
    if result["reward_model"]:
        print(
            f"  {'reward model':20s} "
            + ", ".join(f"{k} {v:.2f}" for k, v in result["reward_model"].items() if k != "round")
        )
    if counts:
        print(f"  {'answers':20s} " + ", ".join(f"{v} {k}" for k, v in counts.items()))
    plot(folder, data, clone)
    print(f"  {'more in':20s} {folder}")
    return result


def _evaluation(event: dict[str, Any]) -> Evaluation:
    return Evaluation(**{k: v for k, v in event.items() if k in Evaluation.__dataclass_fields__})


def plot(folder: Path, data: Evaluation, clone: dict[str, Any] | None) -> None:
    """Draws evaluations over updates, beside the data's and the clone's level, into `curve.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    events = [e for e in log.read(folder, "evaluate") if e["of"] == "policy"]
    measure = "return_mean" if data.success is None else "success"
    interval = "return_interval" if data.success is None else "success_interval"
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    steps, values = [e["step"] for e in events], [e[measure] for e in events]
    low, high = ([e[interval][k] for e in events] for k in (0, 1))
    axes.fill_between(steps, low, high, alpha=0.2, linewidth=0)
    axes.plot(steps, values, marker="o", markersize=3, label="policy")
    axes.axhline(getattr(data, measure), color="0.5", linestyle=":", label="data")
    if clone:
        axes.axhline(clone["last"][measure], color="0.3", linestyle="--", label="BC")
    axes.set(xlabel="updates", ylabel=measure.replace("_mean", ""), title=folder.parent.name)
    if data.success is not None:
        axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False)
    figure.savefig(folder / "curve.png", dpi=120)
    plt.close(figure)


def video(
    folder: Path, env: dict[str, Any], players: Players, policy: Likelihood, seed: int, episodes: int = 3
) -> None:
    """Records the policy's first evaluation episodes into `policy.mp4`; without a renderer it says what to install."""
    from pbrl.video import frames, write_mp4

    simulation = instantiate(blind(env))
    images = []
    try:
        for episode in evaluate.play(players, policy, episodes, seed):
            images += list(
                frames(simulation, episode, width=320, height=240, every=max(1, round(simulation.control_hz / 25)))
            )
        write_mp4(folder / "policy.mp4", images, fps=25)
    except RuntimeError as error:  # no renderer: everything else is there
        print(f"  no video: {error}")
    finally:
        simulation.close()
