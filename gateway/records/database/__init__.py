"""The database of records: its schema, writing to it, and asking it.

`opening` opens one by its URL, `schema` says what is in it, `writing` is the recorder's Writer, `reading` answers
the operator's commands. SQLAlchemy is known here alone.
"""

from gateway.records.database.opening import Database
from gateway.records.database.reading import Reader
from gateway.records.database.writing import DatabaseWriter

__all__ = ["Database", "DatabaseWriter", "Reader"]
