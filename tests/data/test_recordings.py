"""Videos of a robot: episodes to compare, and to learn from where their numbers lie beside them."""

import av
import numpy as np
import pytest

from pbrl.data import collect, episodes
from pbrl.data.rendering import Renderers
from pbrl.data.table import Table
from pbrl.data.video import read_frames, read_video_info, write_mp4
from pbrl.feedback.page.clips import Clips, Look
from pbrl.types import UserError
from tests import toy
from tests.films import film, which
from tests.training.test_loop import BASE, train

FORMATS = {  # what robots and people save; browsers play neither MPEG-4 part 2, as OpenCV writes it, nor HEVC
    "h264.mp4": ("libx264", {"bf": "3", "g": "30"}),
    "mp4v.mp4": ("mpeg4", {}),
    "mp4v.avi": ("mpeg4", {"bf": "0"}),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none"}),
    "vp9.webm": ("libvpx-vp9", {}),
    "prores.mov": ("prores_ks", {}),
}


def numbers(path, episode, **more):
    given = {"obs": episode.obs, "action": episode.action, "reward": episode.reward, "success": episode.success}
    np.savez(path, **{**given, **more})


@pytest.mark.parametrize("name", FORMATS)
def test_every_frame_of_every_format_is_found(tmp_path, name):
    codec, options = FORMATS[name]
    film(tmp_path / name, codec=codec, options=options)
    source = read_video_info(tmp_path / name)
    assert len(source.shown) == 40 and source.fps == pytest.approx(30, rel=0.01)
    for first in (0, 1, 17, 36):
        cut = list(read_frames(tmp_path / name, source, first=first, last=first + 4, height=24))
        assert [which(image) for image in cut] == list(range(first, first + 4))
        assert cut[0].shape == (24, 32, 3)


@pytest.mark.parametrize("name", ["mp4v.mp4", "hevc.mp4"])
def test_clips_of_it_play_in_a_browser(tmp_path, name):
    """Cut from what browsers do not play: H.264, yuv420p, a frame for each step."""
    codec, options = FORMATS[name]
    film(tmp_path / name, codec=codec, options=options)
    source = {"env": None, "data": {"path": str(tmp_path)}, "folder": tmp_path, "seed": 0, "workers": 0}
    clips = Clips(Renderers(source), tmp_path / "clips", look=Look(64, 30), limit_mb=10)
    try:
        clip = clips.get("a", 7, 20).result()
    finally:
        clips.renderers.close()
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [which(image) for image in frames] == list(range(7, 27)) and frames[0].shape == (64, 86, 3)
    assert clip.read_bytes().index(b"moov") < clip.read_bytes().index(b"mdat"), "it plays before it is all there"


def test_a_phone_held_upright(tmp_path):
    """A display matrix says how a picture is to be turned; what the sensor saw is on its side."""
    write_mp4(tmp_path / "a.mp4", [np.full((48, 64, 3), 90, np.uint8)] * 3, 10)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    unit, matrix = (1 << 16).to_bytes(4), data.index(b"tkhd") + 4 + 40  # [a b u c d v x y w], 16.16 fixed point
    zero, minus = bytes(4), (-(1 << 16)).to_bytes(4, signed=True)
    data[matrix : matrix + 20] = zero + unit + zero + minus + zero
    (tmp_path / "b.mp4").write_bytes(data)
    flat, upright = (next(read_frames(tmp_path / n, read_video_info(tmp_path / n), first=0, last=1, height=32)) for n in
                     ("a.mp4", "b.mp4"))  # fmt: skip
    assert flat.shape == (32, 42, 3) and upright.shape == (32, 24, 3)


def test_videos_alone_can_be_compared(tmp_path):
    for name, frames in (("b.mp4", 30), ("a.mp4", 40)):
        film(tmp_path / name, frames)
    found, dataset = collect.load_dataset({}, {"path": str(tmp_path)}, folder=tmp_path, seed=0, workers=0)
    assert [e.source for e in found] == ["a", "b"] and [len(e.action) for e in found] == [39, 29]
    assert len(Table(found).segment_starts(20)) == 20 + 10
    film(tmp_path / "b.mp4", 31)
    assert collect.load_dataset({}, {"path": str(tmp_path)}, folder=tmp_path, seed=0, workers=0)[1] != dataset


def test_videos_with_numbers_are_learned_from(tmp_path):
    collected = toy.episodes(12)
    (tmp_path / "films").mkdir()
    for i, e in enumerate(collected):
        film(tmp_path / f"films/{i:02}.mp4", len(e.obs))
        numbers(tmp_path / f"films/{i:02}.npz", e)
    read = episodes.read(tmp_path / "films")
    for a, b in zip(collected, read, strict=True):
        assert np.array_equal(a.obs, b.obs) and np.array_equal(a.action, b.action)
    recordings = [flag for flag in BASE if not flag.startswith("data")]
    result = train(tmp_path, "data=recordings", f"data.path={tmp_path / 'films'}", "algo=cpl", "feedback=perfect",
                   "query.kind=rating", "steps=20", "eval_every=20", base=recordings)  # fmt: skip
    assert result["answers"]["answered"] == 60


def test_videos_alone_cannot_be_learned_from(tmp_path):
    (tmp_path / "films").mkdir()
    film(tmp_path / "films/a.mp4")
    recordings = [flag for flag in BASE if not flag.startswith("data")]
    with pytest.raises(UserError, match=r"0 numbers.*2.*npz"):
        train(tmp_path, "data=recordings", f"data.path={tmp_path / 'films'}", base=recordings)


def test_invalid_recordings(tmp_path):
    e = toy.episodes(1)[0]
    film(tmp_path / "a.mp4", len(e.obs))

    def refuses(match):
        with pytest.raises(UserError, match=match):
            episodes.read(tmp_path)

    numbers(tmp_path / "a.npz", e, action=e.action[:-4], obs=e.obs[:-4], reward=e.reward[:-4], success=None)
    refuses("ValueError|Object arrays|frames")
    numbers(tmp_path / "a.npz", e, action=e.action[:-4], obs=e.obs[:-4], reward=e.reward[:-4], success=e.success[:-4])
    refuses("31 frames and a.npz 26 steps")
    numbers(tmp_path / "a.npz", e, obs=e.obs[:-1])
    refuses(r"obs has shape \[30, 2\], and must have 31 rows")
    numbers(tmp_path / "a.npz", e, action=2 + e.action)
    refuses("scale them")
    np.savez(tmp_path / "a.npz", obs=np.array([{}] * 31), action=e.action)  # objects: would be unpickled
    refuses("must hold obs")
    (tmp_path / "a.npz").unlink()
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 2])
    refuses("no video that can be read: it is cut off")
    (tmp_path / "a.mp4").write_text("hello")
    refuses("no video that can be read: it is text")
    (tmp_path / "a.mp4").unlink()
    refuses("neither a Minari data set nor videos")
