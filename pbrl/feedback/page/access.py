"""Who may use the page: raters by the token in their link, whoever runs it by another, or this machine alone."""

import hashlib
import secrets
import time
from collections.abc import Mapping

from sqlalchemy import select, update

from pbrl.feedback.store.schema import RaterRow
from pbrl.feedback.store.store import Store

FRESH_S = 1.0  # how long a link that was ended elsewhere may go on opening this page


class Access:
    """Raters by their tokens. The store keeps hashes alone, so that a copy of it opens no page.

    Without tokens everyone who reaches the server is `me`, who runs the project, unless it `needs_link`.
    """

    def __init__(self, store: Store, raters: Mapping[str, str], me: str, *, needs_link: bool = False):
        self.store, self.me, self.is_open = store, me, not (raters or needs_link)
        for name in {me, *raters.values()}:
            store.add_rater(name, "human")
        for token, name in raters.items():
            give_link(store, name, token)
        self.names: dict[str, str] = {}  # by the hash of a token
        self.read_at = 0.0

    def find(self, token: str | None) -> str | None:
        """The rater with this token, as the store knows it now; None for a token that opens nothing."""
        if self.is_open:
            return self.me
        if not token:
            return None
        hashed = hash_token(token)
        if hashed not in self.names or time.monotonic() > self.read_at + FRESH_S:
            self.names = {other: name for name, other in linked(self.store).items()}
            self.read_at = time.monotonic()
        return self.names.get(hashed)

    def revoke(self, name: str) -> bool:
        """Ends a rater's link, here at once; returns whether there was one."""
        self.names = {}
        return revoke(self.store, name)


def linked(store: Store) -> dict[str, str]:
    """The raters who have a link, and the hash of its token."""
    with store.reading() as connection:
        query = select(RaterRow.name, RaterRow.token).where(RaterRow.token.is_not(None))
        return {name: token for name, token in connection.execute(query)}  # type: ignore[misc]


def give_link(store: Store, name: str, token: str) -> None:
    """Lets a token open the page for a rater, and no other token."""
    if linked(store).get(name) != hash_token(token):
        with store.writing() as connection:
            connection.execute(update(RaterRow).where(RaterRow.name == name).values(token=hash_token(token)))


def revoke(store: Store, name: str) -> bool:
    """Ends a rater's link; returns whether there was one. The answers stay."""
    with store.writing() as connection:
        ended = update(RaterRow).where(RaterRow.name == name, RaterRow.token.is_not(None)).values(token=None)
        return connection.execute(ended).rowcount > 0


def new_token() -> str:
    """A token that opens the page."""
    return secrets.token_urlsafe(24)


def hash_token(token: str) -> str:
    """So that tokens are compared without telling by the time it takes how much of one was right."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
