"""What a run of Stable-Baselines3's SAC goes on from, between two episodes of its one environment: to the same bits."""

import io
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC

from pbrl import files

BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def pack_sac(model: SAC, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Networks, optimizers, replay buffer and random numbers as a checkpoint may hold them.

    `environment` is the state of the environment's random numbers at the last reset. The buffer must not have wrapped.
    """
    stream, held = io.BytesIO(), stored_steps(model)
    model.save(stream)
    return {
        "model": torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8),
        "buffer": {name: torch.from_numpy(getattr(model.replay_buffer, name)[:held]) for name in BUFFER},
        "environment": dict(environment),
        "actions": model.action_space.np_random.bit_generator.state,
        "numpy": [to_tensor(part) for part in np.random.get_state()],
        "torch": files.random_state(model.device),
    }


def unpack_sac(state: dict[str, Any], env: Any, base: gymnasium.Env, **changes: Any) -> SAC:
    """The model of `pack_sac` on `env`, whose first environment is `base`; `changes` are of SAC's arguments."""
    model = SAC.load(io.BytesIO(state["model"].numpy().tobytes()), env=env, device="auto", **changes)
    buffer = model.replay_buffer
    assert buffer is not None and model.env is not None
    model.env.unwrapped._reset_seeds()  # loading has it start again with the run's first episode
    for name, values in state["buffer"].items():
        getattr(buffer, name)[: len(values)] = values.numpy()
    buffer.pos = len(state["buffer"]["actions"])
    base.unwrapped.np_random.bit_generator.state = state["environment"]
    if "actions" in state:  # earlier versions' were not saved before they had been drawn for the last time
        model.action_space.np_random.bit_generator.state = state["actions"]
    np.random.set_state(tuple(to_array(part) for part in state["numpy"]))
    files.set_random_state(state["torch"], model.device)
    return model


def stored_steps(model: SAC) -> int:
    """Steps in the replay buffer, which never wraps: it is as long as the run."""
    buffer = model.replay_buffer
    assert buffer is not None
    return buffer.buffer_size if buffer.full else buffer.pos


def to_tensor(x: Any) -> Any:
    """Arrays as tensors, which a checkpoint may hold; `to_array` makes them arrays again."""
    if not isinstance(x, np.ndarray):
        return x
    return torch.from_numpy(x.astype(np.int64) if x.dtype == np.uint32 else x)


def to_array(x: Any) -> Any:
    return x.numpy() if isinstance(x, torch.Tensor) else x
