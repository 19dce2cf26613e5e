"""What the status page's headline says in each situation: what is wrong, since when, what to do, what still works."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.keys.overview import overview
from gateway.keys.pool import BY_OPERATOR, Pool
from gateway.keys.verdict import Concern
from gateway.telemetry.recent import Traffic
from gateway.web.headline import Health, Kind, Tone, headline
from gateway.web.status_words import ago, countdown, named
from tests.unit.fakes import FakeClock, pool_of

GOOD, WARNING, BAD = Tone.GOOD, Tone.WARNING, Tone.BAD
OPUS = "messages/opus-4"

Act = Callable[[Pool], object]


def cool(number: int, seconds: float, reason: str = "rate_limited", status: int = 429) -> Act:
    return lambda pool: pool.cool(pool.statuses()[number], seconds, reason, status)


def limit(number: int, seconds: float, scope: str = OPUS) -> Act:
    return lambda pool: pool.cool(pool.statuses(scope)[number], seconds, "rate_limited", 429, Concern.SCOPE)


def retire(number: int, reason: str = "unauthorized", status: int = 401) -> Act:
    return lambda pool: pool.retire(pool.statuses()[number], reason, status)


def disable(number: int) -> Act:
    return lambda pool: pool.disable(pool.keys[number])


def suspect(number: int) -> Act:
    return lambda pool: pool.suspect(pool.keys[number])


def said(count: int, *acts: Act, seconds: float = 0.0, **health: object) -> tuple[Tone, list[str]]:
    """The headline for so many keys, so long after these acts."""
    clock = FakeClock()
    pool = pool_of(count, clock)
    for act in acts:
        act(pool)
    clock.advance(seconds)
    tone, sentences = headline(overview(pool.statuses), Health(**health))  # type: ignore[arg-type]
    return tone, [sentence.text for sentence in sentences]


REPLACE_K1 = "k1 was refused (401) 4 min ago: replace it, or if it is good again: gateway keys enable k1."


@pytest.mark.parametrize(
    ("count", "acts", "seconds", "tone", "words"),
    [
        pytest.param(0, [], 0, GOOD, ["No keys here: clients bring their own credentials."], id="no-pool"),
        pytest.param(1, [], 0, GOOD, ["The key is valid."], id="the-only-one"),
        pytest.param(3, [], 0, GOOD, ["All 3 keys are valid."], id="all"),
        pytest.param(
            3,
            [retire(1), cool(0, 476)],
            240,
            WARNING,
            [REPLACE_K1, "k0 is back in 3:56.", "One valid key is left, k2."],
            id="one-retired-one-cooling",
        ),
        pytest.param(4, [cool(0, 30)], 0, WARNING, ["k0 is back in 30 s.", "3 of 4 keys are valid."], id="one-cooling"),
        pytest.param(
            3,
            [limit(0, 30)],
            0,
            WARNING,
            ["k0 is back for messages/opus-4 in 30 s.", "2 of 3 keys are valid."],
            id="one-cooling-for-a-scope",
        ),
        pytest.param(3, [cool(0, 30)], 31, GOOD, ["All 3 keys are valid."], id="back-and-on-trial"),
        pytest.param(
            2,
            [retire(1), cool(0, 476)],
            240,
            BAD,
            ["No key is left: clients are refused until k0 is back in 3:56.", REPLACE_K1],
            id="none-left-one-comes-back",
        ),
        pytest.param(
            2,
            [retire(1), disable(0)],
            240,
            BAD,
            [
                "No key is left: clients are refused until you enable one, or add one and type gateway reload.",
                REPLACE_K1,
            ],
            id="none-left-none-comes-back",
        ),
        pytest.param(
            2,
            [limit(0, 90), limit(1, 60)],
            0,
            BAD,
            [f"No key is left for {OPUS}: such requests are refused until k1 is back in 1:00."],
            id="none-left-for-a-scope",
        ),
        pytest.param(
            2,
            [limit(0, 90), limit(1, 60, "messages/sonnet-4")],
            0,
            WARNING,
            ["k1 is back for messages/sonnet-4 in 1:00.", "k0 is back for messages/opus-4 in 1:30."],
            id="each-cooling-for-another-scope",
        ),
        pytest.param(
            3,
            [cool(1, 3600, "out_of_credit", 400)],
            7200 - 3700,
            WARNING,
            [
                "k1: out of credit, found 58 min ago: top up credit, then: gateway keys enable k1.",
                "2 of 3 keys are valid.",
            ],
            id="out-of-credit",
        ),
        pytest.param(
            3,
            [retire(1, "forbidden", 403), suspect(1)],
            5,
            WARNING,
            [
                "k1 was forbidden something (403) 5 s ago: it is being looked into, and tried last.",
                "2 of 3 keys are valid.",
            ],
            id="being-looked-into",
        ),
        pytest.param(3, [disable(1)], 0, GOOD, ["2 of 3 keys are valid; k1 is disabled."], id="one-disabled"),
        pytest.param(
            2, [disable(1)], 0, GOOD, ["One valid key is left, k0; k1 is disabled."], id="one-disabled-of-two"
        ),
        pytest.param(
            3,
            [cool(0, 90, BY_OPERATOR, 0)],
            0,
            WARNING,
            ["k0 is back in 1:30.", "2 of 3 keys are valid."],
            id="by-hand",
        ),
        pytest.param(
            9,
            [cool(number, 100 - number) for number in range(5)],
            0,
            WARNING,
            ["5 keys are cooling down; the first, k4, is back in 1:36.", "4 of 9 keys are valid."],
            id="many-cooling",
        ),
        pytest.param(
            9,
            [retire(number) for number in range(5)],
            0,
            WARNING,
            ["5 keys need you: k0, k1, k2 and 2 more. What to do stands beside each, below.", "4 of 9 keys are valid."],
            id="many-retired",
        ),
    ],
)
def test_headline_says_of_the_keys_what_is_wrong_and_what_to_do(count, acts, seconds, tone, words):
    """Given keys in some state, then the headline is these sentences, and as bad as this."""
    assert said(count, *acts, seconds=seconds) == (tone, words)


@pytest.mark.parametrize(
    ("health", "tone", "words"),
    [
        pytest.param(
            {"store": "Redis", "is_store_up": False},
            BAD,
            "Redis cannot be used: what happens to a key is not shared until it can. Requests are served.",
            id="redis-down",
        ),
        pytest.param(
            {"store": "Redis", "is_store_up": False, "needs_store": True},
            BAD,
            "Redis cannot be used: what happens to a key is not shared until it can. Clients that have limits are "
            "refused (529), others are served.",
            id="redis-down-and-limits-closed",
        ),
        pytest.param(
            {"is_store_up": False},
            BAD,
            "The data folder cannot be used: what happens to a key is not shared until it can. Requests are served.",
            id="data-folder-full",
        ),
        pytest.param(
            {"is_database_up": False, "records_waiting": 1234},
            WARNING,
            "The database of records cannot be used: 1,234 records wait on disk. Requests are served.",
            id="database-down",
        ),
        pytest.param(
            {"is_reload_ok": False},
            WARNING,
            "The last reload was refused, and nothing has changed: gateway check says why.",
            id="reload-refused",
        ),
        pytest.param(
            {"mcp_down": ("files",)},
            WARNING,
            "MCP server files does not answer: models are without those tools.",
            id="mcp-server-down",
        ),
        pytest.param(
            {"mcp_down": ("files", "web")},
            WARNING,
            "MCP servers files and web do not answer: models are without those tools.",
            id="mcp-servers-down",
        ),
        pytest.param(
            {"inflight": 24, "inflight_limit": 24},
            BAD,
            "The gateway is full: all 24 slots are taken, and more are refused (529).",
            id="full",
        ),
        pytest.param(
            {"traffic": Traffic(300, 40, 8, affected=(("bob", 6), ("ann", 2)))},
            WARNING,
            "20 % of requests failed in the last 5 min (8 of 40); affected: bob and ann.",
            id="some-fail",
        ),
        pytest.param(
            {"traffic": Traffic(42, 40, 20, affected=tuple((f"t{number}", 4) for number in range(5)))},
            BAD,
            "50 % of requests failed in the last 42 s (20 of 40); affected: t0, t1, t2 and 2 more.",
            id="many-fail",
        ),
        pytest.param(
            {"traffic": Traffic(300, 100, 0, upstream_5xx=1, upstream_529=30, upstream_silent=2)},
            WARNING,
            "The upstream failed in the last 5 min: 30 × 529 (overloaded), 1 × another 5xx, 2 × no answer. "
            "The keys are not the cause.",
            id="upstream-overloaded",
        ),
    ],
)
def test_headline_says_what_else_is_wrong(health, tone, words):
    """Given valid keys, and trouble elsewhere, then that is the headline, and that the keys are valid stands behind."""
    assert said(2, **health) == (tone, [words, "All 2 keys are valid."])


@pytest.mark.parametrize(
    "traffic",
    [Traffic(300, 10, 4), Traffic(300, 1000, 40), Traffic(300, 1000, 0, upstream_529=40), Traffic(300, 0, 0)],
    ids=["few", "small-share", "small-share-upstream", "nothing"],
)
def test_few_failures_are_no_headline(traffic):
    """Given fewer than five failures, or less than a twentieth, then there is nothing to say of them."""
    assert said(2, traffic=traffic) == (GOOD, ["All 2 keys are valid."])


def test_what_hurts_clients_comes_first():
    """Given trouble of all kinds, then what refuses clients stands first, and it is as bad as that."""
    everything = {
        "is_store_up": False,
        "is_database_up": False,
        "is_reload_ok": False,
        "mcp_down": ("files",),
        "traffic": Traffic(300, 40, 40, affected=(("bob", 40),)),
    }
    tone, words = said(2, retire(1), cool(0, 60), **everything)
    assert tone is BAD
    assert [sentence.split()[0] for sentence in words] == ["No", "The", "100", "The", "k1", "MCP", "The"]


def test_times_and_commands_are_pieces_of_their_own():
    """Given a sentence with a time and a command, then the page can let the one run and mark the other."""
    clock = FakeClock()
    pool = pool_of(3, clock)
    retire(1)(pool)
    cool(0, 100)(pool)
    clock.advance(10)
    _, (refused, cooling, *_) = headline(overview(pool.statuses), Health())
    kinds = [(piece.kind, piece.text, piece.seconds) for piece in (*refused.pieces, *cooling.pieces)]
    assert [kind for kind in kinds if kind[0] is not Kind.WORDS] == [
        (Kind.AGO, "10 s ago", 10.0),
        (Kind.COMMAND, "gateway keys enable k1", 0.0),
        (Kind.LEFT, "1:30", 90.0),
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.1, "1 s"),
        (59.0, "59 s"),
        (59.2, "1:00"),
        (236, "3:56"),
        (3600, "1 h 00 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_what_is_left_is_told_shortly(seconds, words):
    """Given a time that is left, then it is rounded up, and told in two units at most."""
    assert countdown(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s ago"), (59.9, "59 s ago"), (60, "1 min ago"), (3599, "59 min ago"), (7300, "2 h ago"), (2e5, "2 d ago")],
)
def test_what_is_past_is_told_in_one_unit(seconds, words):
    """Given how long ago something was, then it is rounded down and told in one unit."""
    assert ago(seconds) == words


def test_a_few_names_are_told():
    """Given any number of names, then three are told, and how many more there are."""
    names = ["a", "b", "c", "d", "e"]
    assert [named(names[:count]) for count in range(1, 6)] == [
        "a",
        "a and b",
        "a, b and c",
        "a, b, c and 1 more",
        "a, b, c and 2 more",
    ]
