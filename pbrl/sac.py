"""Data from a learner of the true reward: Stable-Baselines3's SAC, every episode recorded with simulator states.

`take: replay` gives all that the run has seen up to its last step ("medium-replay" in D4RL's words, arXiv:2004.07219);
`take: rollouts` gives episodes of the first checkpoint that is a wished share of the way from the worst to the best
of the run ("medium"), or as many each of several ("medium-expert").
The run is made once and kept beside the data sets; one that is killed starts over.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from hydra.utils import instantiate
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from pbrl import episodes as files
from pbrl.rollout import Players, Recording, episode_seeds
from pbrl.types import Episode, UserError


class Recorder(gymnasium.Wrapper):
    """Keeps each finished episode."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.episodes: list[Episode] = []

    def reset(self, **kwargs: Any) -> Any:
        obs, info = self.env.reset(**kwargs)
        self.recording = Recording(self.env, self.env.episode_seed, obs, info)  # type: ignore[attr-defined]
        return obs, info

    def step(self, action: np.ndarray) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.recording.add(action, obs, float(reward), terminated, info)
        if terminated or truncated:
            self.episodes.append(self.recording.episode("sac replay"))
        return obs, reward, terminated, truncated, info


class Keep(BaseCallback):
    """Shows progress, and keeps the policy every so many steps."""

    def __init__(self, folder: Path, every: int, total: int):
        super().__init__()
        self.folder, self.every = folder, every
        self.bar = tqdm(total=total, desc="training SAC for data", unit="step", mininterval=1.0)

    def _on_step(self) -> bool:
        self.bar.update(1)
        if self.num_timesteps % self.every == 0:
            self.model.save(self.folder / f"{self.num_timesteps:09d}.zip")
        return True


class SacActor:
    """A kept SAC policy, acting as stochastically as it explored."""

    def __init__(self, path: Path, seed: int):
        self.path, self.seed = path, seed

    def start(self, envs: Sequence[Any], seeds: Sequence[int]) -> None:
        self.model = SAC.load(self.path, device="cpu")
        torch.manual_seed(self.seed + int(seeds[0]))

    def act(self, obs: np.ndarray, running: np.ndarray) -> np.ndarray:
        return self.model.predict(obs, deterministic=False)[0]

    def source(self, i: int) -> str:
        return f"sac at step {int(self.path.stem)}"


def episodes_of_run(
    env: dict[str, Any], data: dict[str, Any], *, folder: Path, seed: int, workers: int
) -> tuple[list[Episode], dict[str, Any]]:
    """Episodes as `data` takes them from the run of `data["sac"]`, and what was found out on the way."""
    if data["take"] not in ("replay", "rollouts"):
        raise UserError(f"data.take={data['take']}: it is replay or rollouts")
    if data["take"] == "replay":
        return files.read(trained(env, data["sac"], folder=folder, seed=seed) / "replay"), {}
    skills = data["skill"] if isinstance(data["skill"], list) else [data["skill"]]
    if not skills or not all(0 <= skill <= 1 for skill in skills):
        raise UserError(
            f"data.skill={data['skill']}: shares of the way from the run's worst policy to its best, in [0, 1]"
        )
    returns = measured(env, data["sac"], folder=folder, seed=seed, workers=workers)
    low, high = min(returns.values()), max(returns.values())
    chosen = [next(p for p, value in returns.items() if value >= low + skill * (high - low)) for skill in skills]
    episodes: list[Episode] = []
    players = Players(env, workers)
    try:
        with tqdm(total=data["episodes"], desc=f"collecting {data['name']}", unit="episode") as bar:
            for path, seeds in zip(
                chosen, np.array_split(episode_seeds(seed, data["episodes"]), len(chosen)), strict=True
            ):
                episodes += players.play_all(SacActor(path, seed), seeds.tolist(), lambda n: bar.update(n))
    finally:
        players.close()
    return episodes, {"checkpoints": [int(path.stem) for path in chosen], "returns": list(returns.values())}


def measured(env: dict[str, Any], sac: dict[str, Any], *, folder: Path, seed: int, workers: int) -> dict[Path, float]:
    """The kept policies of a run in order, and the mean return of each in ten episodes."""
    run = trained(env, sac, folder=folder, seed=seed)
    paths, file = sorted((run / "policies").glob("*.zip")), run / "returns.json"
    if not file.exists():
        players = Players(env, workers)
        try:
            bar = tqdm(paths, desc="measuring SAC policies", unit="policy")
            played = [players.play_all(SacActor(path, seed), episode_seeds(seed + 2, 10)) for path in bar]
        finally:
            players.close()
        partial = file.with_suffix(f".partial-{os.getpid()}")
        partial.write_text(json.dumps([float(np.mean([e.reward.sum() for e in episodes])) for episodes in played]))
        os.replace(partial, file)
    return dict(zip(paths, json.loads(file.read_text()), strict=True))


def trained(env: dict[str, Any], sac: dict[str, Any], *, folder: Path, seed: int) -> Path:
    """The folder of a SAC run: `replay`, a data set of all its episodes, and `policies/<step>.zip`."""
    recipe = {"env": env, "sac": sac, "seed": seed}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:10]
    path = Path(folder) / f"sac-{env.get('task', 'env')}-{digest}"
    if path.exists():
        return path
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        policies = Path(partial) / "run" / "policies"
        policies.mkdir(parents=True)
        recorder = Recorder(instantiate(env))
        settings = {k: v for k, v in sac.items() if k not in ("steps", "keep_every", "hidden")}
        model = SAC(
            "MlpPolicy", recorder, policy_kwargs={"net_arch": list(sac["hidden"])}, seed=seed, device="auto", **settings
        )
        keep = Keep(policies, sac["keep_every"], sac["steps"])
        model.learn(sac["steps"], callback=keep, log_interval=None)  # type: ignore[arg-type]
        keep.bar.close()
        files.write(Path(partial) / "run" / "replay", recorder.episodes, recipe)
        if path.exists():
            shutil.rmtree(path)
        os.replace(Path(partial) / "run", path)
    return path
