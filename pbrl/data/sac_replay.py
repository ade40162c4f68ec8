"""Data from a learner of the true reward: Stable-Baselines3's SAC, every episode recorded with simulator states.

`take: replay` gives every episode of the run up to its last step ("medium-replay" in D4RL's words, arXiv:2004.07219);
`take: rollouts` gives episodes of the first checkpoint that is a given share of the way from the worst to the best
of the run ("medium"), or as many each of several ("medium-expert").
The run is made once and kept beside the data sets; a killed one resumes.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from pbrl import files
from pbrl.data import episodes as storage
from pbrl.data.rollout import EpisodeRecorder, RolloutWorkers, drop_name, episode_seeds, make_environment
from pbrl.data.sac_checkpoint import pack_sac, to_array, to_tensor, unpack_sac
from pbrl.types import Environment, Episode, UserError


class KeepEpisodes(gymnasium.Wrapper):
    """Keeps each finished episode. `before` is the state of the environment's random numbers at the last reset."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.episodes: list[Episode] = []

    def reset(self, **kwargs: Any) -> Any:
        """Gymnasium's `reset`; starts recording an episode."""
        self.before, self.at_start = self.env.unwrapped.np_random.bit_generator.state, True
        obs, info = self.env.reset(**kwargs)
        self.recorder = EpisodeRecorder(self.env, self.env.episode_seed, obs, info)  # type: ignore[attr-defined]
        return obs, info

    def step(self, action: np.ndarray) -> Any:
        """Gymnasium's `step`; records the transition and stores the episode when it ends."""
        self.at_start = False
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.recorder.add(action, obs, float(reward), terminated, info)
        if terminated or truncated:
            self.episodes.append(self.recorder.episode("sac replay"))
        return obs, reward, terminated, truncated, info


class Keep(BaseCallback):
    """Shows progress, saves the policy every so many steps, and at the next reset a checkpoint to resume from."""

    model: SAC

    def __init__(self, folder: Path, every: int, total: int, recorder: KeepEpisodes):
        super().__init__()
        self.folder, self.every, self.recorder = folder, every, recorder
        self.bar = tqdm(total=total, desc="training SAC for data", unit="step", mininterval=1.0)
        self.kept = 0

    def _on_step(self) -> bool:
        self.bar.update(1)
        if self.num_timesteps % self.every == 0:
            self.model.save(self.folder / "policies" / f"{self.num_timesteps:09d}.zip")
        return True

    def _on_rollout_start(self) -> None:
        steps = self.model.num_timesteps
        if self.recorder.at_start and steps // self.every > self.kept and steps > self.model.learning_starts:
            self.kept = steps // self.every
            self.save()

    def save(self) -> None:
        """Writes a checkpoint; between two episodes, so that a reset is all the simulator needs."""
        episodes = [{k: to_tensor(v) for k, v in e._asdict().items()} for e in self.recorder.episodes]
        files.save(self.folder / "checkpoint.pt", {**pack_sac(self.model, self.recorder.before), "episodes": episodes})

    def resume(self, env: gymnasium.Env) -> SAC | None:
        """The checkpoint's model; restores environment, episodes and random numbers too. None: no checkpoint."""
        state = files.load(self.folder / "checkpoint.pt", torch.device("cpu"))
        if state is None:
            return None
        model = unpack_sac(state, env, self.recorder.env)
        episodes = ({k: to_array(v) for k, v in e.items()} for e in state["episodes"])
        self.recorder.episodes = [Episode(**e) for e in episodes]
        self.kept = model.num_timesteps // self.every
        self.bar.update(model.num_timesteps)
        return model


class SacActor:
    """A saved SAC policy, acting as stochastically as it explored."""

    def __init__(self, path: Path, seed: int):
        self.path, self.seed = path, seed

    def start(self, envs: Sequence[Environment], seeds: Sequence[int]) -> None:
        """Loads the policy on the CPU and seeds its sampling by the first environment's seed."""
        self.model = SAC.load(self.path, device="cpu")
        torch.manual_seed(self.seed + int(seeds[0]))

    def act(self, obs: np.ndarray, running: np.ndarray) -> np.ndarray:
        return self.model.predict(obs, deterministic=False)[0]

    def looks(self) -> bool:
        """Never: it observes states."""
        return False

    def source(self, i: int) -> str:
        """The number of environment steps at which the policy was saved."""
        return f"sac at step {int(self.path.stem)}"


def collect_from_sac(
    env: dict[str, Any], data: dict[str, Any], *, folder: Path, seed: int, workers: int, videos: Path | None = None
) -> tuple[list[Episode], dict[str, Any]]:
    """Episodes as `data` takes them from the run of `data["sac"]`; `videos` is a folder for frames that must be kept.

    Episodes of `take: replay` have no frames. Returns them, and what was found out on the way. Raises UserError.
    """
    if data["take"] not in ("replay", "rollouts"):
        raise UserError(f"data.take={data['take']}: it is replay or rollouts")
    if data["take"] == "replay":
        return storage.read(train_sac(env, data["sac"], folder=folder, seed=seed) / "replay"), {}
    skills = data["skill"] if isinstance(data["skill"], list) else [data["skill"]]
    if not skills or not all(0 <= skill <= 1 for skill in skills):
        raise UserError(
            f"data.skill={data['skill']}: shares of the way from the run's worst policy to its best, in [0, 1]"
        )
    returns = evaluate_policies(env, data["sac"], folder=folder, seed=seed, workers=workers)
    low, high = min(returns.values()), max(returns.values())
    chosen = [next(p for p, value in returns.items() if value >= low + skill * (high - low)) for skill in skills]
    episodes: list[Episode] = []
    pool = RolloutWorkers(env, workers)
    try:
        with tqdm(total=data["episodes"], desc=f"collecting {data['name']}", unit="episode") as bar:
            for path, seeds in zip(
                chosen, np.array_split(episode_seeds(seed, data["episodes"]), len(chosen)), strict=True
            ):
                episodes += pool.collect(SacActor(path, seed), seeds.tolist(), bar.update, videos)
    finally:
        pool.close()
    return episodes, {"checkpoints": [int(path.stem) for path in chosen], "returns": list(returns.values())}


def evaluate_policies(
    env: dict[str, Any], sac: dict[str, Any], *, folder: Path, seed: int, workers: int
) -> dict[Path, float]:
    """The saved policies of a run in order, and the mean return of each in ten episodes."""
    run = train_sac(env, sac, folder=folder, seed=seed)
    paths, file = sorted((run / "policies").glob("*.zip")), run / "returns.json"
    if not file.exists():
        pool = RolloutWorkers(env, workers)
        try:
            bar = tqdm(paths, desc="evaluating SAC policies", unit="policy")
            collected = [pool.collect(SacActor(path, seed), episode_seeds(seed + 2, 10)) for path in bar]
        finally:
            pool.close()
        files.write_json(file, [float(np.mean([e.reward.sum() for e in episodes])) for episodes in collected])
    return dict(zip(paths, json.loads(file.read_text()), strict=True))


def train_sac(env: dict[str, Any], sac: dict[str, Any], *, folder: Path, seed: int) -> Path:
    """The folder of a SAC run: `replay`, a data set of all its episodes, and `policies/<step>.zip`.

    A killed run resumes from its last checkpoint and ends with the same bits; other processes that need the same run
    wait for it.
    """
    recipe = {"env": drop_name(env), "sac": sac, "seed": seed}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:10]
    name = env.get("task") or env.get("name", "env")
    path = Path(folder) / f"sac-{name.replace('/', '-')}-{digest}"
    if path.exists():
        return path
    partial = path.with_name(f".partial-{path.name}")
    (partial / "policies").mkdir(parents=True, exist_ok=True)
    with files.lock(path):
        if not path.exists():
            recorder = KeepEpisodes(make_environment(env))  # type: ignore[arg-type]
            keep = Keep(partial, sac["keep_every"], sac["steps"], recorder)
            model = keep.resume(recorder) or new_model(recorder, sac, seed)
            left = sac["steps"] - model.num_timesteps
            model.learn(left, callback=keep, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
            keep.bar.close()
            storage.write(partial / "replay", recorder.episodes, recipe)
            os.replace(partial, path)
            (path / "checkpoint.pt").unlink(missing_ok=True)
    return path


def new_model(env: gymnasium.Env, sac: dict[str, Any], seed: int) -> SAC:
    """An untrained model, with a replay buffer as long as its run."""
    settings = {k: v for k, v in sac.items() if k not in ("steps", "keep_every", "hidden")}
    network = {"net_arch": list(sac["hidden"])}
    return SAC("MlpPolicy", env, policy_kwargs=network, seed=seed, device="auto", buffer_size=sac["steps"], **settings)
