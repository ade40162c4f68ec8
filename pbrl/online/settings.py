"""The command's settings, typed, and checked before anything is made."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pbrl.ranges import Count, NotNegative, Positive, Range, Seed, Share, Size, Whole, check_values, hints
from pbrl.settings import Episodes, check_names
from pbrl.types import UserError

MAY_CHANGE = {"run", "steps", "checkpoint_every", "video", "device", "threads", "workers", "data_dir"}  # when going on


@dataclass(frozen=True)
class SACSettings:
    """Those of Stable-Baselines3's SAC; see configs/online.yaml."""

    hidden: list[Size]
    learning_starts: Whole
    batch_size: Size
    learning_rate: Positive
    gamma: Share
    tau: Share
    gradient_steps: Size
    ent_coef: Literal["auto"] | NotNegative

    def __post_init__(self) -> None:
        check_values(vars(self), hints(SACSettings), "sac.")

    def arguments(self) -> dict[str, Any]:
        """As SAC takes them."""
        found = {name: value for name, value in vars(self).items() if name != "hidden"}
        return {**found, "policy_kwargs": {"net_arch": list(self.hidden)}}


@dataclass(frozen=True)
class Settings:
    """All settings of an online run; see configs/online.yaml for what each means."""

    env: dict[str, Any] | None
    rewards: str | None
    true_reward: bool
    every: Size
    prior: bool
    steps: Count
    eval_every: Count
    eval_episodes: Episodes
    final_episodes: Episodes
    eval_seed: Annotated[int, Range(0, 20_000)]
    checkpoint_every: Count
    video: bool
    seed: Seed
    sac: SACSettings
    run: str | None
    device: str
    threads: Annotated[int, Range(0, 4096)]
    workers: Annotated[int, Range(-1, 4096)]
    data_dir: str | None
    plain: dict[str, Any]  # all of them as they were composed

    @classmethod
    def parse(cls, config: dict[str, Any]) -> "Settings":
        """Typed settings. Raises UserError for a name that means nothing, or a value of another type."""
        config = {"env": None, **config}
        check_names("the command line", config, {field.name for field in fields(cls)} - {"plain"})
        check_names("sac", config["sac"], {field.name for field in fields(SACSettings)})
        given = {name: value for name, value in config.items() if name != "sac"}
        check_values(given, hints(cls))
        if not config["rewards"]:
            raise UserError("rewards=… is missing: the folder of a run that was started with reward=ensemble, rapl, …")
        return cls(**given, sac=SACSettings(**config["sac"]), plain=config)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this run and no other: its number of steps may grow."""
        return {name: value for name, value in self.plain.items() if name not in MAY_CHANGE}

    def folder(self, env: dict[str, Any]) -> Path:
        """Where the run lives: named by the user, or after its environment and settings."""
        from pbrl.run.build import digest
        from pbrl.run.folder import env_name

        if self.run:
            return Path(self.run).expanduser()
        return Path("runs") / env_name(env).replace("/", "-") / f"online-{digest(self.identity)}"
