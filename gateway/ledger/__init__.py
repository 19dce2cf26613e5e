"""The database of records: its schema, writing to it, and asking it.

`database` opens one by its URL, `schema` says what is in it, `writing` is the recorder's Ledger, `reading` answers
the operator's commands. SQLAlchemy is known here alone.
"""

from gateway.ledger.database import Database
from gateway.ledger.reading import Reader
from gateway.ledger.writing import DatabaseLedger

__all__ = ["Database", "DatabaseLedger", "Reader"]
