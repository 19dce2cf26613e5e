"""What an earlier gateway kept in LMDB is known to the one that takes over."""

from __future__ import annotations

import gzip
import logging
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.keys import former_keys_file
from gateway.keys.file_store import FileStore
from gateway.runtime.machine_clock import machine_time
from gateway.server import master

# Written by that gateway: on several pages, some keys with a history.
FORMER = gzip.decompress((Path(__file__).parent / "keys.lmdb.gz").read_bytes())
WRITTEN_AT = 1_800_000_000.0
ONE_HEAD_LOST = FORMER[:4096] + bytes(4096) + FORMER[8192:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys.lmdb").write_bytes(FORMER)
    (tmp_path / "keys.lmdb-lock").write_bytes(bytes(8192))
    return tmp_path


def test_keys_keep_their_states_over_the_upgrade(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the file of a gateway that ran a minute ago, then cooldowns run on, a disabled key stays so, and a refused
    one gets the trial that a restart gives; the old file is gone, and does not come back into force."""
    monkeypatch.setattr(former_keys_file.time, "time", lambda: WRITTEN_AT + 60)
    master._begin_keys(folder)
    store = FileStore(folder)
    cooling, retired, disabled, enabled, confirmed = store.read(["resting", "retired", "disabled", "enabled", "key-7"])
    now = machine_time()
    assert cooling.cooling_until_at - now == pytest.approx(540, abs=30)
    assert retired.is_on_trial(now)
    assert disabled.is_disabled
    assert enabled.generation == 1
    assert (confirmed.limited_count, confirmed.is_unconfirmed) == (1, False)
    assert [path.name for path in folder.iterdir()] == ["keys.jsonl"]
    store.enable("disabled")
    store.close()
    master._begin_keys(folder)
    store = FileStore(folder)
    assert not store.read(["disabled"])[0].is_disabled
    store.close()


def test_newer_file_counts_alone(folder: Path) -> None:
    store = FileStore(folder)
    store.enable("disabled")
    store.close()
    master._begin_keys(folder)
    store = FileStore(folder)
    assert not store.read(["disabled"])[0].is_disabled
    store.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# notes\n",
        bytes(len(FORMER)),
        FORMER[:5000],
        ONE_HEAD_LOST,
        b"\xff" * 20000,
    ],
    ids=["empty", "text", "zeros", "cut", "a head lost", "ones"],
)
def test_file_that_cannot_be_read_stops_nobody(folder: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Given a file that is damaged, then the gateway starts, and what it says names what has to be done."""
    (folder / "keys.lmdb").write_bytes(content)
    with caplog.at_level(logging.INFO):
        master._begin_keys(folder)
    assert (folder / "keys.jsonl").exists()
    assert "disable again those that were disabled" in caplog.text


def test_every_way_to_lose_a_page_is_survived() -> None:
    """Given a file of which any one page was never written, then it is read or refused, without another exception."""
    for page in range(len(FORMER) // 4096):
        content = FORMER[: page * 4096] + bytes(4096) + FORMER[(page + 1) * 4096 :]
        with suppress(former_keys_file.NotReadable):
            former_keys_file.records_of(content)
