#!/usr/bin/env bash
# hydra-core 1.3.8: composing one small config copies every config that the ConfigStore holds, also those it never uses.
#
# A good guess: `compose("config", ["task=b"])` reads what the defaults list names. Seen: with 500 tasks stored that no
# config names, each compose makes 500 deep copies of them, and takes more than twice as long as with none. The
# repository of configs is copied for each compose, so that a caller cannot change what is cached; with a stored config
# for each task of a benchmark's suites, `--help`, which composes once for each group, takes seconds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hydra-core==1.3.8 omegaconf==2.3.1 2> "$folder/log" || { cat "$folder/log"; exit 1; }
mkdir "$folder/configs"
echo "size: 1" > "$folder/configs/config.yaml"
cat > "$folder/compose.py" <<'PYTHON'
import statistics
import sys
import time

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

copies = 0
copy = DictConfig.__deepcopy__


def counting(self, memo):
    global copies
    content = self._content
    copies += isinstance(content, dict) and "stored" in content
    return copy(self, memo)


DictConfig.__deepcopy__ = counting


def measure():
    global copies
    compose("config")
    times, copies = [], 0
    for _ in range(5):
        began = time.process_time()
        compose("config", ["size=2"])
        times.append(time.process_time() - began)
    return copies / 5, statistics.median(times)


with initialize_config_dir(sys.argv[1], version_base="1.3"):
    none, short = measure()
    for i in range(500):
        ConfigStore.instance().store(f"task{i}", {"stored": i, "shape": {"width": 1, "height": 2}}, group="task")
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    made, long = measure()
print(f"none stored: {none:.0f} copies; 500 stored: {made:.0f} copies, {long / short:.1f} times as long")
assert none == 0 and made == 500 and long > 1.5 * short
PYTHON
"$folder/venv/bin/python" "$folder/compose.py" "$folder/configs"
