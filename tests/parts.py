"""The parts that configs name, as the command line composes them, made small; and batches to feed them with."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import sim.configs
from pbrl.run import build as parts
from pbrl.types import PairsAndSteps, PairsAndUnasked, PreferenceBatch, Spec, Transitions, Windows

CONFIGS = Path(__file__).parent.parent / "configs"
SPEC = Spec(5, 2, (0.0,) * 5, (1.0,) * 5, 30)
SMALL = {"hidden": [16], "width": 16, "heads": 2, "context": 4}
sim.configs.register()


def config(*overrides: str) -> dict[str, Any]:
    """What `python train.py <overrides>` would run with."""
    return OmegaConf.to_container(_composed(overrides), resolve=True, throw_on_missing=True)  # type: ignore


@cache
def _composed(overrides: tuple[str, ...]) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", list(overrides))


def names(part: str) -> list[str]:
    """The choices of `part=`."""
    return [path.stem for path in sorted((CONFIGS / part).glob("*.yaml"))]


def build(name: str, spec: Spec = SPEC, **changes: Any) -> Any:
    """`algo/cpl`, `reward/ensemble` … on a small network; `objective` may be a name or a function."""
    torch.manual_seed(0)
    part, choice = name.split("/")
    objective = changes.pop("objective", "logistic" if part == "algo" else "bradley_terry")
    found = config(f"{part}={choice}", "steps=100")[part]
    small = SMALL if part == "algo" else SMALL | {"context": 8}  # the length of the segments below
    found = {k: small.get(k, v) for k, v in found.items()} | changes
    takes, given = parts.signature(found), {}
    if "policy" in takes:
        given["policy"] = build("policy/mlp", spec, hidden=[16, 16])
    if "objective" in takes:
        chosen = objective if callable(objective) else instantiate(config(f"objective={objective}")["objective"])
        given["objective"] = chosen
    return parts.build(found, spec, **given)


def batches(kind: type, count: int, spec: Spec = SPEC, length: int = 4, segments: int = 2) -> list[Any]:
    """Random batches; windows are of `length` rows. `segments`: 2 make pairs, 1 makes good and bad, more make lists."""
    g = torch.Generator().manual_seed(1)
    o, a = spec.obs_dim, spec.action_dim

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g) * 2 - 1

    def windows() -> Windows:
        last = torch.randint(1, length, (16,), generator=g)
        holds = (torch.arange(length) < last[:, None]) | (last[:, None] == length - 1)
        step = torch.randint(20, (16, 1), generator=g) + torch.arange(length)
        done = (rand(16) > 0.6).float() * (last < length - 1)
        return Windows(rand(16, length, o), rand(16, length, a), rand(16, length), 5 * rand(16, length),
                       step, last, holds.float(), done)  # fmt: skip

    def pairs(k: int = 2) -> PreferenceBatch:
        n = max(k, 2)
        label = torch.tensor([0.0, 1.0, 0.5, 1.0]) if k == 2 else torch.randint(n, (4, n), generator=g).float()
        return PreferenceBatch(rand(4, n, 8, o), rand(4, n, 8, a), label)

    def transitions() -> Transitions:
        return Transitions(rand(16, o), rand(16, a), rand(16), rand(16, o), (rand(16) > 0.8).float())

    def both() -> PairsAndSteps:
        return PairsAndSteps(pairs(), transitions())

    make = {
        PreferenceBatch: lambda: pairs(segments), Transitions: transitions, Windows: windows, PairsAndSteps: both,
        PairsAndUnasked: lambda: PairsAndUnasked(pairs(), pairs()),
    }[kind]  # fmt: skip
    return [make() for _ in range(count)]


def fed(learner: Any, count: int) -> list[Any]:
    """Random batches of what a learner eats."""
    return batches(learner.batch, count, segments=getattr(learner, "segments", 2))
