"""The database of records: its schema, writing to it, and asking it.

`database` opens one by its URL, `schema` says what is in it, `writing` is the recorder's Ledger, `reading` answers
the operator's commands. SQLAlchemy is known here alone.
"""

from gateway.records.database.database import Database
from gateway.records.database.reading import Reader
from gateway.records.database.writing import DatabaseLedger

__all__ = ["Database", "DatabaseLedger", "Reader"]
