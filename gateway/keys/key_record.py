"""What is known of one key, and how new knowledge is merged into it.

Owns: the record of a key and every change that may be made to it, as functions from record to record. Pure; the
clock's time is an argument. Every store of keys (memory, one machine, several) merges by these rules.

Merges commute within one generation of a key: every fact is a maximum (the later deadline, the later confirmation)
or sticky (a retirement). So no mark can be lost whatever the order in which threads, workers and machines race, and
what two machines know is joined by the same rules. Enabling a key starts a new generation; a mark carries the
generation its attempt began under, and a stale one is dropped.

A key whose cooldown is over is on trial until an answer confirms it (half-open): one request at a time takes its lease
and tries it, the others stay on the next valid key. A lease ends by time, so that a lost prober wedges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a key was marked: the outcome's name, the upstream's status (0: by hand), and when."""

    reason: str
    status: int
    at: float


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one key. Points in time are seconds of the machine's clock, 0 for never.

    `confirmed_at` is the last time that an answer ended a trial. `reason`, `status` and `marked_at` are the last
    mark's; the counts are of the upstream's marks, over all generations. `lease_until_at` is the present prober's.
    """

    generation: int = 0
    cooling_until_at: float = 0.0
    confirmed_at: float = 0.0
    is_retired: bool = False
    is_disabled: bool = False
    lease_until_at: float = 0.0
    reason: str = ""
    status: int = 0
    marked_at: float = 0.0
    limited_count: int = 0
    refused_count: int = 0

    @property
    def is_permanent(self) -> bool:
        """Whether the key is out of use until the operator, a probe or a restart gives it another chance."""
        return self.is_retired or self.is_disabled

    @property
    def is_unconfirmed(self) -> bool:
        """Whether no answer has confirmed the key since it last cooled down."""
        return self.cooling_until_at > self.confirmed_at

    def is_cooling(self, now: float) -> bool:
        """Whether the key's cooldown is not over."""
        return self.cooling_until_at > now

    def is_on_trial(self, now: float) -> bool:
        """Whether the key may be tried by one request at a time."""
        return self.is_unconfirmed and not self.is_permanent and not self.is_cooling(now)


NEVER_SEEN = Record()


def cooled(record: Record, until_at: float, generation: int, cause: Cause) -> Record:
    """The key was limited, or is to cool down by hand: it does until the later of the two deadlines."""
    if generation != record.generation:
        return record
    merged = replace(
        record,
        cooling_until_at=max(record.cooling_until_at, until_at),
        lease_until_at=0.0,
        limited_count=record.limited_count + (cause.status > 0),
    )
    return merged if record.is_permanent else _marked(merged, cause)


def retired(record: Record, generation: int, cause: Cause) -> Record:
    """The key was refused: it is out of use, whatever else is known of it."""
    if generation != record.generation:
        return record
    merged = replace(record, is_retired=True, lease_until_at=0.0, refused_count=record.refused_count + 1)
    return merged if record.is_permanent else _marked(merged, cause)


def confirmed(record: Record, generation: int, now: float) -> Record:
    """The key answered: its trial is over, unless it was marked again meanwhile and cools down until later."""
    if generation != record.generation or now <= record.confirmed_at:
        return record
    return replace(record, confirmed_at=now, lease_until_at=0.0)


def leased(record: Record, until_at: float, now: float) -> Record:
    """One request tries the key; unchanged if another does so already, or there is nothing to try."""
    if not record.is_on_trial(now) or record.lease_until_at > now:
        return record
    return replace(record, lease_until_at=until_at)


def released(record: Record, until_at: float) -> Record:
    """The prober that leased until then found nothing out; the next request may try."""
    return replace(record, lease_until_at=0.0) if record.lease_until_at == until_at else record


def enabled(record: Record, cause: Cause | None = None) -> Record:
    """The operator has mended the key: a new generation, valid. `cause` says who, for those who look on."""
    return _renewed(record) if cause is None else _marked(_renewed(record), cause)


def revived(record: Record, generation: int) -> Record:
    """The upstream accepts a refused key again: a new generation, unless more was learned of the key meanwhile."""
    return record if generation != record.generation or record.is_disabled else _renewed(record)


def disabled(record: Record, cause: Cause) -> Record:
    """The operator takes the key out of use; not even a restart gives it a trial."""
    return record if record.is_disabled else replace(_marked(record, cause), is_disabled=True)


def started_anew(record: Record, now: float) -> Record:
    """The gateway restarts: a refused key gets one trial, for it may have been mended upstream."""
    if not record.is_retired or record.is_disabled:
        return record
    return _marked(
        replace(_renewed(record), cooling_until_at=max(now, record.cooling_until_at)),
        Cause(record.reason, record.status, record.marked_at),
    )


def joined(one: Record, other: Record) -> Record:
    """What two stores know of a key, together. Commutes, and joining again changes nothing; leases stay apart."""
    limited_count = max(one.limited_count, other.limited_count)
    refused_count = max(one.refused_count, other.refused_count)
    if one.generation != other.generation:
        newest = max(one, other, key=lambda record: record.generation)
        return replace(newest, lease_until_at=0.0, limited_count=limited_count, refused_count=refused_count)
    # Why a key is out of use is not hidden by a later mark.
    told = max(one, other, key=lambda record: (record.is_permanent, record.marked_at, record.reason, record.status))
    return Record(
        generation=one.generation,
        cooling_until_at=max(one.cooling_until_at, other.cooling_until_at),
        confirmed_at=max(one.confirmed_at, other.confirmed_at),
        is_retired=one.is_retired or other.is_retired,
        is_disabled=one.is_disabled or other.is_disabled,
        reason=told.reason,
        status=told.status,
        marked_at=told.marked_at,
        limited_count=limited_count,
        refused_count=refused_count,
    )


def _renewed(record: Record) -> Record:
    """The next generation, with nothing held against the key."""
    return Record(
        generation=record.generation + 1, limited_count=record.limited_count, refused_count=record.refused_count
    )


def _marked(record: Record, cause: Cause) -> Record:
    return replace(record, reason=cause.reason, status=cause.status, marked_at=cause.at)
