#!/usr/bin/env bash
# Minari 0.5.4: the spaces of a data set are not what its arrays are held to, neither when it is made nor when it is read.
#
# A good guess: a data set that declares Box(-1, 1) has actions in [-1, 1], since making it takes the space and the
# arrays together. Seen: actions of 3, an observation that is NaN and one of another length than the space says are all
# stored and read back without an error or a warning; only `space.contains` tells.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "minari[hdf5,create]==0.5.4" "gymnasium==1.4.0" "numpy==2.3.5" pillow==13.0.0 2>/dev/null
cat > "$folder/show.py" <<'PYTHON'
import warnings

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

warnings.simplefilter("error")
observations = np.zeros((4, 3), np.float32)  # the space says 2
observations[1, 0] = np.nan
buffer = EpisodeBuffer(
    id=0, seed=0, options=None, observations=list(observations), actions=list(np.full((3, 1), 3.0, np.float32)),
    rewards=[0.0, 0.0, 0.0], terminations=[False, False, True], truncations=[False, False, False], infos={},
)
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*(author|algorithm|code|eval_env|permalink|description|requirements|env_spec).*")
    made = minari.create_dataset_from_buffers(
        "shown/spaces-v0", [buffer], observation_space=Box(-1, 1, (2,), np.float32),
        action_space=Box(-1, 1, (1,), np.float32),
    )
read = minari.load_dataset("shown/spaces-v0")
episode = read[0]
inside = read.action_space.contains(episode.actions[0])
print(f"minari {minari.__version__}: {read.action_space} holds actions of {episode.actions.ravel().tolist()}")
print(f"{read.observation_space} holds observations of shape {episode.observations.shape}: {episode.observations[1]}")
assert not inside and np.isnan(episode.observations[1, 0]) and episode.observations.shape == (4, 3)
PYTHON
MINARI_DATASETS_PATH="$folder/sets" "$folder/venv/bin/python" "$folder/show.py"
