"""Relaying under a server that knows no Pauses: every case of the table of faults is the same there.

But for upstream connections that stay idle: the gateway's own worker closes them, under other servers the next request
does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.rig import Rig
from tests.e2e.test_other_servers import STOCK
from tests.e2e.test_relay import (
    IDLE_SECONDS,
    PING_SECONDS,
    test_a_broken_stream_ends_in_one_error_and_no_half_event,
    test_a_broken_whole_answer_is_a_502,
    test_a_chunked_request_body_goes_upstream_byte_for_byte,
    test_a_good_answer_arrives_byte_for_byte,
    test_a_kept_connection_that_closes_on_the_next_request_is_replaced_once,
    test_a_kept_connection_that_the_upstream_closed_is_replaced,
    test_a_redirect_is_relayed_and_not_followed,
    test_a_request_is_sent_twice_at_most,
    test_a_request_that_was_answered_by_garbage_is_not_sent_again,
    test_a_short_body_behind_message_stop_harms_nobody,
    test_a_silent_stream_gets_pings_and_at_last_an_error,
    test_a_stream_cut_at_any_byte_is_never_cut_in_silence,
    test_a_stream_that_breaks_behind_its_head_is_an_error_event,
    test_a_stream_that_is_not_ended_ends_behind_its_last_event,
    test_a_whole_answer_cut_anywhere_is_a_502,
    test_an_answer_before_the_request_was_read_is_relayed,
    test_an_error_inside_a_whole_200_is_relayed,
    test_an_error_of_the_upstream_is_relayed_unchanged,
    test_an_event_is_with_the_client_before_the_next_is_sent,
    test_an_upstream_that_breaks_off_a_large_request_is_a_502,
    test_an_upstream_that_does_not_answer_is_a_504,
    test_broken_answers_leave_no_connection_behind,
    test_events_come_one_by_one,
    test_good_answers_share_one_connection,
    test_headers_to_the_client_are_the_upstreams,
    test_headers_upstream_are_the_clients_less_what_stops_here,
    test_no_cookie_is_kept,
    test_the_head_comes_with_the_first_event,
    test_the_head_does_not_wait_long_for_the_first_event,
    test_the_query_string_is_kept,
    test_the_request_body_goes_upstream_byte_for_byte,
    test_there_are_pings_between_head_and_first_event,
    test_there_are_pings_while_the_next_key_is_slow,
    test_there_is_no_ping_before_the_stream_has_begun,
)

__all__ = [
    "test_a_broken_stream_ends_in_one_error_and_no_half_event",
    "test_a_broken_whole_answer_is_a_502",
    "test_a_chunked_request_body_goes_upstream_byte_for_byte",
    "test_a_good_answer_arrives_byte_for_byte",
    "test_a_kept_connection_that_closes_on_the_next_request_is_replaced_once",
    "test_a_kept_connection_that_the_upstream_closed_is_replaced",
    "test_a_redirect_is_relayed_and_not_followed",
    "test_a_request_is_sent_twice_at_most",
    "test_a_request_that_was_answered_by_garbage_is_not_sent_again",
    "test_a_short_body_behind_message_stop_harms_nobody",
    "test_a_silent_stream_gets_pings_and_at_last_an_error",
    "test_a_stream_cut_at_any_byte_is_never_cut_in_silence",
    "test_a_stream_that_breaks_behind_its_head_is_an_error_event",
    "test_a_stream_that_is_not_ended_ends_behind_its_last_event",
    "test_a_whole_answer_cut_anywhere_is_a_502",
    "test_an_answer_before_the_request_was_read_is_relayed",
    "test_an_error_inside_a_whole_200_is_relayed",
    "test_an_error_of_the_upstream_is_relayed_unchanged",
    "test_an_event_is_with_the_client_before_the_next_is_sent",
    "test_an_upstream_that_breaks_off_a_large_request_is_a_502",
    "test_an_upstream_that_does_not_answer_is_a_504",
    "test_broken_answers_leave_no_connection_behind",
    "test_events_come_one_by_one",
    "test_good_answers_share_one_connection",
    "test_headers_to_the_client_are_the_upstreams",
    "test_headers_upstream_are_the_clients_less_what_stops_here",
    "test_no_cookie_is_kept",
    "test_the_head_comes_with_the_first_event",
    "test_the_head_does_not_wait_long_for_the_first_event",
    "test_the_query_string_is_kept",
    "test_the_request_body_goes_upstream_byte_for_byte",
    "test_there_are_pings_between_head_and_first_event",
    "test_there_are_pings_while_the_next_key_is_slow",
    "test_there_is_no_ping_before_the_stream_has_begun",
]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(server=STOCK) as rig:
        yield rig


@pytest.fixture(scope="module")
def hasty_rig() -> Iterator[Rig]:
    """A gateway that pings early and gives silent upstreams up soon."""
    settings = {
        "ping_seconds": PING_SECONDS,
        "read_idle_timeout_seconds": IDLE_SECONDS,
        "idle_connection_seconds": 1,
    }
    with Rig(server=STOCK, **settings) as rig:
        yield rig
