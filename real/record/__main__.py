"""`python -m real.record list FOLDER` and `export FOLDER OUT`: recorded episodes, and other forms of them."""

import argparse
from pathlib import Path

from pbrl.types import UserError
from real.record import export


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m real.record", description="Recorded episodes of a robot.")
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("list", help="what there is, with aborted episodes and clips")
    exported = commands.add_parser("export", help="a bag (.mcap for ROS 2, .bag for ROS 1) or a Minari data set")
    for command in (listed, exported):
        command.add_argument("folder", type=Path)
    exported.add_argument("out", type=Path)
    given = parser.parse_args(argv)
    try:
        if given.command == "list":
            print(export.table(given.folder))
        else:
            print(export.export(given.folder, given.out))
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
