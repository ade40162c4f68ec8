"""Data that is labelled."""

import pytest

from tests.vlm.labelling import write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Of the point world: what renderers take, and the table."""
    return write(tmp_path_factory.mktemp("data") / "point")
