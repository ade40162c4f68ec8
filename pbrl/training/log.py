"""Metric sinks: where training's numbers are read off the device, every so many updates.

`metrics.jsonl` is always written, one line an event; wandb and TensorBoard by a switch, imported only if asked for.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pbrl import files
from pbrl.types import UserError


class Log:
    """Writes events {"step", "phase", …}. `position` is the file's length; `rewind` cuts it back when resuming."""

    def __init__(self, folder: Path, *, wandb: bool = False, tensorboard: bool = False, config: dict | None = None):
        self.path = folder / "metrics.jsonl"
        try:
            self.file = self.path.open("a")
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror}): choose another folder with run=…") from error
        self.wandb = self.tensorboard = None
        try:
            if wandb:
                import wandb as module

                mode = "online" if module.login(prompt=False) else "offline"
                name = f"{folder.parent.name}/{folder.name}"
                self.wandb = module.init(
                    project="pbrl", dir=folder, mode=mode, config=config, name=name, reinit="create_new"
                )  # type: ignore[arg-type]
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self.tensorboard = SummaryWriter(folder / "tensorboard")
        except ImportError as error:
            raise UserError(
                f"{error.name} is not installed: `pip install pbrl[log]`, or leave logger.{error.name} off"
            ) from error

    def write(self, phase: str, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """Writes one event; tensors are read here. Returns the plain values."""
        tensors = {key: value.float() for key, value in values.items() if isinstance(value, Tensor)}
        read = torch.stack(list(tensors.values())).tolist() if tensors else []  # at once: each time waits for a GPU
        plain = {**values, **dict(zip(tensors, read, strict=True))}
        try:
            self.file.write(files.to_json({"phase": phase, "step": step, **plain}) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} ({error.strerror}): free some space and start again with the same command; "
                "the run goes on from its last checkpoint"
            ) from error
        numbers = {f"{phase}/{k}": v for k, v in plain.items() if isinstance(v, (int, float))}
        if self.wandb is not None:
            self.wandb.log({**numbers, "step": step})
        if self.tensorboard is not None:
            for key, value in numbers.items():
                self.tensorboard.add_scalar(key, value, step)
        return plain

    def position(self) -> int:
        """Bytes written so far, surely on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return os.path.getsize(self.path)

    def rewind(self, position: int) -> None:
        """Forgets what was written after `position`: the work after a checkpoint is done again, and logged again.

        Raises UserError where less than that is there.
        """
        size = os.path.getsize(self.path)
        if size < position:
            raise UserError(
                f"{self.path} is cut off: the checkpoint beside it was made when {position:,} bytes were there, and "
                f"now {size:,} are: put the file back, or delete the checkpoint to start this run anew"
            )
        self.file.truncate(position)
        self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Closes the file, and the run of wandb or TensorBoard."""
        self.file.close()
        if self.wandb is not None:
            self.wandb.finish()
        if self.tensorboard is not None:
            self.tensorboard.close()


def read(folder: Path, phase: str | None = None) -> list[dict[str, Any]]:
    """The events of a run, of one phase if given; without one that is being written. Raises UserError."""
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_bytes().decode().split("\n")[:-1]  # a line that was cut short has no end
        events = [json.loads(line) for line in lines]
        if not all(isinstance(event, dict) and "phase" in event for event in events):
            raise ValueError("a line has no phase")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): it holds one JSON object in each line") from error
    return [event for event in events if phase in (None, event["phase"])]
