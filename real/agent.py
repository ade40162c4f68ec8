"""A trained policy on a real arm: from the arm's state and camera images to actions, as in training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pbrl.data.rollout import to_observation, to_text
from pbrl.data.video import square
from pbrl.models.policy import load_policy
from pbrl.models.text import check_instruction, unknown_words
from pbrl.rollout import environment_of
from pbrl.types import UserError
from real.robot import State
from robots import arm as arms
from robots.actions import ActionMapping
from robots.observations import KEYPOINTS, ROBOT_DIM, object_count, observation

TARGETS = ("sim.tabletop.Tabletop", "sim.franka.Franka")  # environments whose observations and actions an arm has
CONTROL_HZ = 20.0


def read_env(folder: str | Path) -> dict[str, Any]:
    """The settings of the environment that a run, or a server's policy, trained on. Raises UserError."""
    env = environment_of(folder, [])
    if env["_target_"] not in TARGETS:
        raise UserError(f"{folder} trained on {env['_target_']}, not on env=tabletop/…: it does not fit an arm")
    if env["task"] in KEYPOINTS and env.get("state", "full") == "full":
        raise UserError(
            f"{folder} trained on points of a {env['task']}, which nothing measures here: train with env.state=robot "
            "and env.images=[front,wrist]"
        )
    return env


class Agent:
    """The policy of a run's `folder`, or of a server, on the arm `robot`; `instruction` is what it is told to do.

    Raises UserError, also where a policy that reads instructions has none, or none that it knows a word of.
    """

    def __init__(self, folder: str | Path, robot: str, instruction: str | None = None):
        self.folder, self.policy, self.env = folder, load_policy(folder), read_env(folder)
        if self.env["robot"] != robot:
            raise UserError(
                f"{folder} trained on a {self.env['robot']}, and robot={robot}: their limits differ; train with "
                f"env.robot={robot}"
            )
        self.arm, self.hz = arms.load(robot), CONTROL_HZ
        self.actions = ActionMapping(self.arm, self.env["control"], self.hz)
        self.needs_goal = self.env.get("state", "full") == "full"
        self.objects = object_count(self.policy.spec.obs_dim) if self.needs_goal else 0
        self.cameras: list[str] = list(self.env.get("images") or [])
        self.instruction, self.text = self._read(instruction)

    def _read(self, instruction: str | None) -> tuple[str, dict[str, np.ndarray]]:
        """What the policy is told, and as it reads it."""
        if not self.policy.reads_words:
            if instruction is not None:
                raise UserError(f"{self.folder} reads no instructions: leave instruction=… out")
            return "", {}
        vocabulary, told = self.policy.spec.vocabulary, instruction or ""
        check_instruction(told, vocabulary)
        unknown = unknown_words(told, vocabulary)
        if unknown:
            print(f"WARNING: the policy was never told {', '.join(unknown)}; it reads the other words")
        text, sentences = to_text([told], self.policy), self.policy.spec.sentences
        if sentences is not None and told not in sentences.instructions:
            nearest, cosine = sentences.find_nearest(told)
            print(f"WARNING: the policy was never told this; nearest to it was {nearest!r} (cosine {cosine:.2f})")
        return told, text

    def state_vector(self, state: State) -> np.ndarray:
        """The state part of the policy's observation, [O]."""
        kinematics = self.actions.kinematics
        full = observation(kinematics, state.q, state.dq, state.width, state.objects, state.goal)
        return full if self.needs_goal else full[:ROBOT_DIM]

    @torch.no_grad()
    def act(self, state: State, images: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The state part of the observation, [O], and actions [K, A]; `images` [H, W, 3] of its cameras."""
        vector = self.state_vector(state).astype(np.float32)
        size = self.env.get("image_size", 0)
        views = {name: square(images[name], size)[None] for name in self.cameras}
        chunk = self.policy.plan(to_observation({"state": vector[None], "images": views}, self.text))  # [1, K, A]
        return vector, chunk[0].numpy()
