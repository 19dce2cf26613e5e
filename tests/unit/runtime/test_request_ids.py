"""Ids of requests: each one's own, whatever a proxy calls it."""

from __future__ import annotations

import re
import time

from gateway.runtime.request_ids import is_called, new_request_id

GIVEN = "4f1d2c3b4a5968778695a4b3c2d1e0ff"


def test_ids_differ_even_under_one_proxy_s_id() -> None:
    """Given a proxy that gives every request the same id; then the gateway's ids differ, and have it at their end."""
    ids = {new_request_id(GIVEN) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(id.startswith("req_gw_") and id.endswith(f".{GIVEN}") for id in ids)


def test_ids_sort_by_the_time_at_which_they_were_made() -> None:
    """Given requests, then an id has the millisecond first, and 48 bits of chance behind it, in digits of one width."""
    began_ms = time.time_ns() // 1_000_000
    ids = [new_request_id() for _ in range(200)]
    ended_ms = time.time_ns() // 1_000_000
    assert all(re.fullmatch("req_gw_[0-9a-f]{24}", id) for id in ids)
    assert all(began_ms <= int(id[7:19], 16) <= ended_ms for id in ids)
    assert max(int(id[19:], 16) for id in ids) >= 2**47


def test_a_request_is_called_by_its_id_and_its_proxy_s() -> None:
    """Given an id made of a proxy's; then both name it, that of the proxy with the gateway's mark or without."""
    id = new_request_id(GIVEN)
    assert all(is_called(id, name) for name in (id, GIVEN, f"req_gw_{GIVEN}"))
    assert not any(is_called(id, name) for name in (GIVEN[1:], f"req_gw_{GIVEN[1:]}", id[:-1], "", "req_gw_"))
