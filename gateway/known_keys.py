"""What one process knows of the keys, by the names that they have in a file: keyed hashes under the file's salt.

Owns: the names, and the joining of what is known with what a file says. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.records import NEVER_SEEN, Record, joined


@dataclass(frozen=True, slots=True)
class Known:
    """What a process knows; replaced and never changed, so that reading takes no lock."""

    salt: str
    records: Mapping[str, Record]
    _names: dict[str, str] = field(default_factory=dict)  # a cache that only grows; races write the same value

    def name(self, fingerprint: str) -> str:
        """What a key is called in the file."""
        name = self._names.get(fingerprint)
        if name is None:
            name = hmac.new(bytes.fromhex(self.salt), fingerprint.encode(), hashlib.sha256).hexdigest()
            self._names[fingerprint] = name
        return name

    def record(self, fingerprint: str) -> Record:
        """What is known of a key."""
        return self.records.get(self.name(fingerprint), NEVER_SEEN)

    def having(self, records: Mapping[str, Record]) -> Known:
        """The same keys with other records."""
        return Known(self.salt, records, self._names)

    def under(self, salt: str) -> Known:
        """The same under another salt; of a key that was never asked for nobody knows the name there."""
        if salt == self.salt:
            return self
        other = Known(salt, {})
        return other.having(
            {other.name(key): self.record(key) for key in list(self._names) if self.name(key) in self.records}
        )

    def with_what(self, records: Mapping[str, Record]) -> Known:
        """Joined with what a file says; leases are as the file has them."""
        merged = {**self.records, **records}
        for name in records.keys() & self.records.keys():
            mine, theirs = self.records[name], records[name]
            if mine != theirs:
                merged[name] = replace(joined(mine, theirs), lease_until_at=theirs.lease_until_at)
        return self.having(merged)
