"""Updates of `reward=image` beside the same networks trained the usual way, what cached features cost, what is learnt.

    python -m benchmarks.image_reward                  # the network's own shape: 300 pixels, 64 pairs, 3 members
    python -m benchmarks.image_reward --parts speed features learning --sizes 300 200 84

`speed`: the usual way is written here, after RL-VLM-F's released code (febe2f2): see `UsualWay`. Both take turns in one
process on one thread; the figures are updates per CPU-second, medians. Ours draws from a table, in the precision and
the way that a run chooses. `highest_ratio` is what an update would reach whose convolutions ran as fast as this
processor's best matrix product, measured beside them, and all else took no time; `ratio_of_kernels` is the same with
PyTorch's own convolutions, each called by itself. `features`: an epoch over cached features of EfficientNet-Lite0,
against one that encodes. `learning`: accuracy on held-out pairs of single frames of Meta-World's drawer, labelled by
how far it is open.
Each adds lines to `benchmarks/results/image_reward.jsonl`.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.convolutions import LAYERS, MEMBERS, PAIRS, kernel_seconds, product_gflops, take_turns, update_gflop
from benchmarks.report import RESULTS
from pbrl.configs import compose_config
from pbrl.data.rollout import make_environment
from pbrl.data.table import Table
from pbrl.feedback.labels import Labels
from pbrl.models.frozen import encode_images, load_encoder
from pbrl.processor import processor_name
from pbrl.run.build import build_reward
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.engine import Engine, wants_compile
from pbrl.training.precision import choose_precision
from pbrl.types import Episode, RewardModel

FILE = RESULTS / "image_reward.jsonl"
FRAMES, TRAIN, TEST = 400, 300, 1000  # of `learning`: pictures, pairs that are learnt from and that are held out
STEPS = (60, 125, 250, 500)  # updates after which it is looked at
CPU = torch.device("cpu")


def plain_network(size: int) -> nn.Sequential:
    """One member, written the usual way."""
    layers, inputs, side = list[nn.Module](), 3, size
    for kernel, stride, outputs in LAYERS:
        layers += [nn.Conv2d(inputs, outputs, kernel, stride), nn.ReLU()]
        inputs, side = outputs, (side - kernel) // stride + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * side * side, 1), nn.Tanh())


class UsualWay:
    """An ensemble as a list, trained as RL-VLM-F's released code does it, update by update.

    What its `train_reward` does is mirrored, neither slowed down nor sped up: pictures lie in uint8 arrays [Q, 1, H, W,
    3], an array for each side of a pair; each member has an order of its own, and takes from it 64 pairs, of which
    NumPy makes float32 and divides it by 255; both sides go through the network apart from each other; the members'
    cross-entropies are summed, and each is read as a number, as is how many answers were met; one backward pass and one
    torch.optim.Adam follow for all. Left out are its BatchNorm layers, which are made there and never called.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, label: np.ndarray, lr: float):
        self.pairs, self.label = (first[:, None], second[:, None]), label[:, None].astype(np.float32)
        self.members = [plain_network(first.shape[1]) for _ in range(MEMBERS)]
        self.optim = torch.optim.Adam([p for member in self.members for p in member.parameters()], lr)
        self.begin, self.losses, self.right = 0, list[float](), 0

    def update(self) -> None:
        if self.begin == 0:
            self.orders = [np.random.permutation(len(self.label)) for _ in self.members]
        self.optim.zero_grad()
        loss = torch.zeros(())
        for member, order in zip(self.members, self.orders, strict=True):
            drawn = order[self.begin : self.begin + PAIRS]
            label = torch.from_numpy(self.label[drawn].flatten()).long()
            scores = torch.cat([member(as_floats(side[drawn])) for side in self.pairs], -1)
            own = nn.functional.cross_entropy(scores, label)
            loss = loss + own
            self.losses.append(own.item())
            self.right += int((scores.detach().argmax(1) == label).sum().item())
        loss.backward()
        self.optim.step()
        self.begin = (self.begin + PAIRS) % len(self.label)


def as_floats(pictures: np.ndarray) -> Tensor:
    """[B, 1, H, W, 3] uint8 → [B, 3, H, W]. Transposing copies nothing, so channels stay last in memory."""
    shown = np.transpose(pictures, (0, 1, 4, 2, 3)).astype(np.float32) / 255.0
    return torch.from_numpy(shown.squeeze(1)).float()


def make_table(pictures: np.ndarray | None, state: np.ndarray | None = None) -> Table:
    """A table whose rows show these pictures: one episode, and a frame is a segment of one step."""
    obs = np.random.default_rng(0).normal(size=(len(pictures), 4)) if state is None else state  # type: ignore[arg-type]
    steps = len(obs) - 1
    episode = Episode(0, obs.astype(np.float32), np.zeros((steps, 2), np.float32), np.zeros(steps, np.float32), False)
    return Table([episode], pictures=pictures)


def make_labels(starts: np.ndarray, value: np.ndarray) -> Labels:
    n = len(starts)
    question = np.array([str(i) for i in range(n)], object)
    zeros = np.zeros(n, np.int64)
    return Labels(starts, value.astype(float), zeros, zeros, np.ones(n), question, ("perfect",), 1, "pair")


def make_reward(table: Table, choice: str, **changes: Any) -> RewardModel:
    flags = [f"reward.{name}={'null' if value is None else value}" for name, value in changes.items()]
    settings = RunSettings.parse(compose_config(f"reward={choice}", *flags))
    return build_reward(settings, table.spec())


def prepare(model: RewardModel, table: Table, labels: Labels, seed: int = 0) -> tuple[Callable[[], Any], str]:
    """An update as a run makes it, drawing included, and its precision."""
    data = Data(table, torch.Generator().manual_seed(seed))
    data.set_labels(labels)
    (phase,) = model.phases()
    bf16 = choose_precision("auto", CPU).suits(model, phase.draw(data))  # type: ignore[arg-type]
    engine = Engine(CPU, compile=wants_compile("auto", phase.steps), bf16=bf16)
    update = engine.prepare(phase)
    return lambda: update(phase.draw(data)), "bfloat16" if bf16 else "float32"


def measure_speed(size: int, turns: int) -> dict[str, Any]:
    """A line: both rates in turns, at one frame a segment."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (301, size, size, 3), dtype=np.uint8)
    starts, label = random.integers(0, 300, (8 * PAIRS, 2)), random.integers(0, 2, 8 * PAIRS)
    usual = UsualWay(pictures[starts[:, 0]], pictures[starts[:, 1]], label, 3e-4)
    table = make_table(pictures)
    ours, precision = prepare(
        make_reward(table, "image", image_size=size, frames=1, batch_size=PAIRS), table, make_labels(starts, label)
    )
    seconds = take_turns({"usual": usual.update, "ours": ours}, turns)
    rate = {name: float(1 / np.median(found)) for name, found in seconds.items()}
    gflop, products = update_gflop(size), product_gflops()
    kernels = kernel_seconds(size, getattr(torch, precision))
    ratios = [a / b for a, b in zip(seconds["usual"], seconds["ours"], strict=True)]
    return {
        "part": "speed", "size": size, "pairs": PAIRS, "members": MEMBERS, "precision": precision, "compiled": False,
        "updates_per_cpu_second": rate, "ratio": rate["ours"] / rate["usual"],
        "ratio_range": [min(ratios), max(ratios)], "gflop": gflop, "gflop_per_s_of_products": products,
        "highest_ratio": max(products.values()) / gflop / rate["usual"],
        "ratio_of_kernels": 1 / (kernels * rate["usual"]), "kernels_of_ours": kernels * rate["ours"],
    }  # fmt: skip


def measure_features(turns: int) -> dict[str, Any]:
    """A line: an epoch's CPU-seconds for each picture, of 512 pictures: that encodes first, and one later."""
    pictures = np.random.default_rng(0).integers(0, 256, (513, 84, 84, 3), dtype=np.uint8)
    model, weights = load_encoder("lite0", None if has_weights() else "none")
    with torch.no_grad():
        model(torch.from_numpy(pictures[:32]))
        began = time.process_time()
        for part in torch.from_numpy(pictures[:256]).split(32):
            model(part)
        encoding = (time.process_time() - began) / 256
    table = make_table(np.random.default_rng(0).normal(size=(513, 1280)).astype(np.float32))
    starts = np.random.default_rng(0).permutation(512).reshape(256, 2)
    update, precision = prepare(
        make_reward(table, "image", encoder="lite0", frames=1), table, make_labels(starts, np.zeros(256))
    )
    update()
    found = []
    for _ in range(turns):
        began = time.process_time()
        for _ in range(256 // PAIRS):
            update()
        found.append((time.process_time() - began) / 512)
    later = float(np.median(found))
    return {
        "part": "features", "encoder": "lite0", "weights": weights, "precision": precision,
        "ms_per_picture": {"encoding": 1e3 * encoding, "training": 1e3 * later},
        "later_epoch_of_first": later / (encoding + later),
    }  # fmt: skip


def has_weights() -> bool:
    try:
        load_encoder("lite0", None)
    except Exception:
        return False
    return True


def drawer_frames(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures [F, H, W, 3], observations [F, O] and openness [F] of an expert's and of noisy rollouts, mixed."""
    config = compose_config("env=metaworld/drawer-open")["env"]
    env = make_environment({**config, "images": ["closeup"], "image_size": size, "see_through": True})
    blind = make_environment({**config, "see_through": True})  # steps without drawing what is not looked at
    random = np.random.default_rng(0)
    pictures, states, opened = [], [], []
    for seed in range(FRAMES // 8):
        obs = blind.reset(seed=seed)[0]
        assert blind.expert is not None
        expert, first = blind.expert(), np.asarray(obs)[4:7]
        path, saved = [obs], [blind.save_state()]
        for _ in range(100):
            action = np.asarray(expert.act(np.asarray(path[-1])))
            path.append(blind.step(np.clip(action + 0.5 * random.normal(size=4), -1, 1).astype(np.float32))[0])
            saved.append(blind.save_state())
        for t in random.choice(len(path), 8, replace=False):
            pictures.append(env.restore(seed, saved[t], t)["images"]["closeup"].copy())
            states.append(np.asarray(path[t]))
            opened.append(np.linalg.norm(states[-1][4:7] - first))
    blind.close()
    env.close()
    return np.stack(pictures), np.stack(states), np.array(opened)


def measure_learning(seeds: Sequence[int], size: int) -> list[dict[str, Any]]:
    """Lines: accuracy on pairs of pictures of episodes that no answer was about, by model and seed."""
    pictures, state, opened = drawer_frames(size)
    rest = np.flatnonzero(np.arange(len(opened)) < 0.75 * len(opened))
    test = np.setdiff1d(np.arange(len(opened) - 1), rest)
    with tempfile.TemporaryDirectory() as folder:
        features = encode_images(pictures, "lite0", None if has_weights() else "none", folder=Path(folder))
    encoder = {"encoder": "lite0", "frames": 1}
    models: dict[str, tuple[Table, str, dict[str, Any], bool]] = {
        "pixels": (make_table(pictures, state), "image", {"image_size": size, "frames": 1}, False),
        "lite0": (make_table(features, state), "image", encoder, False),
        "state": (make_table(None, state), "ensemble", {}, False),
        "pixels, shuffled": (make_table(pictures, state), "image", {"image_size": size, "frames": 1}, True),
        "lite0, shuffled": (make_table(features, state), "image", encoder, True),
    }
    lines = []
    for seed in seeds:
        random = np.random.default_rng(seed)
        train, held = (draw_pairs(rows, opened, n, random) for rows, n in ((rest, TRAIN), (test, TEST)))
        value = (opened[train[:, 1]] > opened[train[:, 0]]).astype(float)
        shuffled = random.permutation(value)
        for name, (table, choice, changes, is_shuffled) in models.items():
            torch.manual_seed(seed)
            model = make_reward(table, choice, **changes)
            update, _ = prepare(model, table, make_labels(train, shuffled if is_shuffled else value), seed)
            seconds, accuracy = 0.0, {}
            for step in range(1, model.phases()[0].steps + 1):
                began = time.process_time()
                update()
                seconds += time.process_time() - began
                if step in (*STEPS, model.phases()[0].steps):
                    score = model.score_at(table, torch.from_numpy(held), 1).mean(0)
                    right = (score[:, 1] > score[:, 0]).numpy() == (opened[held[:, 1]] > opened[held[:, 0]])
                    accuracy[step] = float(right.mean())
            lines.append({"part": "learning", "task": "metaworld/drawer-open", "model": name, "seed": seed,
                          "pairs": TRAIN, "frames": FRAMES, "size": size, "accuracy": accuracy[step],
                          "accuracy_after_updates": accuracy, "real_weights": has_weights(),
                          "cpu_seconds": seconds})  # fmt: skip
            print(name, seed, f"{lines[-1]['accuracy']:.3f}", f"{seconds:.1f} s", flush=True)
    return lines


def draw_pairs(rows: np.ndarray, opened: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """Pairs [n, 2] of rows whose openness differs by a centimetre or more."""
    pairs = random.choice(rows, (50 * n, 2))
    return pairs[np.abs(opened[pairs[:, 0]] - opened[pairs[:, 1]]) > 0.01][:n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["speed", "features", "learning"], default=["speed"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[300])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--turns", type=int, default=7, help="of both, besides one that warms up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    for part in args.parts:
        found = {
            "speed": lambda: [measure_speed(size, args.turns) for size in args.sizes],
            "features": lambda: [measure_features(args.turns)],
            "learning": lambda: measure_learning(args.seeds, 84),
        }[part]()
        about = {"processor": processor_name(), "threads": 1, "turns": args.turns, "torch": torch.__version__,
                 "load": [round(x, 1) for x in os.getloadavg()]}  # fmt: skip
        new = [{**line, **about} for line in found]
        print("\n".join(map(json.dumps, new)), flush=True)
        kept = {measured(line) for line in new}
        known = [line for line in known if measured(line) not in kept] + new
    FILE.write_text("".join(json.dumps(line) + "\n" for line in known))


def measured(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a line is about; a new one takes its place."""
    return tuple(line.get(name) for name in ("part", "size", "processor", "model", "seed"))


if __name__ == "__main__":
    main()
