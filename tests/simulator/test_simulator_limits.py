"""Limits of the world that drain and fill up, and its prompt caches. No sockets; the clock is told the time."""

from __future__ import annotations

import pytest

from gateway.simulator import Limit
from tests.simulator.worlds import HELLO, ask, two_organisations

CACHED = [{"type": "text", "text": "Be brief. " * 40, "cache_control": {"type": "ephemeral"}}]
ANSWER = {"role": "assistant", "content": "Hello yourself."}


def limit_headers(answer):
    return [answer.header(f"anthropic-ratelimit-requests-{name}") for name in ("limit", "remaining", "reset")]


def used(answer):
    usage = answer.json()["usage"]
    assert usage["cache_creation"]["ephemeral_5m_input_tokens"] == usage["cache_creation_input_tokens"]
    return usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]


def test_healthy_key_has_nearly_all_of_its_tokens_left(world):
    """Given a key that nothing is wrong with, then its headers tell the same share of tokens as of requests."""
    answer = ask(world, "sk-1")
    limit, remaining = (int(answer.header(f"anthropic-ratelimit-tokens-{name}")) for name in ("limit", "remaining"))
    assert remaining / limit == 0.999


def test_limit_drains_and_fills_up(world, clock):
    """Given 3 requests in 30 s, then a fourth waits for the first's 10 s, and after 30 s all three are back."""
    world.change("org-a", limits={"messages/opus-4": Limit(3, 30)})
    answers = [ask(world, "sk-1") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[3].header("retry-after") == "10"
    assert answers[3].header("x-should-retry") == "true"
    assert answers[3].json()["error"]["type"] == "rate_limit_error"
    clock.pass_seconds(9.5)
    assert ask(world, "sk-1").header("retry-after") == "1"
    clock.pass_seconds(0.5)
    assert [ask(world, "sk-1").status for _ in range(2)] == [200, 429]
    clock.pass_seconds(3600)
    assert [ask(world, "sk-1").status for _ in range(4)] == [200, 200, 200, 429]


def test_headers_tell_the_limit(world, clock):
    """Given 3 requests in 30 s, then the headers tell what is left and when all is back."""
    world.change("org-a", limits={"messages/opus-4": Limit(3, 30)})
    answers = [ask(world, "sk-1") for _ in range(4)]
    assert [limit_headers(answer) for answer in answers] == [
        ["3", "2", "2027-01-15T08:00:10Z"],
        ["3", "1", "2027-01-15T08:00:20Z"],
        ["3", "0", "2027-01-15T08:00:30Z"],
        ["3", "0", "2027-01-15T08:00:30Z"],
    ]


@pytest.mark.parametrize("limit", [Limit(1, 60), Limit(7, 11), Limit(50, 60), Limit(400, 1)])
def test_waiting_as_long_as_was_said_is_enough(world, clock, limit):
    """Given any limit, when it is drained and the time of `retry-after` has passed, then a request fits."""
    world.change("org-a", limits={"messages/opus-4": limit})
    for _ in range(5):
        while (answer := ask(world, "sk-1")).status == 200:
            clock.pass_seconds(0.000_1)
        clock.pass_seconds(int(answer.header("retry-after")))
        assert ask(world, "sk-1").status == 200


def test_refused_request_does_not_count(world, clock):
    world.change("org-a", limits={"messages/opus-4": Limit(1, 10)})
    assert [ask(world, "sk-1").status for _ in range(20)] == [200, *[429] * 19]
    clock.pass_seconds(10)
    assert ask(world, "sk-1").status == 200


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/v1/messages", {"model": "claude-opus-4-5-20251101"}, 429),
        ("/v1/messages", {"model": "claude-opus-5"}, 200),
        ("/v1/messages", {"model": "claude-unheard-of"}, 200),
        ("/v1/messages", {"speed": "fast"}, 200),
        ("/v1/messages", {"speed": "standard"}, 429),
        ("/v1/messages/count_tokens", {}, 200),
        ("/v1/models", {}, 200),
    ],
)
def test_limit_is_of_a_class_of_models(world, path, fields, status):
    """Given opus-4 drained, then its other models are refused, and other classes, fast mode and routes are not."""
    world.change("org-a", limits={"messages/opus-4": Limit(1, 60)})
    assert ask(world, "sk-1").status == 200
    assert ask(world, "sk-1", path, **fields).status == status


@pytest.mark.parametrize(
    ("scope", "path", "fields"),
    [
        ("messages/opus-4+fast", "/v1/messages", {"speed": "fast"}),
        ("messages/unheard-of", "/v1/messages", {"model": "claude-unheard-of"}),
        ("count_tokens", "/v1/messages/count_tokens", {}),
        ("models", "/v1/models", {}),
        ("models", "/v1/models/claude-x", {}),
    ],
)
def test_every_scope_may_have_a_limit(world, scope, path, fields):
    world.change("org-a", limits={scope: Limit(1, 60)})
    assert [ask(world, "sk-1", path, **fields).status for _ in range(2)] == [200, 429]
    assert ask(world, "sk-1").status == 200


def test_workspace_limit_holds_beside_the_organisations(world, clock):
    """Given 1 in 60 s for a workspace and 2 in 60 s for all, then its refusals leave the organisation's limit alone."""
    world.change("org-a", limits={"messages/opus-4": Limit(2, 60)})
    world.change("ws-1", limits={"messages/opus-4": Limit(1, 60)})
    assert limit_headers(ask(world, "sk-1"))[:2] == ["1", "0"]
    refused = ask(world, "sk-1b")
    assert (refused.status, refused.header("retry-after")) == (429, "60")
    assert limit_headers(ask(world, "sk-2"))[:2] == ["2", "0"]
    assert ask(world, "sk-2").header("retry-after") == "30"


def test_limit_is_changed_while_it_is_drained(world):
    """Given a drained limit, when it is raised, then it starts full; when taken away, there is none."""
    world.change("org-a", limits={"messages/opus-4": Limit(1, 60)})
    assert [ask(world, "sk-1").status for _ in range(2)] == [200, 429]
    world.change("org-a", limits={"messages/opus-4": Limit(2, 60)})
    assert [ask(world, "sk-1").status for _ in range(3)] == [200, 200, 429]
    world.change("org-a", limits={})
    assert limit_headers(ask(world, "sk-1"))[:2] == ["1000", "999"]


def test_cache_is_written_once_and_read_by_the_workspace(world, clock):
    """Given a marked prompt, then its workspace's keys write it once and read it, and another workspace pays again."""
    read, written = used(ask(world, "sk-1", system=CACHED))
    assert read == 0
    assert written > 100
    assert used(ask(world, "sk-1b", system=CACHED)) == (written, 0)
    assert used(ask(world, "sk-2", system=CACHED)) == (0, written)
    assert (world.cached("ws-1").read, world.cached("ws-1").written) == (written, written)
    assert (world.cached("ws-2").read, world.cached("ws-2").written) == (0, written)
    assert (world.cached().read, world.cached().written) == (written, 2 * written)


def test_cache_lives_for_five_minutes_after_its_last_use(world, clock):
    written = used(ask(world, "sk-1", system=CACHED))[1]
    for _ in range(3):
        clock.pass_seconds(299)
        assert used(ask(world, "sk-1", system=CACHED)) == (written, 0)
    clock.pass_seconds(300)
    assert used(ask(world, "sk-1", system=CACHED)) == (0, written)


def test_growing_conversation_reads_what_it_has_written(world):
    """Given a session that grows with its mark at the end, then a turn reads the last one and writes what is new."""

    def turn(*messages):
        return used(ask(world, "sk-1", system=CACHED[0]["text"], messages=[*messages, marked("Go on.")]))

    first = turn()
    second = turn(*HELLO, ANSWER)
    third = turn(*HELLO, ANSWER, marked("Go on."), ANSWER)
    fourth = turn(*HELLO, ANSWER, {"role": "user", "content": "Go on."}, ANSWER)
    assert first[0] == 0
    assert second[0] == sum(first)
    assert third[0] == sum(second)
    assert 0 < third[1] < first[1]
    assert fourth == (sum(third), 0)


def marked(text):
    return {"role": "user", "content": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "claude-opus-5", "system": CACHED},
        {"system": [CACHED[0] | {"text": "Other."}]},
        {"system": CACHED, "tools": [{"name": "weather"}]},
    ],
)
def test_another_prefix_is_another_entry(world, fields):
    ask(world, "sk-1", system=CACHED)
    assert used(ask(world, "sk-1", **fields))[0] == 0


def test_prompt_without_a_mark_is_not_cached_unless_all_are(world, clock):
    assert [used(ask(world, "sk-1", system="Be brief.")) for _ in range(2)] == [(0, 0), (0, 0)]
    world = two_organisations(clock, caches_all=True)
    written = used(ask(world, "sk-1", system="Be brief."))[1]
    assert used(ask(world, "sk-1", system="Be brief.")) == (written, 0)


def test_refused_request_writes_no_cache(world):
    world.change("org-a", credit=0)
    ask(world, "sk-1", system=CACHED)
    assert world.cached().written == 0
    world.change("org-a", credit=None)
    assert used(ask(world, "sk-1", system=CACHED))[0] == 0


def test_streamed_usage_is_the_same(world):
    """Given a stream, then its first and last counts of the cache agree with those of a whole answer."""
    ask(world, "sk-1", system=CACHED)
    whole = ask(world, "sk-1", system=CACHED).json()["usage"]
    events = ask(world, "sk-1", system=CACHED, stream=True).events()
    usages = [data.get("usage") or data["message"]["usage"] for _, data in events if "usage" in str(data)]
    assert len(usages) == 2
    for usage in usages:
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            assert usage[name] == whole[name]
