"""What `reset` changes in a task's model, by episode: with that a state is rendered without resetting once more.

A Meta-World reset takes a hundred steps of physics, more than a frame; what pictures need of it are a few positions.
"""

import mujoco
import numpy as np

LIMIT = 2**26  # bytes that are kept of all episodes
ELSEWHERE = ("bvh_", "mesh_", "names", "oct_", "skin_", "tex_")  # large; on their way to OpenGL only when it begins


class Looks:
    """The arrays of one model that differ between episodes. Of another MuJoCo model make another."""

    def __init__(self, model: mujoco.MjModel):
        arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith(("_", *ELSEWHERE))}
        self.model = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and array.size}
        self.before = {name: array.copy() for name, array in self.model.items()}
        self.changed: set[str] = set()  # in any episode
        self.known: dict[int, dict[str, np.ndarray]] = {}  # the oldest first
        self.bytes = 0

    def keep(self, episode_seed: int) -> None:
        """Keeps the model as the episode's reset has left it."""
        look = {}
        for name, array in self.model.items():
            if not np.array_equal(array, self.before[name]):
                look[name] = array.copy()
        self.changed |= set(look)
        self._forget(episode_seed)
        self.known[episode_seed] = look
        self.bytes += size_of(look)
        while self.bytes > LIMIT and len(self.known) > 1:
            self._forget(next(iter(self.known)))

    def put(self, episode_seed: int) -> bool:
        """Makes the model what it was after the episode's reset; False where that is not known."""
        look = self.known.get(episode_seed)
        if look is None:
            return False
        for name in self.changed:
            self.model[name][...] = look.get(name, self.before[name])
        return True

    def _forget(self, episode_seed: int) -> None:
        self.bytes -= size_of(self.known.pop(episode_seed, {}))


def size_of(look: dict[str, np.ndarray]) -> int:
    """Its bytes."""
    return sum(array.nbytes for array in look.values())
