"""Gymnasium's spaces as policies take them: a vector of numbers, images by name, and actions in [-1, 1]."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from pbrl.types import UserError

NUMBERS = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


class ObservationParts:
    """Splits the observations of a space into numbers [O] and images.

    A Dict is flattened in its own order: Gymnasium sorts the keys of a Dict by name, unless it was made with
    `sort_keys=False`. Parts that are Discrete or MultiDiscrete become one-hot. An image is a uint8 Box of shape [H, W],
    [H, W, 1 or 3] or [1 or 3, H, W]; its name is its key, with dots where Dicts are nested, or "pixels" where it is all
    there is. Raises UserError for any other space.
    """

    def __init__(self, space: spaces.Space, owner: str):
        self.owner = owner
        self.numbers: list[tuple[tuple[str, ...], spaces.Space]] = []
        self.images: dict[str, tuple[str, ...]] = {}
        for keys, part in _leaves(space):
            name = ".".join(keys) or "pixels"
            if is_image(part):
                self.images[name] = keys
            elif isinstance(part, NUMBERS) and len(part.shape or ()) < 3:
                self.numbers.append((keys, part))
            else:
                raise UserError(
                    f"{owner} observes {part} as {name}, which is read neither as numbers nor as an image: wrap it in "
                    "gymnasium.wrappers.TransformObservation, to vectors and uint8 images [H, W, 3]"
                )
        self.size = sum(spaces.flatdim(part) for _, part in self.numbers)

    def state(self, observation: Any) -> np.ndarray:
        """The numbers [O] float32. Raises UserError where they are not those of the space."""
        parts: list[Any] = [spaces.flatten(part, self._at(observation, keys)) for keys, part in self.numbers]
        found = np.concatenate([np.empty(0), *parts]).astype(np.float32)
        if len(found) != self.size:
            raise UserError(
                f"{self.owner} returned an observation of {len(found)} numbers, and its observation_space has "
                f"{self.size}"
            )
        return found

    def image(self, observation: Any, name: str) -> np.ndarray:
        """The image `name` [H, W, 3] uint8."""
        return to_rgb(np.asarray(self._at(observation, self.images[name])))

    def _at(self, observation: Any, keys: tuple[str, ...]) -> Any:
        for i, key in enumerate(keys):
            if not isinstance(observation, Mapping) or key not in observation:
                raise UserError(f"{self.owner} returned an observation without {'.'.join(keys[: i + 1])}")
            observation = observation[key]
        return observation


def _leaves(space: spaces.Space, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], spaces.Space]]:
    """The parts of a space that are no Dict, with the keys that lead to them."""
    if not isinstance(space, spaces.Dict):
        yield keys, space
        return
    for key, part in space.spaces.items():
        yield from _leaves(part, (*keys, key))


def is_image(space: spaces.Space) -> bool:
    """Whether a space holds gray or color images of 8 bits."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    shape = space.shape
    return len(shape) == 2 or (len(shape) == 3 and (shape[-1] in (1, 3) or shape[0] in (1, 3)))


def to_rgb(image: np.ndarray) -> np.ndarray:
    """A gray or color image, its channels first or last, as [H, W, 3]."""
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[-1] not in (1, 3):
        image = np.moveaxis(image, 0, -1)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


class ActionScale:
    """Actions of a Box with finite bounds ↔ [-1, 1]^A. Bounds that are equal make a constant. Raises UserError."""

    def __init__(self, space: spaces.Space, owner: str):
        if not isinstance(space, spaces.Box):
            raise UserError(
                f"{owner} has actions in {space}, and policies here act in a Box of numbers: wrap it so that it takes "
                "Box actions, or choose another environment"
            )
        if not space.is_bounded():
            raise UserError(
                f"{owner} has actions without bounds ({space}), so [-1, 1] cannot be scaled to them: give its "
                "action_space finite bounds, as in Box(-1, 1, (2,)), or wrap it in gymnasium.wrappers.RescaleAction"
            )
        self.space = space
        self.low, self.range = (part.astype(np.float64).ravel() for part in (space.low, space.high - space.low))
        self.size = len(self.low)
        if not self.size:
            raise UserError(f"{owner} takes no action")

    def to_environment(self, action: np.ndarray) -> np.ndarray:
        """action [A] in [-1, 1] → as the environment takes it."""
        scaled = (self.low + (action + 1.0) * 0.5 * self.range).reshape(self.space.shape)
        if np.issubdtype(self.space.dtype, np.integer):
            scaled = np.rint(scaled)
        return np.clip(scaled, self.space.low, self.space.high).astype(self.space.dtype)

    def from_environment(self, action: Any) -> np.ndarray:
        """An action of the environment → [A] in [-1, 1], clipped; 0 where the bounds are equal."""
        found = np.asarray(action, np.float64)
        if found.size != self.size:
            raise UserError(f"an expert returned an action of shape {found.shape}, and actions are {self.space.shape}")
        away = found.reshape(self.size) - self.low
        scaled = np.divide(2.0 * away, self.range, out=np.ones(self.size), where=self.range > 0) - 1.0
        return np.clip(scaled, -1.0, 1.0)
