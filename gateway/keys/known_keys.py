"""What one process knows of the keys, by the names that they have in a file: keyed hashes under the file's salt.

Owns: the names, and the joining of what is known with what a file says. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.keys.key_record import NEVER_SEEN, Record, joined
from gateway.keys.subjects import by_base, leaving, named


@dataclass(frozen=True, slots=True)
class Known:
    """What a process knows; replaced and never changed, so that reading takes no lock."""

    salt: str
    records: Mapping[str, Record]
    # Two caches; races write the same values. That of the names of bases only grows.
    _names: dict[str, str] = field(default_factory=dict)
    _details: dict[str, list[str]] = field(default_factory=dict)  # empty until it is asked for

    def name(self, subject: str) -> str:
        """What a subject is called in the file."""
        return named(subject, self._base_name)

    def _base_name(self, base: str) -> str:
        name = self._names.get(base)
        if name is None:
            name = hmac.new(bytes.fromhex(self.salt), base.encode(), hashlib.sha256).hexdigest()
            self._names[base] = name
        return name

    def record(self, subject: str) -> Record:
        """What is known of a subject."""
        return self.records.get(self.name(subject), NEVER_SEEN)

    def details(self, base: str) -> list[str]:
        """The details under which anything is known of this base, sorted."""
        if not self._details:
            self._details.update(by_base(self.records))
        return list(self._details.get(self._base_name(base), ()))

    def having(self, records: Mapping[str, Record]) -> Known:
        """The same keys with other records."""
        return Known(self.salt, records, self._names)

    def with_one(self, name: str, record: Record) -> Known:
        """The same with another record."""
        records = {**self.records, name: record}
        return Known(self.salt, records, self._names, self._details) if name in self.records else self.having(records)

    def without_spent(self, now: float) -> Known:
        """The same without the records that may be forgotten."""
        names = set(leaving(self.records, now))
        if not names:
            return self
        return self.having({name: record for name, record in self.records.items() if name not in names})

    def under(self, salt: str) -> Known:
        """The same under another salt; of a key that was never asked for nobody knows the name there."""
        if salt == self.salt:
            return self
        other = Known(salt, {})
        renamed = {name: other.name(base) for base, name in list(self._names.items())}
        records = {}
        for name, record in self.records.items():
            base_name, slash, detail = name.partition("/")
            if base_name in renamed:
                records[f"{renamed[base_name]}{slash}{detail}"] = record
        return other.having(records)

    def with_what(self, records: Mapping[str, Record]) -> Known:
        """Joined with what a file says; leases are as the file has them."""
        merged = {}
        for name, theirs in records.items():
            mine = self.records.get(name)
            if mine != theirs:
                merged[name] = (
                    theirs if mine is None else replace(joined(mine, theirs), lease_until_at=theirs.lease_until_at)
                )
        return self.having({**self.records, **merged}) if merged else self
