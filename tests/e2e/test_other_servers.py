"""The gateway under a server that knows no Pauses: stock gunicorn, whose threads wait instead.

Every case of failover and of hang-ups is the same as under the gateway's own worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.rig import Rig
from tests.e2e.test_disconnect import (
    RESERVED,
    THREADS,
    test_a_client_that_reads_nothing_more_of_a_busy_stream_and_leaves_is_noticed,
    test_as_many_hang_ups_as_threads_leave_every_thread_free,
    test_hang_ups_in_mid_stream_are_counted_as_such,
    test_hang_ups_on_the_other_routes_leave_every_thread_free,
)
from tests.e2e.test_failover import (
    test_a_failure_after_the_head_is_one_error_event,
    test_a_first_event_of_another_error_is_a_status,
    test_a_first_event_that_says_limited_counts_as_429,
    test_a_ping_is_no_answer,
    test_an_upstream_error_is_relayed_in_its_own_words,
    test_once_an_event_was_relayed_there_is_no_failover,
    test_the_clients_own_key_gets_one_attempt_and_its_answer,
    test_the_pool_is_walked_as_the_design_says,
    test_the_stream_of_the_next_key_runs_to_its_end_however_long,
)

__all__ = [
    "test_a_client_that_reads_nothing_more_of_a_busy_stream_and_leaves_is_noticed",
    "test_a_failure_after_the_head_is_one_error_event",
    "test_a_first_event_of_another_error_is_a_status",
    "test_a_first_event_that_says_limited_counts_as_429",
    "test_a_ping_is_no_answer",
    "test_an_upstream_error_is_relayed_in_its_own_words",
    "test_as_many_hang_ups_as_threads_leave_every_thread_free",
    "test_hang_ups_in_mid_stream_are_counted_as_such",
    "test_hang_ups_on_the_other_routes_leave_every_thread_free",
    "test_once_an_event_was_relayed_there_is_no_failover",
    "test_the_clients_own_key_gets_one_attempt_and_its_answer",
    "test_the_pool_is_walked_as_the_design_says",
    "test_the_stream_of_the_next_key_runs_to_its_end_however_long",
]

STOCK = (
    *("-c", "/dev/null", "-k", "gthread", "--bind", "127.0.0.1:0", "--workers", "1", "--threads", str(THREADS)),
    *("--graceful-timeout", "1", "gateway:create_app()"),
)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(server=STOCK, threads=THREADS, reserved_threads=RESERVED, default_cooldown_seconds=33) as rig:
        yield rig
