"""A run folder and its logs keep no password; processes that the run starts know it."""

from pbrl.feedback.store.address import remember_address, whole_address, without_password

URL = "postgresql+psycopg://labels:s3cret@db/labels?sslmode=require"
SHOWN = "postgresql+psycopg://labels:***@db/labels?sslmode=require"


def test_settings_are_written_without_a_password():
    assert without_password({"store": URL, "seed": 1}) == {"store": SHOWN, "seed": 1}
    assert without_password({"store": None}) == {"store": None}


def test_the_whole_address_is_found_by_the_shown_one(monkeypatch):
    monkeypatch.setenv("PBRL_STORE", "")
    assert whole_address(SHOWN) == SHOWN
    remember_address(URL)
    assert whole_address(SHOWN) == URL
    assert whole_address("sqlite:///a.sqlite") == "sqlite:///a.sqlite"
