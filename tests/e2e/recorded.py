"""What a gateway has recorded, and what it should have: the database read as an operator would, the upstream's words.

Owns: reading every record, waiting for records, the usage that an answer's bytes say. The last is written anew here,
so that the gateway's own reading of usage is held against another.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from gateway.records.database import Database, Reader
from gateway.records.forwarder import DatabaseUnavailable
from gateway.records.interception_record import InterceptionRecord
from tests import harness
from tests.e2e.clients import events_of
from tests.harness import wait_until

SOON_SECONDS = 60.0


class Records:
    """The database at a URL. Every reading opens it anew."""

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    def in_folder(cls, data_dir: Path) -> Records:
        """The one that a gateway keeps in its data folder unless told otherwise."""
        return cls(f"sqlite:///{data_dir / 'records.db'}")

    def ids_by_session(self) -> dict[str, list[str]]:
        """The interceptions of every session; none while there is no database, or no table in it."""
        if self.url.startswith("sqlite") and not Path(self.url.removeprefix("sqlite:///")).exists():
            return {}
        engine = create_engine(self.url.replace("postgresql://", "postgresql+psycopg://"))
        found: dict[str, list[str]] = {}
        try:
            with engine.connect() as connection:
                for session, id in connection.execute(text("SELECT session, id FROM interceptions")):
                    found.setdefault(session, []).append(id)
        except DBAPIError:
            return {}
        finally:
            engine.dispose()
        return found

    def wait_for(self, sessions: Iterable[str], timeout_seconds: float = SOON_SECONDS) -> None:
        """Wait until each of these sessions has a record."""
        wanted = set(sessions)
        arrived = wait_until(lambda: wanted <= set(self.ids_by_session()), timeout_seconds)
        assert arrived, f"{len(wanted - set(self.ids_by_session()))} of {len(wanted)} are missing"

    def of_session(self, session: str) -> InterceptionRecord:
        """The record of the only interception of a session."""
        self.wait_for([session])
        [id] = self.ids_by_session()[session]
        return self.find(id)[0]

    def find(self, request_id: str) -> list[InterceptionRecord]:
        """The records of one request id."""
        with closing(Database(self.url)) as database:
            database.prepare_to_read()
            return Reader(database).find(request_id)

    def is_there(self) -> bool:
        """Whether it can be read."""
        try:
            self.find("")
        except DatabaseUnavailable:
            return False
        return True


@dataclass(frozen=True)
class Said:
    """What an upstream has said of an answer's usage. Equal to what is recorded of it, or something is wrong."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    server_tools: int = 0

    def __add__(self, other: Said) -> Said:
        return Said(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @classmethod
    def by(cls, usage: Mapping[str, Any]) -> Said:
        """By a usage object."""
        written = usage.get("cache_creation", {})
        return cls(
            input=usage.get("input_tokens", 0),
            cache_read=usage.get("cache_read_input_tokens", 0),
            cache_write_5m=written.get("ephemeral_5m_input_tokens", 0),
            cache_write_1h=written.get("ephemeral_1h_input_tokens", 0),
            output=usage.get("output_tokens", 0),
            server_tools=sum(usage.get("server_tool_use", {}).values()),
        )

    @classmethod
    def in_answer(cls, body: bytes, is_streamed: bool) -> Said | None:
        """By all whole events of a stream, or by a whole answer; None if it says nothing."""
        if not is_streamed:
            try:
                usage = json.loads(body).get("usage")
            except ValueError:
                return None
            return None if usage is None else cls.by(usage)
        usage = {}
        for name, data in events_of(body):
            if name == "message_start":
                usage |= data["message"]["usage"]
            elif name == "message_delta":
                usage |= data["usage"]
        return cls.by(usage) if usage else None

    @classmethod
    def recorded(cls, record: InterceptionRecord) -> Said | None:
        """What a record has of its one turn; None if it has nothing."""
        if not record.usage:
            return None
        [usage] = record.usage
        return cls(
            input=usage.input_tokens,
            cache_read=usage.cache_read_tokens,
            cache_write_5m=usage.cache_write_5m_tokens,
            cache_write_1h=usage.cache_write_1h_tokens,
            output=usage.output_tokens,
            server_tools=usage.server_tool_uses,
        )


def run_command(data_dir: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`gateway WORDS` with the settings of a gateway on that data folder."""
    return harness.run_command(*words, **{"data_dir": data_dir, "api_keys": "a=sk-a"} | settings)
