"""Answers that break, as planned: how much is whole and what follows. No sockets."""

import pytest

from gateway.simulator.steps import Close, Pause, Reset, Send, Stall
from tests.simulator.wired import plan_of, request_of, steps_of


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("coding", ["", ",gzip"])
@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize(
    ("name", "ending", "ends_properly", "half"),
    [
        ("stall", [Stall()], False, False),
        ("stall_half", [Stall()], False, True),
        ("cut", [Close()], False, False),
        ("cut_half", [Close()], False, True),
        ("cut_half:clean", [], True, True),
        ("cut_clean", [], True, False),
        ("reset", [Reset()], False, False),
    ],
)
def test_broken_stream_ends_as_told(name, ending, ends_properly, half, after, coding, framing):
    separator = "," if ":" in name else ":"
    answer, others = plan_of(f"{name}{separator}after={after},framing={framing}{coding}")
    assert answer.status == 200
    assert len(answer.events()) == after
    assert answer.body.endswith(b"\n\n") is (not half and after > 0)
    if framing == "close" and ends_properly:
        ending = [Close()]
    assert others == ending
    if framing != "close":
        assert answer.is_complete is ends_properly


@pytest.mark.parametrize(
    ("name", "is_broken"),
    [("stall", True), ("cut", True), ("cut_half", True), ("reset", True), ("cut_clean", True)],
)
def test_whole_answer_breaks_by_pieces(name, is_broken):
    whole = plan_of("ok", request_of(stream=False))[0].body
    broken, _ = plan_of(f"{name}:after=2", request_of(stream=False))
    assert whole.startswith(broken.body)
    assert 128 <= len(broken.body) < len(whole)
    assert broken.is_complete is (name == "cut_clean")


def test_break_after_the_last_event_lacks_only_the_end():
    answer, others = plan_of("cut:after=1000")
    assert answer.events()[-1][0] == "message_stop"
    assert not answer.is_complete
    assert others == [Close()]


def test_cut_at_every_byte_sends_so_many():
    whole = plan_of("ok:events=1")[0].body
    for byte in range(len(whole)):
        answer, others = plan_of(f"cut_at:events=1,byte={byte}")
        assert answer.body == whole[:byte]
        assert not answer.is_complete
        assert others == [Close()]


def test_hold_is_a_silence_before_the_end():
    assert plan_of("reset:hold=0.5")[1] == [Pause(0.5), Reset()]
    assert plan_of("cut:hold=0.5,ragged")[1] == [Pause(0.5), Close(is_ragged=True)]


@pytest.mark.parametrize("stream", [True, False])
def test_bad_chunk_is_in_mid_stream(stream):
    *_, last, ending = steps_of("bad_chunk:after=2", request_of(stream=stream))
    assert b"not-a-size\r\n" in last.data
    assert ending == Close()


@pytest.mark.parametrize("stream", [True, False])
def test_short_length_promises_more(stream):
    answer, others = plan_of("short_length:extra=3", request_of(stream=stream))
    assert int(answer.header("content-length")) == len(answer.raw_body) + 3
    assert others == [Close()]


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize(
    ("stream", "content_type"),
    [(True, "text/event-stream; charset=utf-8"), (False, "application/json")],
)
def test_empty_is_empty(framing, stream, content_type):
    answer, _ = plan_of(f"empty:framing={framing}", request_of(stream=stream))
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("content-type") == content_type
    assert answer.is_complete


def test_late_end_has_the_whole_message():
    answer, others = plan_of("late_end")
    assert answer.events()[-1][0] == "message_stop"
    assert not answer.is_complete
    assert others == [Stall()]
    assert plan_of("late_end:seconds=2")[0].is_complete


def test_slow_head_is_silent_first():
    first, *rest = steps_of("slow_head:seconds=2.5")
    assert first == Pause(2.5)
    assert rest == steps_of("ok")


@pytest.mark.parametrize("stream", [True, False])
def test_drip_head_drips_the_head_only(stream):
    request = request_of(stream=stream)
    steps = steps_of("drip_head:delay=0.001", request)
    dripped = [step for step in steps if isinstance(step, Send) and len(step.data) == 1]
    assert bytes(b"".join(step.data for step in dripped)).endswith(b"\r\n\r\n")
    assert plan_of("drip_head", request)[0] == plan_of("ok", request)[0]


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        ("silent", [Stall()]),
        ("close", [Close()]),
        ("close:reset", [Reset()]),
        ("no_read:seconds=2", [Pause(2.0), Reset()]),
    ],
)
def test_some_never_answer(script, steps):
    assert steps_of(script) == steps


@pytest.mark.parametrize(("option", "ending"), [("", Stall()), (":close", Close())])
def test_early_answer_is_a_413(option, ending):
    answer, others = plan_of("early_answer" + option)
    assert answer.status == 413
    assert others == [ending]
