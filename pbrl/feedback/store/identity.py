"""What a store is, wherever it lies: browsers keep unsent answers by it, so that they go to no other store."""

from uuid import uuid4

from sqlalchemy import select

from pbrl.feedback.store.database import Database, add
from pbrl.feedback.store.schema import IdentityRow


def store_id(store: Database) -> str:
    """The id of a store, 32 hexadecimal digits; made when it is first asked for, and kept."""
    query = select(IdentityRow.id)
    with store.reading() as connection:
        known = connection.execute(query).scalar()
    if known is not None:
        return known
    with store.writing() as connection:
        known = connection.execute(query).scalar()  # another program may have been first
        if known is None:
            known = uuid4().hex
            add(connection, IdentityRow, [{"id": known}])
    return known
