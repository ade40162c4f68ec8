"""Meta-World v3: fifty tabletop tasks of a Sawyer arm, each with a scripted expert.

Yu et al. 2019, arXiv:1910.10897. Observation [39]: hand, gripper and object now and one step ago, then the goal.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from pbrl.types import UserError
from sim.instructions import METAWORLD
from sim.render import Viewpoint
from sim.simulation import Simulation

TASKS = tuple(name.removesuffix("-v3") for name in ALL_V3_ENVIRONMENTS)
FRAME = 18  # numbers per stacked frame in the observation
ARM = "right_arm_base_link"  # the body from which the arm, its gripper and fingers hang
ALPHA = 0.1  # of a see-through arm
CLOSEUP = Viewpoint((0.0, 0.65, 0.1), 1.3, 150, -35)
CLOSEUPS = {  # of tasks whose things are better seen from elsewhere, wherever a seed puts them
    "door-open": Viewpoint((-0.05, 0.76, 0.12), 1.2, 130, -35),
    "drawer-open": Viewpoint((0.0, 0.74, 0.09), 0.95, 150, -35),
    "soccer": Viewpoint((0.0, 0.74, 0.0), 0.8, 135, -45),
    "sweep-into": Viewpoint((0.0, 0.75, 0.0), 0.7, 40, -50),
}


class MetaWorld(Simulation):
    """A Meta-World task with its objects and goal drawn anew in each episode.

    `goal_visible=False` hides the goal from the policy (Meta-World's ML setting); experts see it all the same. With
    `see_through` pictures show what is behind the arm; nothing else changes. `closeup` is a camera of ours, near what
    the task is about.
    """

    has_success = True
    control_hz = 80.0
    keeps_instruction = False  # episodes are known by ids from before there were instructions
    cameras = ("corner2", "corner", "corner3", "topview", "behindGripper", "gripperPOV", "closeup")
    upside_down = ("corner", "corner2", "corner3")

    def __init__(
        self,
        task: str,
        *,
        horizon: int,
        goal_visible: bool,
        see_through: bool = False,
        images: Sequence[str] = (),
        image_size: int = 64,
        camera: str | None = None,
        instruction: str | None = None,
        name: str = "",
    ):
        if task not in TASKS:
            raise UserError(f"Meta-World has no task {task!r}; it has {', '.join(TASKS)}")
        self.task, self.horizon, self.goal_visible, self.name = task, horizon, goal_visible, name
        self.env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        if not 0 < horizon <= self.env.max_path_length:
            raise UserError(f"Meta-World episodes last 1 to {self.env.max_path_length} steps, not horizon={horizon}")
        self.env.seeded_rand_vec, self.env._freeze_rand_vec = True, False  # objects follow the seed
        self.env._set_task_called, self.env._partially_observable = True, False
        self.env.__dict__.pop("sawyer_observation_space", None)  # cached while the goal was still hidden
        self.model, self.data = self.env.model, self.env.data
        if see_through:
            fade(self.model, ARM, ALPHA)
        self.viewpoints, self.instruction = {"closeup": CLOSEUPS.get(task, CLOSEUP)}, METAWORLD[task]
        state = Box(-np.inf, np.inf, (39,), np.float32)
        self.set_view(state, images=images, image_size=image_size, camera=camera, instruction=instruction)
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)

    def _reset(self, seed: int) -> np.ndarray:
        self.env.seed(seed)
        self.env.reset()
        obs = self._put(self.save_state(), 0)  # some tasks return a first frame that shows the episode before
        self.env.evaluate_state(
            self.full_obs, np.zeros(4, np.float32)
        )  # bin-picking measures its start when first asked
        return obs

    def _step(self, action: np.ndarray):
        self.full_obs, reward, _, _, info = self.env.step(action.astype(np.float32))
        return self._visible(self.full_obs), reward, False, {"success": bool(info["success"])}

    def _put(self, state: np.ndarray, t: int) -> np.ndarray:
        self.env.curr_path_length = t
        return super()._put(state, t)

    def _observe(self) -> np.ndarray:
        frame = self.env._get_curr_obs_combined_no_goal()
        self.env._prev_obs = frame
        self.full_obs = np.hstack([frame, frame, self.env._get_pos_goal()])
        return self._visible(self.full_obs)

    def _keypoints(self) -> dict[str, np.ndarray]:
        return {"hand": self.full_obs[:3], "object": self.full_obs[4:7], "goal": self.full_obs[-3:]}

    def _visible(self, obs: np.ndarray) -> np.ndarray:
        return obs if self.goal_visible else np.hstack([obs[:-3], np.zeros(3)])

    def expert(self) -> "Expert":
        """The task's scripted expert (97-98 % success)."""
        return Expert(self.task)

    def double(self, random: np.random.Generator | None = None) -> "MetaWorld":
        """A second simulator of this task, or of another one that `random` draws."""
        others = [task for task in TASKS if task != self.task]
        task = self.task if random is None else others[random.integers(len(others))]
        return MetaWorld(task, horizon=self.horizon, goal_visible=True)


class Expert:
    """Meta-World's scripted policy for a task. `act(obs [39])` → action [4] in [-1, 1]."""

    # Where an observation speaks of things in the scene (not of the hand): both stacked frames, and the goal.
    objects = (slice(4, 7), slice(FRAME + 4, FRAME + 7), slice(2 * FRAME, 2 * FRAME + 3))

    def __init__(self, task: str):
        self.policy = ENV_POLICY_MAP[f"{task}-v3"]()

    def act(self, obs: np.ndarray) -> np.ndarray:
        return np.clip(self.policy.get_action(obs), -1.0, 1.0)


def fade(model: mujoco.MjModel, body: str, alpha: float) -> None:
    """Makes a body and all that hangs from it see-through in pictures; physics do not know colors."""
    faded = {model.body(body).id}
    for child in range(model.nbody):  # parents come first
        if model.body_parentid[child] in faded:
            faded.add(child)
    for geom in (i for i in range(model.ngeom) if model.geom_bodyid[i] in faded):
        material, rgba = model.geom_matid[geom], model.geom_rgba[geom]
        if material >= 0 and (rgba == 0.5).all(where=[True, True, True, False]):  # MuJoCo shows the material's color
            rgba[:] = model.mat_rgba[material]
        rgba[3] *= alpha
    for site in (i for i in range(model.nsite) if model.site_bodyid[i] in faded):
        model.site_rgba[site, 3] *= alpha
