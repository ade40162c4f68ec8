"""What a run leaves for people: a few lines on the screen, `result.json`, a learning curve, a video."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hydra.utils import instantiate

from pbrl.data.frames import blind
from pbrl.data.rollout import Players
from pbrl.training import evaluate, log
from pbrl.training.evaluate import Evaluation
from pbrl.training.replica import Replica
from pbrl.types import Policy


def write(
    seeds: list[Replica],
    folder: Path,
    config: dict[str, Any],
    data: Evaluation,
    clones: list[dict] | None,
    summaries: list[dict[str, Any]],
    counts: dict[str, int],
) -> dict[str, Any]:
    """Writes each seed's `result.json` and `curve.png`, prints the comparison, and returns the result.

    Of several seeds also one in `folder`, with all of theirs.
    """
    results = []
    for i, (seed, summary) in enumerate(zip(seeds, summaries, strict=True)):
        clone = clones[i] if clones else None
        answers, judged = log.read(seed.folder, "answers"), log.read(seed.folder, "held_out")
        results.append({
            "env": config["env"], "algo": config["algo"]["_target_"].split(".")[-2], "seed": seed.seed,
            "data": asdict(data), "bc": clone, "policy": summary, "answers": counts,
            "label_accuracy": answers[-1].get("label_accuracy") if answers else None,
            "reward_model": {k: v for k, v in judged[-1].items() if k not in ("phase", "step")} if judged else None,
        })  # fmt: skip
        (seed.folder / "result.json").write_text(json.dumps(results[-1], indent=2))
        name = f"seed {seed.seed}" if len(seeds) > 1 else ""
        show(results[-1], data, name)
        plot(seed.folder, data, clone, name or seed.folder.parent.name)
    print(f"  {'more in':20s} {folder}")
    if len(seeds) == 1:
        return results[0]
    measure = summaries[0]["measure"]
    last = [summary["last"][measure] for summary in summaries]
    print(f"\n  {measure} of {len(seeds)} seeds: {mean(last):.3g} ± {stdev(last):.2g} (standard deviation)")
    together = {"seeds": results}
    (folder / "result.json").write_text(json.dumps(together, indent=2))
    return together


def show(result: dict[str, Any], data: Evaluation, name: str) -> None:
    """Prints what came of one seed, which among others has a name."""
    summary, clone, config = result["policy"], result["bc"], result["env"]
    rows = [("data", data)]
    if clone:
        rows.append(("BC", _evaluation(clone["last"])))
    if summary["clone"]:
        rows.append(("before preferences", _evaluation(summary["clone"])))
    rows += [(result["algo"], _evaluation(summary["last"])), ("best on the way", _evaluation(summary["best"]))]
    title = ", ".join(filter(None, [config.get("task", ""), name]))
    print(f"\n{title}, 95 % intervals")
    for name, evaluation in rows:
        print(f"  {name:20s} {evaluation}, {evaluation.episodes} episodes")
    if result["reward_model"]:
        print(
            f"  {'reward model':20s} "
            + ", ".join(f"{k} {v:.2f}" for k, v in result["reward_model"].items() if k != "round")
        )
    if result["answers"]:
        print(f"  {'answers':20s} " + ", ".join(f"{v} {k}" for k, v in result["answers"].items()))


def _evaluation(event: dict[str, Any]) -> Evaluation:
    return Evaluation(**{k: v for k, v in event.items() if k in Evaluation.__dataclass_fields__})


def plot(folder: Path, data: Evaluation, clone: dict[str, Any] | None, title: str) -> None:
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
    axes.set(xlabel="updates", ylabel=measure.replace("_mean", ""), title=title)
    if data.success is not None:
        axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False)
    figure.savefig(folder / "curve.png", dpi=120)
    plt.close(figure)


def video(folder: Path, env: dict[str, Any], players: Players, policy: Policy, seed: int, episodes: int = 3) -> None:
    """Records the policy's first evaluation episodes into `policy.mp4`; without a renderer it says what to install."""
    from pbrl.data.video import frames, write_mp4

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
