"""The tables of limits: how they are read, whose limits hold for a request, and what is doubtful about them."""

from __future__ import annotations

import tomllib

import pytest

from gateway.access.authentication import ClientToken
from gateway.config.limit_rules import Limited, LimitRules, Limits, LimitUse, limit_rules, shown
from gateway.config.values import BadValue
from gateway.pricing.money import PICODOLLARS

TABLES = """
[limits.groups.research]
dollars_per_day = 50
concurrent = 40
[limits.groups.research.each]
concurrent = 4
[limits.tokens."ann@example.org"]
requests_per_minute = 60
[limits.tokens.free]
[limits.default]
dollars_per_month = 100
"""
DAY, MONTH = 50 * PICODOLLARS, 100 * PICODOLLARS
POOL = Limited("group", "research", Limits(concurrent=40, picodollars_per_day=DAY))


def rules(text: str) -> LimitRules:
    return limit_rules(tomllib.loads(text)["limits"])


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(BadValue) as raised:
        rules(text)
    return raised.value.lines


def token(name: str, group: str | None = None) -> ClientToken:
    return ClientToken(name, "0" * 64, False, group)


@pytest.mark.parametrize(
    ("name", "group", "limited"),
    [
        pytest.param("bob", "research", [POOL, ("bob", Limits(concurrent=4))], id="a-pool-and-a-share-of-it"),
        pytest.param(
            "ann@example.org",
            "research",
            [POOL, ("ann@example.org", Limits(requests_per_minute=60))],
            id="its-own-instead-of-its-share",
        ),
        pytest.param(
            "ann@example.org", None, [("ann@example.org", Limits(requests_per_minute=60))], id="its-own-without-a-group"
        ),
        pytest.param("free", "research", [POOL], id="an-empty-table-frees-from-the-share"),
        pytest.param("free", None, [], id="an-empty-table-frees-from-the-default"),
        pytest.param("cid", None, [("cid", Limits(picodollars_per_month=MONTH))], id="the-default"),
        pytest.param("cid", "sales", [("cid", Limits(picodollars_per_month=MONTH))], id="a-group-without-limits"),
        pytest.param(None, None, [("", Limits(picodollars_per_month=MONTH))], id="an-open-gateway-s-clients-together"),
    ],
)
def test_limits_that_hold_for_a_request(name, group, limited):
    """Given a pool, shares, a token's own limits and a default, then the pool holds, and one of the others."""
    expected = [each if isinstance(each, Limited) else Limited("token", *each) for each in limited]
    assert rules(TABLES).of(name, group) == tuple(expected)


def test_without_tables_nothing_is_limited():
    """Given no table, or empty ones, then nobody has limits."""
    assert not LimitRules().are_any
    assert not rules("[limits]").are_any
    assert LimitRules().of("ann", "research") == rules("[limits.groups.a]").of("ann", "a") == ()


@pytest.mark.parametrize(
    "table", ["groups.a", "groups.a.each", "tokens.a", "default"], ids=["group", "share", "token", "default"]
)
def test_a_single_table_limits_somebody(table):
    """Given one limit in any of the tables, then there are limits."""
    assert rules(f"[limits.{table}]\nconcurrent = 1").are_any


@pytest.mark.parametrize("field", ["groups", "shares", "tokens"])
def test_a_table_of_any_kind_is_enough(field):
    """Given rules that have tables of one kind alone, then there are limits."""
    assert LimitRules(**{field: {"a": Limits(concurrent=1)}}).are_any


def test_a_share_of_each_budget_is_told_first():
    """Given budgets of a day and of a month, then three quarters of each are told first, in whole picodollars."""
    who = Limited("group", "a", Limits(7, 8, 9, picodollars_per_day=50, picodollars_per_month=101))
    limits = (
        "requests_per_minute=7, tokens_per_minute=8, concurrent=9, picodollars_per_day=50, picodollars_per_month=101"
    )
    assert repr(who) == f"Limited(kind='group', name='a', limits=Limits({limits}), subject='group/a')"
    assert (who.bounds, who.first_told) == ((9, 7, 8, 50, 101), (38, 76))


def test_everybody_stands_once():
    """Given tokens, then groups and tokens with limits are listed once each; groups also if nobody belongs to them."""
    tokens = [token("bob", "research"), token("cid"), token("free", "research"), token("dan", "research")]
    subjects = [limited.subject for limited in rules(TABLES).everybody(tokens)]
    assert subjects == ["group/research", "token/bob", "token/cid", "token/dan"]
    assert [limited.subject for limited in rules(TABLES).everybody([])] == ["group/research"]
    assert [limited.subject for limited in rules(TABLES).everybody(None)] == ["group/research", "token/"]


def test_tables_for_nobody_are_doubted():
    """Given tables of names that no token has, or that say nothing, then a line for each, and none for the others."""
    doubts = rules(TABLES + "[limits.groups.empty]\n").doubts([token("free"), token("bob", "empty")])
    assert doubts == [
        "limits.groups.research: no token belongs to this group",
        "limits.groups.empty: this table limits nothing",
        "limits.tokens.ann@example.org: no token has this name",
    ]
    assert rules(TABLES).doubts([token("free"), token("ann@example.org", "research")]) == []
    assert len(rules(TABLES).doubts(None)) == 3


def test_tables_are_told_in_words():
    """Given limits, then each table is one line, with its amounts as they were meant."""
    assert rules(TABLES).words() == [
        "group research: 40 requests at once, 50.00 dollars a day",
        "each token of group research: 4 requests at once",
        "token ann@example.org: 60 requests a minute",
        "token free: no limits",
        "each token without limits of its own: 100.00 dollars a month",
    ]


@pytest.mark.parametrize(
    ("written", "picodollars"),
    [
        ("50", 50 * PICODOLLARS),
        ("0.1", PICODOLLARS // 10),
        ("0.30", 3 * PICODOLLARS // 10),
        ("1e-6", 10**6),
        ("0.000000000001", 1),
        ("0", 0),
        ("0.0", 0),
        ("1_000.50", 1000 * PICODOLLARS + PICODOLLARS // 2),
        ("9000000", 9 * 10**18),
    ],
)
def test_money_is_read_exactly(written, picodollars):
    """Given dollars as a whole number or with decimals, then they are those picodollars."""
    assert rules(f"[limits.default]\ndollars_per_day = {written}").default == Limits(picodollars_per_day=picodollars)


@pytest.mark.parametrize(
    "written",
    ["-1", "-0.01", "nan", "inf", "-inf", "true", '"50"', "[50]", "9000001", "1e300", "1e-13", "2026-11-29"],
)
def test_money_that_is_none_is_a_fault(written):
    """Given anything else for dollars, then one line names it."""
    (line,) = faults(f"[limits.groups.a]\ndollars_per_month = {written}")
    assert line.startswith("groups.a.dollars_per_month: expected a number of dollars")


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "concurrent"])
@pytest.mark.parametrize("written", ["0", "-1", "1.5", "4.0", "true", '"4"', "1000000001"])
def test_count_that_is_none_is_a_fault(name, written):
    """Given no whole number from 1, then one line names it."""
    (line,) = faults(f"[limits.tokens.ann]\n{name} = {written}")
    assert line.startswith(f"tokens.ann.{name}: expected a whole number from 1")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("[limits]\nrequests_per_minute = 1", ["requests_per_minute: expected one of groups"], id="top"),
        pytest.param("[limits.group.a]", ["group: expected one of groups, tokens, default"], id="kind"),
        pytest.param("[limits]\ngroups = 1", ["groups: expected tables, [limits.groups.NAME]"], id="groups"),
        pytest.param("[limits]\ntokens = []", ["tokens: expected tables, [limits.tokens.NAME]"], id="tokens"),
        pytest.param("[limits.groups]\na = 1", ["groups.a: expected a table, [limits.groups.a]"], id="group"),
        pytest.param("[limits]\ndefault = 5", ["default: expected a table"], id="default"),
        pytest.param("[limits.groups.a]\neach = 5", ["groups.a.each: expected a table"], id="each"),
        pytest.param("[limits.tokens.a.each]", ["tokens.a.each: a table is not allowed here"], id="each-of-a-token"),
        pytest.param("[limits.default.each]", ["default.each: a table is not allowed here"], id="each-of-the-default"),
        pytest.param("[limits.groups.a.each.each]", ["groups.a.each.each: a table"], id="each-of-each"),
        pytest.param("[limits.tokens.ann.b]\nconcurrent = 1", ["put a name that has a dot in quotes"], id="dot"),
        pytest.param("[limits.groups.a]\ndollars = 5", ["groups.a.dollars: expected one of requests_per"], id="name"),
        pytest.param('[limits.groups."a b"]', ["groups: 'a b' is not a valid name of a group"], id="odd-group"),
        pytest.param('[limits.tokens.""]', ["tokens: '' is not a valid name of a token"], id="empty-name"),
        pytest.param('[limits.tokens."a\\nb"]', ["tokens: 'a\\nb' is not a valid name of a token"], id="line-break"),
        pytest.param('[limits.tokens."ünn"]', ["tokens: 'ünn' is not a valid name of a token"], id="no-ascii"),
        pytest.param(
            "[limits.groups.a]\nconcurrent = 0\ndollars_per_day = -1\n[limits.default]\nx = 1",
            ["groups.a.concurrent:", "groups.a.dollars_per_day:", "default.x:"],
            id="all-at-once",
        ),
    ],
)
def test_every_fault_is_a_line(text, lines):
    """Given tables that are not as they should be, then each fault is one line that says where it is."""
    found = faults(text)
    assert len(found) == len(lines)
    for line, said in zip(found, lines, strict=True):
        assert said in line
        assert "\n" not in line


@pytest.mark.parametrize("value", ["", "research=5", '{"default": {}}', 5, [], None])
def test_limits_that_are_no_tables_are_told_where_they_belong(value):
    """Given a text, as the environment has them, or anything else, then one line says where limits stand."""
    with pytest.raises(BadValue, match="limits belong in the TOML file, as tables"):
        limit_rules(value)


@pytest.mark.parametrize(
    ("limit", "amount", "words"),
    [
        ("concurrent", 4, "4"),
        ("dollars_per_day", 50 * PICODOLLARS, "50.00"),
        ("dollars_per_day", PICODOLLARS // 2, "0.50"),
        ("dollars_per_month", PICODOLLARS // 8, "0.125"),
        ("dollars_per_month", 10**6, "0.000001"),
        ("dollars_per_month", 0, "0.00"),
    ],
)
def test_amounts_are_told_shortly(limit, amount, words):
    """Given an amount, then counts are numbers, and dollars have cents, and more only where there is more."""
    assert shown(limit, amount) == words


@pytest.mark.parametrize(
    ("used", "most", "percent", "left", "ratio", "is_reached"),
    [
        (0, 10, 0, 10, 0.0, False),
        (999, 1000, 99, 1, 0.999, False),
        (10, 10, 100, 0, 1.0, True),
        (15, 10, 100, 0, 1.5, True),
        (0, 0, 100, 0, 1.0, True),
    ],
)
def test_use_is_told_against_what_is_allowed(used, most, percent, left, ratio, is_reached):
    """Given what is used of a limit, then its share is full only where nothing is left; nothing allowed is all used."""
    use = LimitUse(POOL, "concurrent", used, most, None)
    assert (use.percent, use.left, use.ratio, use.is_reached) == (percent, left, ratio, is_reached)
