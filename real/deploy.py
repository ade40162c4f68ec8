"""`python -m real.deploy policy=<run> robot=panda`: runs a trained policy on an arm, or on a mock of it with --sim.

Without --go nothing is sent: the robot's state is read, the policy decides, and what the safety filter would change is
shown. Keys: space stops · s success · f failure · k keeps the last seconds · t takes over, and gives back · q ends.
Ctrl-C, a closed terminal, a dropped ssh and `kill` stop too. The exit status: 0 done, or stopped by a key; 1 not
possible; 10 to 24 a fault (real/control.py); 129 the terminal is gone; 130 Ctrl-C; 131 Ctrl-\\; 143 `kill`.
"""

import argparse
import contextlib
import sys

from real.ending import StopSignal, StopSignals, write


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m real.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--sim", action="store_const", const="sim", dest="mode", help="on a mock of the arm")
    modes.add_argument("--dry-run", action="store_const", const="dry-run", dest="mode", help="sends nothing (default)")
    modes.add_argument("--go", action="store_const", const="go", dest="mode", help="moves the arm")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of configs/deploy.yaml")
    given = parser.parse_intermixed_args(argv)
    mode = given.mode or "dry-run"
    try:
        with StopSignals(keeps_on=mode == "sim") as signals:
            sys.exit(run(given.settings, mode, signals))
    except StopSignal as ended:
        with contextlib.suppress(StopSignal):
            write(f"stopped: {ended}")
        sys.exit(ended.status)


def run(given: list[str], mode: str, signals: StopSignals) -> int | str:
    """The exit status, or why it is not possible. What takes seconds to import is imported here: Ctrl-C may come."""
    from omegaconf.errors import OmegaConfBaseException

    from pbrl.types import UserError
    from real.deployment import deploy, read_settings

    try:
        return deploy(read_settings(given), mode, signals)
    except OmegaConfBaseException as error:
        return f"{str(error).splitlines()[0]}: see configs/deploy.yaml"
    except UserError as error:
        return f"\n{error}"


if __name__ == "__main__":
    main()
