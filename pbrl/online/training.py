"""SAC from its first step to its last: it is evaluated on the way, and goes on from its last checkpoint.

Checkpoints are made between two episodes of the one environment, so that a reset is all that the simulator needs, and a
run that was killed ends with the same bits on the same device.
"""

from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from tqdm import tqdm

from pbrl import files
from pbrl.data.frames import without_images
from pbrl.data.rollout import RolloutWorkers, make_environment, worker_count
from pbrl.data.sac_checkpoint import pack_sac, unpack_sac
from pbrl.models.gaussian import GaussianPolicy
from pbrl.online.buffer import EpisodeReplayBuffer
from pbrl.online.environment import LearnedRewardEnv, RecordedEnv, true_rewards
from pbrl.online.policy import to_policy
from pbrl.online.reward import RewardRun, Sizes
from pbrl.online.settings import Settings
from pbrl.training.engine import pick_device
from pbrl.training.evaluate import rollout_policy, summarize
from pbrl.training.interrupts import Stopped, deferred, is_due
from pbrl.training.log import Log
from pbrl.types import Environment, Episode, UserError


class Ended(Exception):
    """All steps are made, and the last episode has ended."""


COLUMNS = ("steps", "return", "true_return")  # of the episodes that were played: the learnt one, and the true one


class Measured(NamedTuple):
    """What episodes came to: an `Evaluation`'s numbers, the mean of the reward that was learnt from, and attributes."""

    numbers: dict[str, Any]
    episodes: list[Episode]


class Training:
    """A run in its folder. `learnt` holds the reward, the environment and the run's data set."""

    def __init__(self, settings: Settings, learnt: RewardRun, folder: Path):
        """Makes the environment and SAC, or reads the checkpoint. Raises UserError where they do not fit."""
        self.settings, self.learnt, self.folder = settings, learnt, folder
        self.env_config = without_images(learnt.env)
        self.reward = true_rewards if settings.true_reward else learnt.reward
        self.workers = RolloutWorkers(self.env_config, worker_count(settings.workers))
        self.recorder = RecordedEnv(make_environment(self.env_config))  # type: ignore[arg-type]
        self.env = LearnedRewardEnv(DummyVecEnv([lambda: self.recorder]), self.reward)  # type: ignore[list-item]
        self.measuring: Environment = make_environment(self.env_config)  # another one: measuring moves it
        self.horizon = self.measuring.horizon
        self.sizes = Sizes(self.measuring.observation_space.shape[0], self.measuring.action_space.shape[0])
        self._check()
        self.log = Log(folder)
        self.played: list[dict[str, float]] = []  # the episodes so far
        self.evaluations: list[dict[str, Any]] = []
        self.saved = 0
        self.model = self._resume() or self._start()

    def run(self) -> None:
        """Trains to the end of an episode; what is saved on the way is gone on from. Raises Stopped."""
        if self.model.num_timesteps >= self.settings.steps:
            print("the same command has finished already; steps=… makes more")
            return
        longest = self.settings.steps + self.horizon - self.model.num_timesteps
        watch = Watch(self)
        with deferred(), suppress(Ended), closing(watch.bar):
            self.model.learn(longest, callback=watch, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]

    def evaluate(self) -> None:
        """Plays evaluation episodes, and notes what they came to."""
        found, step = self.measure(self.settings.eval_episodes), self.model.num_timesteps
        self.evaluations.append({"step": step, **self.log.write("policy", step, found.numbers)})

    def measure(self, episodes: int) -> Measured:
        """Of so many evaluation episodes of the present policy."""
        played = rollout_policy(self.workers, self.policy(), episodes, self.settings.eval_seed)
        rewarded = float(np.mean([rewards.sum() for rewards in self.reward(played)]))
        numbers = asdict(summarize(played)) | {"rewarded_return": rewarded, **self._attributes(played)}
        return Measured(numbers, played)

    def policy(self) -> GaussianPolicy:
        """The present policy."""
        return to_policy(self.model, self.horizon)

    def close(self) -> None:
        """Ends processes, and closes files and simulators."""
        self.log.close()
        self.workers.close()
        self.env.close()
        self.measuring.close()

    # What it begins with

    def _check(self) -> None:
        settings, env = self.settings, self.learnt.env
        if not settings.true_reward:
            self.learnt.reward.check(self.sizes)
        first = self.learnt.episodes[0]
        if settings.prior and self.sizes != Sizes(first.obs.shape[1], first.action.shape[1]):
            raise UserError(
                f"prior=true puts the run's data set into the replay buffer, whose episodes have other observations or "
                f"actions than {env.get('name') or 'this environment'}: prior=false"
            )
        if not settings.prior and settings.sac.learning_starts < self.horizon:
            raise UserError(
                f"sac.learning_starts={settings.sac.learning_starts}: an episode's reward is known when it has ended, "
                f"so it is at least {self.horizon}, the steps of an episode"
            )

    def _start(self) -> SAC:
        settings, prior = self.settings, self.learnt.episodes if self.settings.prior else []
        model = SAC(
            "MlpPolicy", self.env, seed=settings.seed, device=pick_device(settings.device),
            buffer_size=self._buffer_size(), replay_buffer_class=EpisodeReplayBuffer, **settings.sac.arguments(),
        )  # fmt: skip
        assert isinstance(model.replay_buffer, EpisodeReplayBuffer)
        if prior:
            model.replay_buffer.fill(prior, self.prior_rewards())
        return model

    def prior_rewards(self) -> list[np.ndarray]:
        """The reward of each step of the run's data set: [T] each."""
        if self.settings.true_reward:
            return true_rewards(self.learnt.episodes)
        return self.learnt.rewards_of_data()

    def _buffer_size(self) -> int:
        prior = sum(len(episode.action) for episode in self.learnt.episodes) if self.settings.prior else 0
        return self.settings.steps + self.horizon + prior  # it never wraps

    def _attributes(self, played: list[Episode]) -> dict[str, float | None]:
        """The mean over all steps of each attribute that the environment measures; None where it is undefined."""
        found = [self.measuring.measure(e.seed, e.state) for e in played if e.state is not None]
        steps = {name: np.concatenate([own[name] for own in found]) for name in self.measuring.attributes}
        return {name: None if np.isnan(own).all() else float(np.nanmean(own)) for name, own in steps.items()}

    # Checkpoints

    def save(self) -> None:
        """Writes a checkpoint; between two episodes."""
        played = {name: torch.tensor([own[name] for own in self.played], dtype=torch.float64) for name in COLUMNS}
        own = {"identity": self.settings.identity, "evaluations": self.evaluations, "log": self.log.position()}
        self.saved = self.model.num_timesteps
        state = pack_sac(self.model, self.recorder.before)
        files.save(self.folder / "checkpoint.pt", {**state, **own, "played": played})

    def _resume(self) -> SAC | None:
        state = files.load(self.folder / "checkpoint.pt", torch.device("cpu"))
        if state is None:
            self.log.rewind(0)  # of a run that was killed before its first checkpoint
            return None
        changed = files.differences(state["identity"], self.settings.identity)
        if changed:
            raise UserError(f"{self.folder} holds another run ({', '.join(changed)}): choose another with run=…")
        model = unpack_sac(state, self.env, self.recorder, buffer_size=self._buffer_size())
        buffer = model.replay_buffer
        assert isinstance(buffer, EpisodeReplayBuffer)
        buffer.is_known[: buffer.pos] = True  # between two episodes all are
        columns = {name: values.tolist() for name, values in state["played"].items()}
        self.played = [dict(zip(COLUMNS, own, strict=True)) for own in zip(*columns.values(), strict=True)]
        self.evaluations, self.saved = state["evaluations"], model.num_timesteps
        self.log.rewind(state["log"])
        return model


class Watch(BaseCallback):
    """Shows progress; evaluates and saves when it is time."""

    def __init__(self, training: Training):
        super().__init__()
        self.training, steps = training, training.model.num_timesteps
        self.bar = tqdm(total=training.settings.steps, initial=steps, desc="SAC", unit="step", mininterval=1.0)

    def _on_step(self) -> bool:
        self.bar.update(1)
        for info in self.locals["infos"]:
            if "true_return" in info:
                self._note(info)
        return True

    def _note(self, info: dict[str, Any]) -> None:
        training = self.training
        own = {"steps": len(info["rewards"]), "return": info["rewards"].sum(), "true_return": info["true_return"]}
        own = {name: float(value) for name, value in own.items()}
        training.played.append(own)
        training.log.write("rollouts", self.num_timesteps, own)
        if not self.bar.disable:
            self.bar.set_postfix(true_return=f"{own['true_return']:.4g}", refresh=False)

    def _on_rollout_start(self) -> None:
        if self.training.recorder.at_start:
            self._between_episodes(self.training, self.training.settings)

    def _between_episodes(self, training: Training, settings: Settings) -> None:
        steps, has_ended = self.num_timesteps, self.num_timesteps >= settings.steps
        evaluated = training.evaluations[-1]["step"] if training.evaluations else 0
        if has_ended or steps // settings.eval_every > evaluated // settings.eval_every:
            training.evaluate()
        if has_ended or is_due() or steps // settings.checkpoint_every > training.saved // settings.checkpoint_every:
            training.save()
        if has_ended:
            raise Ended
        if is_due():
            raise Stopped
