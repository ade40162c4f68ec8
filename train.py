"""`python train.py env=… algo=… [reward=…] [feedback=…] [data=…]`: from data through answers to a policy.

Everything is a flag: `python train.py --help`, `python train.py list`. The same command resumes a run that was stopped.
"""

import os
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pbrl.configs import quote_addresses
from pbrl.run import listing


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """One run. In a sweep a run that fails says so at once, and the others go on."""
    from pbrl.run import train as run
    from pbrl.training import interrupts

    try:
        with interrupts.handled():
            run.train(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except KeyboardInterrupt:
        interrupts.leave("\nstopped; the same command goes on from the last checkpoint")
    except Exception as error:
        if interrupts.has_arrived():  # another process of the run has left
            interrupts.leave("")
        words = sentence(error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            flags = " ".join(HydraConfig.get().overrides.task)
            print(f"\nfailed: {flags}\n{words or traceback.format_exc()}", file=sys.stderr)
        elif words:
            sys.exit(f"\n{words}")
        raise


def sentence(error: Exception) -> str | None:
    """What the user can mend, in a sentence; None where an error is not of that kind."""
    from pbrl.types import UserError
    from sim.tasks import tasks

    return str(error) if isinstance(error, UserError) else listing.explain(error, tasks)


def start() -> None:
    """Reads the command line: a list, the help, or runs."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["list"]:
        from sim.tasks import tasks

        try:
            print(listing.listing(arguments[1:], tasks))
        except LookupError as error:
            sys.exit(str(error.args[0]))
        return
    if {"-h", "--help"} & set(arguments):
        print(listing.help_page())
        return
    import sim.configs
    from pbrl.training import interrupts

    sys.argv[1:] = quote_addresses(arguments)
    sim.configs.register()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on, and does not print them itself
    try:
        with interrupts.handled():
            main()
    except KeyboardInterrupt:
        interrupts.leave("\nstopped")
    except Exception as error:
        if (words := sentence(error)) is None:
            raise
        sys.exit(f"\n{words}")


if __name__ == "__main__":
    start()
