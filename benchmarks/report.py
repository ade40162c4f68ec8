"""The results of a suite: tables in Markdown, bars with every seed, the interquartile mean over all tasks."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.aggregate import interval, iqm, profile

RESULTS = Path(__file__).parent / "results"
Lines = list[dict[str, Any]]


def show(suite: str, lines: Lines) -> None:
    """Prints all tables and draws the picture."""
    columns = {"last policy": column_of(lines, "last"), "maximum of the running mean": "running_max"}
    if lines[0]["measure"] == "success":
        columns["last policy, in the last step"] = "last_success_at_end"
    for title, column in columns.items():
        print(f"\n{title}\n\n{table(lines, column)}")
    plot(suite, lines)


def column_of(lines: Lines, of: str) -> str:
    """The column of the suite's measure, of the `last` policy or of the `data`."""
    if of == "data":
        return "data_success" if lines[0]["measure"] == "success" else "data_return"
    return f"{of}_{lines[0]['measure']}"


def scores(lines: Lines, column: str) -> np.ndarray:
    """A method's [tasks, seeds], in per cent: success, or return from random actions to the SAC run's best policy.

    Of the seeds that all its tasks have.
    """
    tasks = [{k["seed"] for k in lines if k["env"] == env} for env in dict.fromkeys(k["env"] for k in lines)]
    lines = [line for line in lines if line["seed"] in set.intersection(*tasks)]
    found = []
    for env in dict.fromkeys(line["env"] for line in lines):
        own = [line for line in lines if line["env"] == env]
        if lines[0]["measure"] == "success":
            found.append([100 * line[column] for line in own])
        else:
            low, high = own[0]["random_return"], own[0]["expert_return"]
            found.append([100 * (line[column] - low) / (high - low) for line in own])
    return np.array(found)


def table(lines: Lines, column: str) -> str:
    """Mean ± standard deviation over seeds, methods by environments; last the interquartile mean of all scores."""
    envs = list(dict.fromkeys(line["env"] for line in lines))
    percent = lines[0]["measure"] == "success"
    scale = 100 if percent else 1
    data = "data_success_at_end" if column.endswith("at_end") else column_of(lines, "data")
    with_scores = percent or lines[0].get("expert_return") is not None
    rows = [["", *(env.split("/")[1] for env in envs), "mean", "interquartile mean"]]
    own = [next(line for line in lines if line["env"] == env) for env in envs]
    mean = f"{scores(own, data).mean():.0f}" if with_scores else ""
    rows.append(["data", *(f"{line[data] * scale:.0f}" for line in own), mean, ""])
    for method in dict.fromkeys(line["method"] for line in lines):
        of_method = [line for line in lines if line["method"] == method]
        cells = []
        for env in envs:
            found = np.array([line[column] for line in of_method if line["env"] == env]) * scale
            spread = f" ± {found.std(ddof=1):.0f}" if len(found) > 1 else ""
            cells.append(f"{found.mean():.0f}{spread}" if len(found) else "–")
        if with_scores:
            if "–" in cells:
                cells += ["", ""]
            else:
                all_scores = scores(of_method, column)
                low, high = interval(all_scores)
                cells += [f"{all_scores.mean():.0f}", f"{iqm(all_scores):.0f} [{low:.0f}, {high:.0f}]"]
        rows.append([method, *cells])
    if not with_scores:
        rows[0], rows[1] = rows[0][:-2], rows[1][:-2]
    head = "| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0])
    return head + "\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows[1:])


def overview(name: str, columns: dict[str, Any]) -> None:
    """A table of methods by data sets and shares of wrong answers: interquartile means of all scores with intervals.

    Each column is [lines, ending], the ending of methods' names in those lines. Methods that were not run on all tasks
    are left blank. The picture shows the methods of more than one column.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods = list(dict.fromkeys(line["method"] for lines, _ in columns.values() for line in lines))
    cells: dict[str, dict[str, tuple[float, float, float]]] = {}
    for method in methods:
        for title, (lines, ending) in columns.items():
            own = [line for line in lines if line["method"] == method + ending]
            if {line["env"] for line in own} == {line["env"] for line in lines} and "," not in method:
                every = scores(own, column_of(own, "last"))
                cells.setdefault(method, {})[title] = (iqm(every), *interval(every))
    print("\n| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for method, row in cells.items():
        texts = ["{:.0f} [{:.0f}, {:.0f}]".format(*row[title]) if title in row else "" for title in columns]
        print(f"| {method} | " + " | ".join(texts) + " |")
    drawn = [method for method, row in cells.items() if len(row) > 1]
    figure, axis = plt.subplots(figsize=(1.3 * len(columns) + 0.8, 3.2), layout="constrained")
    for i, method in enumerate(drawn):
        places = [x + 0.8 * (i + 0.5) / len(drawn) - 0.4 for x, title in enumerate(columns) if title in cells[method]]
        middle, low, high = np.array(list(cells[method].values())).T
        axis.bar(places, middle, 0.7 / len(drawn), color=f"C{i}", label=method)
        axis.vlines(places, low, high, color="0.2", linewidth=1)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_ylabel("score, interquartile mean")
    figure.legend(fontsize=8, ncols=len(drawn), loc="outside upper center")
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    plt.close(figure)


def plot(suite: str, lines: Lines) -> None:
    """Bars of the last policy's measure, each seed a dot and the data's value a line; performance profiles."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(line["env"] for line in lines))
    methods = list(dict.fromkeys(line["method"] for line in lines))
    colours = plt.get_cmap("tab10" if len(methods) <= 10 else "tab20").colors  # type: ignore[attr-defined]
    percent = lines[0]["measure"] == "success"
    with_scores = percent or lines[0].get("expert_return") is not None
    panels = len(envs) + with_scores
    height = 0.2 * len(methods) + 0.9
    figure, axes = plt.subplots(1, panels, figsize=(1.9 * panels + 1.6, height), layout="constrained", squeeze=False)
    for axis, env in zip(axes[0], envs, strict=False):
        for i, method in enumerate(methods):
            own = [line for line in lines if line["env"] == env and line["method"] == method]
            found = [line[column_of(lines, "last")] for line in own]
            if found:
                axis.barh(i, np.mean(found), color=colours[i], alpha=0.6)
                axis.plot(found, [i] * len(found), ".", color=colours[i])
        value = next(line[column_of(lines, "data")] for line in lines if line["env"] == env)
        axis.axvline(value, color="0.4", linestyle=":")
        axis.set_title(env.split("/")[1], fontsize=9)
        axis.set_yticks(range(len(methods)), methods if axis is axes[0][0] else [""] * len(methods), fontsize=8)
        axis.set_ylim(len(methods) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_xlabel("success" if percent else "return", fontsize=8)
        if percent:
            axis.set_xlim(0, 1.02)
    if with_scores:
        runs = [scores([k for k in lines if k["method"] == method], column_of(lines, "last")) for method in methods]
        levels = np.linspace(0, max(100, *(own.max() for own in runs)), 101)
        for i, own in enumerate(runs):
            axes[0][-1].plot(levels, profile(own, levels), color=colours[i])
        axes[0][-1].set_title("runs above a score", fontsize=9)
        axes[0][-1].set_ylim(0, 1.02)
        axes[0][-1].tick_params(labelsize=7)
    figure.savefig(RESULTS / f"{suite}.png", dpi=110)
    plt.close(figure)
