"""What the stores' records speak of, and which records may be forgotten.

Owns: the form of subjects and of their names in a store, the rule by which records of subjects with details leave, and
the shelf on which a process keeps its records. Pure; the clock's time is an argument.

A subject is a BASE, whose record stays for good, or `BASE/DETAIL`. There may be many of those, so they are bounded: one
is forgotten when it is spent, and the oldest are where there are too many. In a store a BASE goes by a hash; a detail
stays in clear, so that those of a BASE can be listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping

from gateway.keys.key_record import NEVER_SEEN, Record

DAY_SECONDS = 86400.0
MOST_DETAILED = 20_000
_KEPT_OF_TOO_MANY = MOST_DETAILED * 9 // 10  # so that not every further one costs a look at all
_TIDY_SECONDS = 3600.0
_DETAIL = re.compile(r"[A-Za-z0-9._+:/@-]{1,160}")


def has_detail(name: str) -> bool:
    """Whether a subject, or its name in a store, has a detail."""
    return "/" in name


def is_sound(name: str) -> bool:
    """Whether the detail is one that a gateway writes, if there is one."""
    _, slash, detail = name.partition("/")
    return not slash or _DETAIL.fullmatch(detail) is not None


def named(subject: str, base_name: Callable[[str], str]) -> str:
    """What a store calls a subject. Raises ValueError for a detail that no store takes."""
    if not has_detail(subject):
        return base_name(subject)
    if not is_sound(subject):
        raise ValueError("a detail is 1 to 160 characters of [A-Za-z0-9._+:/@-]")
    base, _, detail = subject.partition("/")
    return f"{base_name(base)}/{detail}"


def latest_at(record: Record) -> float | None:
    """The last moment that a record speaks of; None if it speaks of none."""
    moments = (record.cooling_until_at, record.confirmed_at, record.marked_at, record.lease_until_at)
    return max((at for at in moments if at), default=None)


def is_spent(record: Record, now: float) -> bool:
    """Whether a record with a detail has nothing more to say: all that it speaks of lies more than a day back."""
    latest = latest_at(record)
    return latest is not None and not record.is_permanent and latest < now - DAY_SECONDS


def leaving(records: Mapping[str, Record], now: float) -> list[str]:
    """The names of the records that may be forgotten: the spent ones, and the oldest where there are too many."""
    detailed = [name for name in records if has_detail(name)]
    spent = [name for name in detailed if is_spent(records[name], now)]
    if len(detailed) - len(spent) <= MOST_DETAILED:
        return spent
    ages = {name: (records[name].is_permanent, latest_at(records[name]) or 0.0) for name in detailed}
    kept = sorted(ages.keys() - set(spent), key=ages.__getitem__)
    return spent + kept[: len(kept) - _KEPT_OF_TOO_MANY]


def by_base(names: Collection[str]) -> dict[str, list[str]]:
    """The details under each base's name, sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(name for name in names if has_detail(name)):
        base, _, detail = name.partition("/")
        found.setdefault(base, []).append(detail)
    return found


class Shelf:
    """Records by name, bounded. `changes` is larger after any of them changed. Not thread-safe."""

    def __init__(self) -> None:
        self.changes = 0
        self._records: dict[str, Record] = {}
        self._details: dict[str, set[str]] = {}  # by the base's name
        self._detailed_count = 0
        self._tidied_at: float | None = None

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def get(self, name: str) -> Record:
        """What is known; an empty record if nothing is."""
        return self._records.get(name, NEVER_SEEN)

    def details(self, base_name: str) -> list[str]:
        """The details under this base, sorted."""
        return sorted(self._details.get(base_name, ()))

    def put(self, name: str, record: Record, now: float) -> list[str]:
        """Keep a record in place of what was known; the names that were forgotten for it."""
        if self._records.get(name) == record:
            return []
        if name not in self._records and has_detail(name):
            base, _, detail = name.partition("/")
            self._details.setdefault(base, set()).add(detail)
            self._detailed_count += 1
        self._records[name] = record
        self.changes += 1
        if self._tidied_at is None:
            self._tidied_at = now
        is_due = now >= self._tidied_at + _TIDY_SECONDS or self._detailed_count > MOST_DETAILED
        return self.tidy(now) if is_due else []

    def tidy(self, now: float) -> list[str]:
        """Forget what may be forgotten; its names."""
        self._tidied_at = now
        names = leaving(self._records, now)
        for name in names:
            self.remove(name)
        return names

    def remove(self, name: str) -> None:
        """Forget a record with a detail, which is known."""
        del self._records[name]
        base, _, detail = name.partition("/")
        self._details[base].remove(detail)
        if not self._details[base]:
            del self._details[base]
        self._detailed_count -= 1
        self.changes += 1
