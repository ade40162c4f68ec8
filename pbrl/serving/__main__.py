"""`python -m pbrl.serving policy=<run folder> port=8000`: serves a policy to robots and simulators elsewhere.

Where a policy is named, they give ws://<this machine>:8000: `python -m pbrl.rollout policy=ws://…`, `python -m
real.deploy policy=ws://…`, or openpi's client. `device=cuda` computes on a GPU, `host=0.0.0.0` answers other machines.
There is no password: keep it in your own network.
"""

import signal
import sys
from pathlib import Path

from pbrl.models.policy import load_policy
from pbrl.ranges import Port, check_value
from pbrl.rollout import environment_of, read_words
from pbrl.serving.server import PolicyService, make_server
from pbrl.types import UserError

OPTIONS = {"policy": "", "host": "127.0.0.1", "port": "8000", "device": "cpu"}


def stop(number: int, frame: object) -> None:
    """What Ctrl-C and `kill` do: the program ends, with the status that a shell gives such an end."""
    raise SystemExit(128 + number)


def main() -> None:
    """Serves until it is stopped."""
    given, flags = read_words(__doc__, OPTIONS)
    if flags:
        raise UserError(f"{flags[0]}: a server has no environment; those who ask it do")
    port = int(given["port"]) if given["port"].isdecimal() else given["port"]
    check_value("port", port, Port)
    folder = Path(given["policy"]).expanduser()
    env = environment_of(folder, []) if folder.is_dir() else None
    service = PolicyService(load_policy(folder, given["device"]), env)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with make_server(service, given["host"], int(port), print) as server:
        print(f"{folder} answers at ws://{given['host']}:{port}; Ctrl-C ends", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
