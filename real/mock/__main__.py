"""`python -m real.standin`: an arm in simulation behind a stand-in for rosbridge, to try a driver and a policy on.

It says where it listens as a line of JSON, then obeys such lines on its input: {"fault": {"state": "nan"}},
{"reset": 3}, {"report": true}; and leaves when its input ends.
"""

import argparse
import json
import sys

from pbrl.types import UserError
from real.settings import of_robot
from real.standin.bridge import Bridge
from real.standin.hub import Hub
from real.standin.robot import Robot
from sim.franka import TASKS, Franka


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m real.standin", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--robot", default="panda", help="of configs/robot (default: panda)")
    parser.add_argument("--task", default="reach", choices=TASKS)
    parser.add_argument("--control", default="cartesian")
    parser.add_argument("--port", type=int, default=9090, help="0: any that is free")
    parser.add_argument("--serial", action="store_true", help="ROS 2: services and actions one after the other")
    args = parser.parse_args()
    try:
        serve(args)
    except (UserError, OSError) as error:
        sys.exit(str(error))


def serve(args: argparse.Namespace) -> None:
    """Until the input ends."""
    settings = of_robot(args.robot)
    env = Franka(args.task, robot=settings["robot"], control=args.control, horizon=10**9, style={}, prefer={})
    hub = Hub(dialect=settings["dialect"])
    robot = Robot(hub, env, settings)
    bridge = Bridge(hub, port=args.port, threads=not args.serial)
    bridge.start()
    print(json.dumps({"url": f"ws://127.0.0.1:{bridge.port}"}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "fault" in asked:
            robot.fault(**asked["fault"])
        if "zombie" in asked:
            bridge.zombie = asked["zombie"]
        if "reset" in asked:
            robot.reset(asked["reset"])
        print(json.dumps(robot.report()), flush=True)
    bridge.stop()
    robot.close()


if __name__ == "__main__":
    main()
