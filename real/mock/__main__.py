"""`python -m real.mock`: an arm in simulation behind a mock of rosbridge, to try a driver and a policy on.

It prints where it listens as a line of JSON, then carries out such lines on its input: {"fault": {"state": "nan"}},
{"reset": 3}, {"report": true}; and ends when its input ends. A line that is none of these is answered by {"error": …}.
"""

import argparse
import json
import sys
from typing import Any

from pbrl.types import UserError
from real.mock.arm import MockArm
from real.mock.bridge import Bridge
from real.mock.hub import Hub
from real.settings import load_robot_settings
from sim.tabletop import TASKS, Tabletop


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m real.mock", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--robot", default="panda", help="of configs/robot (default: panda)")
    parser.add_argument("--task", default="reach", choices=TASKS)
    parser.add_argument("--control", default="cartesian")
    parser.add_argument("--port", type=int, default=9090, help="0: any that is free")
    parser.add_argument("--serial", action="store_true", help="ROS 2: services and actions one after the other")
    args = parser.parse_args()
    try:
        serve(args)
    except (UserError, OSError, OverflowError) as error:  # the last: a port that there is not
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def serve(args: argparse.Namespace) -> None:
    """Serves the mock until the input ends."""
    settings = load_robot_settings(args.robot)
    options = {"control": args.control, "horizon": 10**9, "style": {}, "preference": {}}
    env = Tabletop(args.task, robot=settings["robot"], **options)
    hub = Hub(dialect=settings["dialect"])
    arm = MockArm(hub, env, settings)
    bridge = Bridge(hub, port=args.port, threads=not args.serial)
    try:
        bridge.start()
        print(json.dumps({"url": f"ws://127.0.0.1:{bridge.port}"}), flush=True)
        for line in sys.stdin:
            print(json.dumps(carry_out(line, arm, bridge)), flush=True)
    finally:
        bridge.stop()
        arm.close()


def carry_out(line: str, arm: MockArm, bridge: Bridge) -> dict[str, Any]:
    """The arm's report after a line of input, or what is wrong with the line."""
    try:
        request = json.loads(line)
        if "fault" in request:
            arm.fault(**request["fault"])
        if "zombie" in request:
            bridge.zombie = bool(request["zombie"])
        if "reset" in request:
            arm.reset(abs(int(request["reset"])))  # a seed
    except (ValueError, TypeError, RecursionError) as error:
        return {"error": f"{line.strip():.80} is no request: {error}; see `python -m real.mock --help`"}
    return arm.report()


if __name__ == "__main__":
    main()
