"""Scores from anywhere as a judge: an .npz of numbers about the data set, in its order.

- `reward` [M] or [R]: a reward of each step (of each row: an episode's last row, where it ended, counts for nothing)
- `value` [M] or [R]: a value of each step or frame: progress, a probability of success, a value function
- `episode`, `first` [Q, 2], `length` [Q] and `probability` [Q]: P(second preferred) of pairs of clips; NaN: skipped
- `episode`, `first` [Q], `length` [Q] and `value` [Q]: a value of clips; NaN: skipped

`episode` are places in the data set from 0, or ids of episodes. `dataset`, if it is there, is the content hash of the
data set that was scored; another one is refused.
"""

import zipfile
from pathlib import Path

import numpy as np

from pbrl.judge.evidence import Answers, Clips, Ratings, Source
from pbrl.judge.material import Material
from pbrl.types import UserError

CLIPS = {"episode", "first", "length"}
FORMS = ({"reward"}, {"value"}, CLIPS | {"probability"}, CLIPS | {"value"})


def load_file(path: Path, material: Material) -> Source:
    """The scores in a file. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"{path} is no .npz of numbers ({error}): write it with numpy.savez") from error
    dataset = arrays.pop("dataset", None)
    if dataset is not None and str(dataset) != material.content_hash:
        raise UserError(f"{path} scores the data set {dataset}, and this is {material.content_hash}: give that one")
    if set(arrays) not in FORMS:
        known = "; ".join(", ".join(sorted(form)) for form in FORMS)
        raise UserError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; what can be judged: {known}")
    try:
        return _source(arrays, path, material)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _source(arrays: dict[str, np.ndarray], path: Path, material: Material) -> Source:
    about = {"file": str(path)}
    for name, values in arrays.items():
        if name != "episode" and not np.issubdtype(values.dtype, np.number):
            raise UserError(f"{name} holds {values.dtype}, and no numbers")
    if not set(arrays) >= CLIPS:
        name = next(iter(arrays))
        if arrays[name].ndim != 1:
            raise UserError(f"{name} has the shape {arrays[name].shape}: one number of each row")
        material.truth.split(arrays[name])  # refused here where they do not fit
        scores = arrays[name].astype(np.float64)
        return Source(reward=scores, about=about) if name == "reward" else Source(value=scores, about=about)
    width = 2 if "probability" in arrays else 1
    clips = _clips(arrays, width, material)
    values = arrays["probability" if width == 2 else "value"].astype(np.float64)
    if values.shape != (len(clips),):
        raise UserError(f"there are {len(clips)} questions and {values.shape} numbers about them")
    if np.isinf(values).any():
        raise UserError("a value is infinite")
    if width == 1:
        return Source(ratings=Ratings(clips, values), about=about)
    if np.nanmin(values, initial=0.0) < 0 or np.nanmax(values, initial=1.0) > 1:
        raise UserError("probability lies from 0 (the first clip is preferred) to 1 (the second)")
    return Source(answers=Answers(clips, values), about=about)


def _clips(arrays: dict[str, np.ndarray], width: int, material: Material) -> Clips:
    length, first, episode = arrays["length"], arrays["first"], arrays["episode"]
    if not all(np.issubdtype(values.dtype, np.integer) for values in (length, first)):
        raise UserError("first and length are whole numbers")
    length = np.broadcast_to(length, len(first)) if length.ndim == 0 else length
    shape = (len(length), width)
    if first.reshape(len(first), -1).shape != shape or episode.reshape(len(episode), -1).shape != shape:
        raise UserError(f"episode and first have {width} clips of each of {len(length)} questions")
    if not np.issubdtype(episode.dtype, np.integer):
        unknown = set(map(str, episode.ravel())) - set(material.place)
        if unknown:
            raise UserError(f"this data set has no episode {min(unknown)}: {len(unknown)} ids are unknown")
        episode = np.array([material.place[str(own)] for own in episode.ravel()])
    clips = Clips(episode.reshape(shape), first.reshape(shape), length)
    material.truth.check_clips(clips)
    return clips
