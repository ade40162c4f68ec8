"""What a run leaves for people: the screen, `result.json`, a learning curve, a video, and the report `index.html`.

`python -m pbrl.run.report <run folder>` writes the report anew from the folder alone; of several folders it writes one
page that compares them, `compare.html` where they lie, or what `--out` names.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pbrl import files
from pbrl.data.frames import without_images
from pbrl.data.rollout import RolloutWorkers, make_environment
from pbrl.data.table import Table
from pbrl.feedback.store.datasets import dataset_id
from pbrl.run import charts, choices, comparing, outcome, page, summary
from pbrl.training import evaluate, log
from pbrl.training.evaluate import Evaluation
from pbrl.training.replica import Replica
from pbrl.types import Policy, UserError


def begin(
    config: dict[str, Any],
    folder: Path,
    table: Table,
    data: Evaluation,
    *,
    asks: bool,
    device: str,
) -> None:
    """Prints the header of a run, keeps it in the folder with the data's evaluation, and writes a first report."""
    found = f"{len(table.steps)} episodes, {len(table):,} steps, {data}"
    rows = summary.header(config, folder, found, asks, device)
    print(summary.lines(rows), flush=True)
    content = {"header": rows, "evaluation": asdict(data), "dataset": dataset_id(table.ids)}
    files.write_json(folder / outcome.START, content)
    write_page(folder)


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

    Of several seeds also one in `folder`, with all of theirs. The report is written by `finish`.
    """
    results = []
    for i, (seed, found) in enumerate(zip(seeds, summaries, strict=True)):
        baseline = clones[i] if clones else None
        answers, validated = log.read(seed.folder, "answers"), log.read(seed.folder, "held_out")
        validated = [{k: v for k, v in event.items() if k not in ("phase", "step")} for event in validated]
        results.append(
            {
                "env": config["env"],
                "algo": choices.names(config)["algo"],
                "seed": seed.seed,
                "data": asdict(data),
                "bc": baseline,
                "policy": found,
                "answers": counts,
                "label_accuracy": answers[-1].get("label_accuracy") if answers else None,
                "reward_model": validated[-1] if validated else None,
            }
        )
        files.write_json(seed.folder / "result.json", results[-1])
        print(summary.results(results[-1], f"seed {seed.seed}" if len(seeds) > 1 else ""))
        plot(seed.folder)
    if len(seeds) == 1:
        return results[0]
    measure = summaries[0]["measure"]
    last = [found["last"][measure] for found in summaries]
    print(f"\n  {measure} of {len(seeds)} seeds: {mean(last):.3g} ± {stdev(last):.2g} (standard deviation)")
    together = {"seeds": results}
    files.write_json(folder / "result.json", together)
    return together


def finish(folder: Path) -> None:
    """Writes the report of a run that has ended, and says where it is."""
    print(f"  {'report':20s} {write_page(folder)}\n  {'more in':20s} {folder}")


def write_page(folder: Path) -> Path:
    """Writes the report of the run in a folder; returns its path. Raises UserError where there is no run."""
    return page.write_run(outcome.read(folder))


def plot(folder: Path) -> None:
    """Draws the evaluations of the run in a folder, beside its data and its baseline, into `curve.png`."""
    run = outcome.read(folder)
    line = comparing.curve("policy", run.seeds)
    measure = outcome.measure(run.seeds[0].evaluations[0])
    figure = charts.curves([line], comparing.levels(run), measure, choices.names(run.config)["env"], ink="0.2")
    with files.replacing(folder / "curve.png") as partial:
        figure.savefig(partial, dpi=120)


def video(
    folder: Path, env: dict[str, Any], workers: RolloutWorkers, policy: Policy, seed: int, episodes: int = 3
) -> None:
    """Records the policy's first evaluation episodes into `policy.mp4`; without a renderer it says what to install."""
    from pbrl.data.video import frames, write_mp4

    simulation = make_environment(without_images(env))
    every = max(1, round(simulation.control_hz / 25))
    images = []
    try:
        with tempfile.TemporaryDirectory() as videos:
            for episode in evaluate.rollout_policy(workers, policy, episodes, seed, Path(videos)):
                images += list(frames(simulation, episode, width=320, height=240, every=every))
        write_mp4(folder / "policy.mp4", images, fps=25)
    except (RuntimeError, UserError) as error:  # no renderer: everything else is there
        print(f"  no video: {error}")
    finally:
        simulation.close()


def main() -> None:
    """Writes the report of one run, or a page that compares several."""
    parser = argparse.ArgumentParser(prog="python -m pbrl.run.report", description=__doc__)
    parser.add_argument("folder", nargs="+", type=Path, help="a run folder, or a folder that holds several")
    parser.add_argument("--out", type=Path, help="where the comparing page goes; default: compare.html beside the runs")
    given = parser.parse_args()
    try:
        folders = [path for folder in given.folder for path in outcome.find(folder)]
        if len(folders) == 1 and given.out is None:
            print(write_page(folders[0]))
            return
        runs = [outcome.read(folder) for folder in dict.fromkeys(folders)]
        beside = Path(os.path.commonpath([folder.resolve() for folder in given.folder]))
        if len(given.folder) == 1 and (beside / "config.yaml").exists():
            beside = beside.parent
        print(page.write_comparison(runs, given.out or beside / "compare.html"))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
