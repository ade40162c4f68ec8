"""Frames at their own times, torn frames, and files that hold no video."""

import os

import av
import numpy as np
import pytest
from PIL import Image

from pbrl.data import collect, episodes, frames, rendering
from pbrl.data.damage import is_being_written
from pbrl.data.recordings import spell_out
from pbrl.data.video import write_mp4
from pbrl.data.video_reader import Torn, find_torn, read_frames, read_video_info
from pbrl.feedback.page import clips
from pbrl.feedback.page.project import find_pace
from pbrl.types import UserError
from tests import toy
from tests.films import film, shown, tear, which


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "films").mkdir()
    return tmp_path / "films"


def made_clip(folder, row: int, length: int, look=None):
    """The clip that a renderer makes, in this process."""
    rendering._source.clear()
    rendering._source.update({"env": None, "data": {"path": str(folder)}, "folder": folder, "seed": 0, "workers": 0})
    rendering._data.cache_clear()
    return clips._render(row, length, look or clips.Look(48, 20, as_recorded=True), folder.parent / "clip.mp4")


class Seeing(toy.Point):
    """A world whose policies see."""

    def __init__(self, images, image_size):
        super().__init__()


# Times


def test_clips_of_mixed_rates_last_as_long_as_the_motion(folder):
    """Filmed for 2 s at 60 and at 15 frames a second: 12 steps of the one are 0.2 s, of the other 0.8 s."""
    film(folder / "fast.mp4", times=np.arange(0, 2, 1 / 60))
    film(folder / "slow.mp4", times=np.arange(0, 2, 1 / 15))
    for row, seconds in ((30, 0.2), (120 + 3, 0.8)):
        which_frames, at, long = shown(made_clip(folder, row, 12))
        assert len(which_frames) == 12 and long == pytest.approx(seconds, abs=0.002)
        np.testing.assert_allclose(np.diff(at), seconds / 12, atol=0.002)
    assert shown(made_clip(folder, 30, 12, clips.Look(48, 24)))[2] == pytest.approx(0.5), "fps= overrides"


def test_a_phone_that_slows_down(folder):
    """30 frames a second for a second, then 5: frames 20 to 34 are ten short steps, and five of 0.2 s."""
    times = np.concatenate([np.arange(0, 1, 1 / 30), np.arange(1, 4, 0.2)])
    film(folder / "phone.mp4", times=times)
    which_frames, at, long = shown(made_clip(folder, 20, 15))
    assert which_frames == list(range(20, 35)) and long == pytest.approx(10 / 30 + 5 * 0.2, abs=0.002)
    np.testing.assert_allclose(at, times[20:35] - times[20], atol=0.002)
    source = read_video_info(folder / "phone.mp4")
    np.testing.assert_allclose(source.times_s(20, 35), times[20:36] - times[20], atol=0.002)
    assert len(source.times_s(len(times) - 3, len(times))) == 4, "the last frame of a file has an end, too"


def test_the_page_is_told_when_frames_are_shown(folder):
    film(folder / "a.mp4", times=np.concatenate([np.arange(0, 1, 0.1), np.arange(1, 6, 0.5)]))
    film(folder / "b.mp4", 30, fps=15)
    found = episodes.read(folder)

    class NoRenderers:
        source = {"env": None}

    look = clips.Look(48, 20, as_recorded=True)
    own = clips.Clips(NoRenderers(), folder.parent / "clips", look=look, limit_mb=1, episodes=found)  # type: ignore
    np.testing.assert_allclose(own.times_s(8, 4), [0, 0.1, 0.2, 0.7, 1.2], atol=1e-3)
    np.testing.assert_allclose(own.times_s(20 + 5, 3), [0, 1 / 15, 2 / 15, 3 / 15], atol=1e-3)
    uneven, early, late = (find_pace(own.times_s(row, 4).tobytes()) for row in (8, 0, 25))
    assert [fps for fps, _ in (uneven, early, late)] == pytest.approx([4 / 1.2, 10, 15], rel=1e-3)
    assert uneven[1] == pytest.approx([0, 0.1, 0.2, 0.7, 1.2], abs=1e-3) and early[1] is late[1] is None


def test_pauses_are_shortened_and_named(folder, capsys):
    """A camera that hung for three minutes after frame 7, and one that took a picture every five seconds."""
    film(folder / "hung.mp4", times=np.concatenate([np.arange(8) / 10, 180 + np.arange(8) / 10]))
    film(folder / "slow.mp4", times=5.0 * np.arange(6))
    found = episodes.read(folder)
    assert capsys.readouterr().out == (
        "pauses  in 1 videos nothing was recorded for long; they are shown as 2 s:\n"
        "        hung.mp4: 179 s after frame 7\n"
    )
    source = read_video_info(folder / "hung.mp4")
    np.testing.assert_allclose(source.times_s(6, 10), [0, 0.1, 2.1, 2.2, 2.3], atol=1e-3)
    assert source.fps == pytest.approx(10, rel=1e-3)
    assert shown(made_clip(folder, 6, 4))[2] == pytest.approx(2.3, abs=0.1)
    np.testing.assert_allclose(read_video_info(folder / "slow.mp4").times_s(0, 3), [0, 5, 10, 15], atol=1e-3)
    assert len(found) == 2


@pytest.mark.parametrize("fps", [12.5, 29.97, 0.5])
def test_rates_that_are_no_whole_numbers(tmp_path, fps):
    write_mp4(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 5, fps)
    assert read_video_info(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-3)


# Torn frames


@pytest.mark.parametrize(("name", "codec", "options", "packet", "keep", "torn"), [
    ("gone.avi", "mjpeg", {}, 30, 0.0, (30,)),
    ("torn.avi", "mjpeg", {}, 30, 0.3, (30,)),
    ("first.avi", "mjpeg", {}, 0, 0.0, (0,)),
    ("last.avi", "mjpeg", {}, 59, 0.0, (59,)),
    ("hole.mp4", "libx264", {"bf": "0", "g": "15"}, 31, 0.0, (31,)),
    ("hole.mov", "prores_ks", {}, 30, 0.3, (30,)),
])  # fmt: skip
def test_the_picture_before_stands_for_a_torn_one(folder, capsys, name, codec, options, packet, keep, torn):
    film(folder / name, 60, codec, options)
    tear(folder / name, packet, keep)
    (t,) = torn
    found, expected = episodes.read(folder), list(range(60))
    expected[t] = t - 1 if t else 1
    assert f"{name}: frame {t}" in capsys.readouterr().out and len(found[0].obs) == 60
    source = read_video_info(folder / name)
    whole = [which(image) for image in read_frames(folder / name, source, first=0, last=60, height=48)]
    alone = [which(image) for image in read_frames(folder / name, source, first=t, last=t + 1, height=48)]
    assert whole == expected and alone == [expected[t]]
    first = min(max(t - 10, 0), 35)
    assert shown(made_clip(folder, first, 24))[0] == expected[first : first + 24]


def test_images_of_a_policy_bridge_torn_frames_and_count_them(folder, capsys):
    film(folder / "a.avi", 60, "mjpeg", size=(64, 64))
    tear(folder / "a.avi", 30)
    (folder / "a.json").write_text('{"cameras": {"front": "a.avi"}}')
    found, dataset = collect.load_dataset({}, {"path": str(folder)}, folder=folder.parent, seed=0, workers=0)
    capsys.readouterr()
    env = {"images": ["front"], "image_size": 16, "_target_": f"{__name__}.Seeing"}
    images = frames.load_images(env, found, dataset, folder=folder.parent, workers=0)["front"]
    assert [which(image) for image in images] == [*range(30), 29, *range(31, 60)]
    assert "a.avi: frame 30" in capsys.readouterr().out


def test_what_builds_on_a_torn_frame_is_named(folder, capsys):
    """In VP9 a lost frame spoils all up to the next key frame."""
    film(folder / "a.webm", 60, "libvpx-vp9", {"g": "15"})
    tear(folder / "a.webm", 31, 0.3)
    assert find_torn(folder / "a.webm") == Torn((31,), tuple(range(32, 45)))
    episodes.read(folder)
    assert "a.webm: frame 31; may be spoilt by it: 32 to 44" in capsys.readouterr().out


def test_torn_frames_are_looked_for_once(folder, tmp_path, monkeypatch):
    film(folder / "a.avi", 20, "mjpeg")
    tear(folder / "a.avi", 5)
    assert find_torn(folder / "a.avi") == Torn((5,))
    with monkeypatch.context() as patch:
        patch.setattr("pbrl.data.video_reader._decode_all", lambda path: pytest.fail("decoded again"))
        assert find_torn(folder / "a.avi") == Torn((5,))
    film(folder / "a.avi", 21, "mjpeg")
    assert find_torn(folder / "a.avi") == Torn(), "another file is looked at anew"
    (tmp_path / "cache" / "pbrl" / "torn-frames").chmod(0o500)
    for file in (tmp_path / "cache" / "pbrl" / "torn-frames").iterdir():
        file.write_text("{")
    assert find_torn(folder / "a.avi") == Torn(), "a damaged note is no harm"


def test_a_video_with_more_holes_than_pictures_is_refused(folder):
    film(folder / "a.avi", 20, "mjpeg")
    for t in range(4, 12):
        tear(folder / "a.avi", t)
    with pytest.raises(UserError, match=r"a.avi: 8 of 20 frames cannot be decoded \(4 to 11\)"):
        episodes.read(folder)
    assert spell_out([0, 2, 3, 7, 8, 9]) == "0, 2 to 3, 7 to 9"


# Files


def test_hidden_files_are_no_videos(folder):
    film(folder / "a.mp4", 20)
    for name in ("._a.mp4", ".a.mp4.Xy12", ".b.mp4", ".DS_Store"):
        (folder / name).write_bytes(b"\0\x05\x16\x07" + bytes(4092))
    (folder / "c.mp4").mkdir()
    assert [e.source for e in episodes.read(folder)] == ["a"]


CUT = "it is cut off, its end is missing"


@pytest.mark.parametrize(("name", "make", "sentence"), [
    ("a.mp4", lambda whole: b"", r"a.mp4 .*it is empty \(0 bytes\)"),
    ("a.mp4", lambda whole: whole[: len(whole) // 2], CUT),
    ("a.mp4", lambda whole: whole[:-20], CUT),
    ("a.mp4", lambda whole: b"\xff\xd8\xff" + bytes(5000), "it holds a single picture"),
    ("a.mp4", lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "git lfs pull"),
    ("a.mp4", lambda whole: b"<!DOCTYPE html><html>not found</html>", "it is text"),
    ("a.mp4", lambda whole: b"\x89HDF\r\n" + bytes(500), "it is an HDF5 file"),
    ("a.mp4", lambda whole: bytes(5000), "it is nothing but zeros"),
    ("a.mp4", lambda whole: bytes(range(1, 250)) * 20, "it is damaged"),
])  # fmt: skip
def test_why_a_file_cannot_be_read(folder, name, make, sentence):
    film(folder / name, 20)
    (folder / name).write_bytes(make((folder / name).read_bytes()))
    with pytest.raises(UserError, match=sentence):
        episodes.read(folder)


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")])
def test_files_that_end_too_early_are_cut_off(folder, name, codec):
    film(folder / name, 60, codec)
    assert len(episodes.read(folder)[0].obs) == 60
    whole = (folder / name).read_bytes()
    for share in (0.97, 0.6):
        (folder / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=f"{name} .*cut off"):
            episodes.read(folder)


def test_a_file_that_is_being_written_is_in_use(folder):
    film(folder / "a.mkv", 60)
    with open(folder / "a.mkv", "ab"):
        assert is_being_written(folder / "a.mkv")
        with pytest.raises(UserError, match="a.mkv is still being written or copied"):
            episodes.read(folder)
    assert not is_being_written(folder / "a.mkv") and len(episodes.read(folder)) == 1


def test_pictures_and_sound_are_no_videos(folder):
    Image.new("RGB", (64, 48)).save(folder / "a.jpg")
    os.rename(folder / "a.jpg", folder / "a.mp4")
    with pytest.raises(UserError, match="a.mp4 holds no video that can be read: it holds a single picture"):
        episodes.read(folder)
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate, sound.pts = 16000, 0
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(UserError, match="a.mp4 holds no video that can be read: it holds sound and no picture"):
        episodes.read(folder)
    film(folder / "a.mp4", 1)
    with pytest.raises(UserError, match="a.mp4 has one frame, which is no episode"):
        episodes.read(folder)


def test_sizes_may_differ_in_a_folder(folder):
    film(folder / "a.mp4", 20, size=(64, 48))
    film(folder / "b.avi", 20, "mjpeg", size=(128, 48))
    assert [shown(made_clip(folder, row, 8))[0] for row in (3, 23)] == [list(range(3, 11))] * 2
