"""Raters' links: the same after a restart, until they are ended.

The store keeps the hash of each token, and a file beside it, which only its owner may read, the tokens themselves, so
that the same command prints the same links again.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from pbrl.feedback.page.access import give_link, hash_token, linked, new_token, revoke
from pbrl.feedback.store.identity import store_id
from pbrl.feedback.store.store import Store
from pbrl.types import UserError


def links_file(store: Store) -> Path:
    """Where the tokens are kept: beside a file of answers; of a server's database, in this folder."""
    url = make_url(store.url)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(f"{url.database}.links.json")
    return Path(f"labels-{store_id(store)[:8]}.links.json")


def make_links(store: Store, names: Sequence[str]) -> dict[str, str | None]:
    """The token of each of these raters, and of those who have one already; None where only its hash is known."""
    for name in names:
        store.add_rater(name, "human")
    file, known = links_file(store), linked(store)
    tokens = {name: token for name, token in _read(file).items() if known.get(name) == hash_token(token)}
    for name in names:
        if name not in known:
            tokens[name] = new_token()
            _write(file, tokens)  # before anybody is let in by it
            give_link(store, name, tokens[name])
    return {name: tokens.get(name) for name in [*names, *(known.keys() - set(names))]}


def end_links(store: Store, names: Sequence[str]) -> None:
    """Ends the links of these raters; their answers stay. Raises UserError for a rater who has none."""
    for name in names:
        if not revoke(store, name):
            raise UserError(f"{name} has no link to this store; those who have: {', '.join(linked(store)) or 'nobody'}")
        print(f"{name}: the link opens nothing more; the answers stay")
    file = links_file(store)
    if file.exists():
        _write(file, {name: token for name, token in _read(file).items() if name not in names})


def check_names(share: Any, setting: str) -> list[str]:
    """The names of raters that a setting lists. Raises UserError."""
    if share is None:
        return []
    if not isinstance(share, list):
        raise UserError(f"{setting}={share}: a list of names, as in {setting}=[{share}]")
    names = [str(name).strip() for name in share]
    for name in names:
        if not 0 < len(name) <= 64 or not name.isprintable():
            raise UserError(f"{setting}: {name!r} is no name of a rater: 1 to 64 letters, digits and signs")
    if len(set(names)) < len(names):
        raise UserError(f"{setting}={names}: each rater has a name of its own")
    return names


def _read(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} holds the raters' links and cannot be read ({error}): mend it or move it away"
        ) from error
    return {str(name): str(token) for name, token in found.items()} if isinstance(found, dict) else {}


def _write(file: Path, tokens: Mapping[str, str]) -> None:
    """Whole or not at all, and for its owner alone."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            json.dump(dict(tokens), opened, indent=1)
        part.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}, which keeps the raters' links ({error})") from error
