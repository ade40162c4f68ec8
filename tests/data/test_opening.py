"""Files in use, cut off, of other versions and kinds: a sentence for each."""

import subprocess

import h5py
import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.types import UserError
from tests import forks
from tests.data.foreign import d4rl_arrays, write_d4rl


@pytest.fixture
def path(tmp_path):
    return write_d4rl(tmp_path / "a.hdf5", d4rl_arrays())


def refuses(path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        episodes.read(path)


def test_a_file_that_another_process_writes(path):
    code = f"import h5py; file = h5py.File({str(path)!r}, 'a'); print('open', flush=True); input()"
    with forks.Program(["-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        refuses(path, "a.hdf5 is in use: another process")
        writer.communicate(b"\n")
    assert len(episodes.read(path)) == 3


def test_a_file_that_was_never_closed(tmp_path):
    """A writer of HDF5's newest format that was killed leaves a mark."""
    path = tmp_path / "a.hdf5"
    code = f"import h5py, os; file = h5py.File({str(path)!r}, 'w', libver='latest'); file['x'] = 1; file.flush()"
    forks.run(["-c", f"{code}; os._exit(1)"])
    refuses(path, "was not closed by the program that writes it.*h5clear -s a.hdf5")


def test_a_file_that_is_cut_off(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    refuses(path, f"cut off: 5,000 of its {len(whole):,} bytes are there")
    path.write_bytes(b"")
    refuses(path, r"cut off: it is empty \(0 bytes\)")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_file_of_a_version_to_come(tmp_path, libver):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", libver=libver) as file:
        file["x"] = np.zeros(10)
    content = bytearray(path.read_bytes())
    content[8] = 9  # the version of the superblock
    path.write_bytes(content)
    refuses(path, "another version of HDF5.*pip install -U h5py")


@pytest.mark.parametrize(
    "content, match",
    [
        (b"<html><body>404</body></html>\n", "not HDF5 but text that begins with '<html>"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00" + bytes(100), "compressed by gzip"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (bytes(range(200, 256)), "not HDF5 but a file that begins with"),
    ],
)
def test_files_of_other_kinds(path, content, match):
    path.write_bytes(content)
    refuses(path, match)


def test_a_file_that_is_damaged_within(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in d4rl_arrays((9000,)).items():
            file.create_dataset(name, data=array, compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    refuses(path, r"a.hdf5 is damaged \(")


def test_a_data_set_of_ours_of_a_version_to_come(tmp_path):
    from tests import toy

    episodes.write(tmp_path / "set", toy.episodes(2), {})
    file = tmp_path / "set" / "provenance.json"
    text = file.read_text()
    file.write_text(text.replace('"format": 1', '"format": 2'))
    refuses(tmp_path / "set", "another version: format 2 was written by a newer pbrl")
    file.write_text(text.replace("content_hash", "hash"))
    refuses(tmp_path / "set", "no content_hash")
    file.write_text(text[:50])
    refuses(tmp_path / "set", "provenance.json is cut off.*delete the data set")
