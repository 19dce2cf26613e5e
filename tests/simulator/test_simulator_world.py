"""The world of keys, row by row: what refuses whom, and what mends it. No sockets; the clock is told the time."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from gateway.simulator import Asked, Key, Limit, Organisation, ScriptError, Workspace, World
from gateway.simulator.routes import Route
from gateway.simulator.scopes import class_of
from gateway.simulator.script_file import read_script_file
from tests.simulator.worlds import OPUS, answer, ask, request_of, wanted

PATHS = ("/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/models/claude-x")
LONG_CONTEXT = "context-1m-2025-08-07"


@pytest.mark.parametrize(
    ("member", "settings", "fields", "status", "kind", "wording", "cause", "refused_paths"),
    [
        ("sk-1", {"revoked": True}, {}, 401, "authentication_error", "invalid", "revoked", PATHS),
        (
            "org-a",
            {"disabled": True},
            {},
            400,
            "invalid_request_error",
            "This organization has been disabled",
            "disabled",
            PATHS,
        ),
        (
            "ws-1",
            {"unusable": True},
            {},
            400,
            "invalid_request_error",
            "The workspace",
            "workspace_unusable",
            PATHS[:2],
        ),
        (
            "org-a",
            {"credit": 0},
            {},
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API.",
            "out_of_credit",
            PATHS[:1],
        ),
        (
            "org-a",
            {"spend_limited": True},
            {},
            400,
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on 2027-01-16 at 08:00 UTC.",
            "spend_limited",
            PATHS[:1],
        ),
        (
            "ws-1",
            {"spend_limited": True},
            {},
            400,
            "invalid_request_error",
            "You have reached your specified workspace API usage limits",
            "workspace_spend_limited",
            PATHS[:1],
        ),
        (
            "org-a",
            {"lacks_models": frozenset({OPUS})},
            {},
            403,
            "permission_error",
            "Your API key",
            "forbidden",
            PATHS[:1],
        ),
        (
            "org-a",
            {"lacks_betas": frozenset({LONG_CONTEXT})},
            {"beta": f"a-1, {LONG_CONTEXT}"},
            429,
            "rate_limit_error",
            "Extra usage",
            "not_entitled",
            PATHS[:1],
        ),
    ],
    ids=["revoked", "disabled", "unusable", "credit", "spend", "workspace-spend", "model", "beta"],
)
@pytest.mark.parametrize("path", PATHS)
def test_member_in_trouble_refuses_its_keys_until_it_is_mended(
    world, member, settings, fields, status, kind, wording, cause, refused_paths, path
):
    """Given a change, when its key asks, then it is refused where the API would, and answered once that is undone."""
    before = world.member(member)
    world.change(member, **settings)
    refused = ask(world, "sk-1", path, **fields)
    if path not in refused_paths:
        assert refused.status == 200
        return
    error = refused.json()["error"]
    assert (refused.status, error["type"]) == (status, kind)
    assert error["message"].startswith(wording)
    assert world.counts("sk-1").refusals == {cause: 1}
    world.put(before)
    assert ask(world, "sk-1", path, **fields).status == 200
    assert world.counts("sk-1").attempts == 2


@pytest.mark.parametrize(
    ("member", "settings", "still_good"),
    [
        ("sk-1", {"revoked": True}, {"sk-1b", "sk-2", "sk-3"}),
        ("ws-1", {"unusable": True}, {"sk-2", "sk-3"}),
        ("ws-1", {"spend_limited": True}, {"sk-2", "sk-3"}),
        ("ws-1", {"limits": {"messages/opus-4": Limit(1, 60)}}, {"sk-2", "sk-3"}),
        ("org-a", {"credit": 1}, {"sk-3"}),
        ("org-a", {"disabled": True}, {"sk-3"}),
        ("org-a", {"limits": {"messages/opus-4": Limit(1, 60)}}, {"sk-3"}),
    ],
)
def test_trouble_reaches_as_far_as_its_member(world, member, settings, still_good):
    """Given a key's, a workspace's or an organisation's trouble, then the keys of others answer."""
    world.change(member, **settings)
    ask(world, "sk-1")
    assert {key for key in ("sk-1", "sk-1b", "sk-2", "sk-3") if ask(world, key).status == 200} == still_good


def test_workspace_unusable_has_the_code_of_the_api(world):
    world.change("ws-1", unusable=True)
    assert ask(world, "sk-1").json()["error"]["details"] == {"error_code": "cmek_key_disabled"}


def test_what_no_entitlement_covers_is_refused_without_a_time(world):
    """Given a beta that the organisation lacks, then the 429 names no time and says not to retry; others pass."""
    world.change("org-a", lacks_betas=frozenset({LONG_CONTEXT}))
    refused = ask(world, "sk-1", beta=LONG_CONTEXT)
    assert refused.header("x-should-retry") == "false"
    assert not [name for name, _ in refused.headers if "reset" in name or name == "retry-after"]
    assert ask(world, "sk-1").status == 200
    assert ask(world, "sk-1", beta="another-beta").status == 200


def test_model_that_is_lacked_leaves_others(world):
    world.change("org-a", lacks_models=frozenset({OPUS}))
    assert "details" not in ask(world, "sk-1").json()["error"]
    assert ask(world, "sk-1", model="claude-sonnet-5").status == 200


def test_credit_is_used_up_by_messages_alone_and_topped_up(world):
    """Given two requests' worth, when other routes are asked, then only messages use it, one each."""
    world.change("org-a", credit=2)
    statuses = [ask(world, "sk-1", path).status for path in (PATHS[1], PATHS[2], PATHS[0], PATHS[0], PATHS[0])]
    assert statuses == [200, 200, 200, 200, 400]
    assert world.member("org-a") == Organisation("org-a", credit=0)
    world.change("org-a", credit=1)
    assert [ask(world, "sk-2").status for _ in range(2)] == [200, 400]


@pytest.mark.parametrize("script", ["ok", "rate_limited", "forbidden", "server_error", "tool_use", "not_found"])
@pytest.mark.parametrize("stream", [False, True])
def test_answer_says_whose_key_it_was(world, script, stream):
    """Given a key of the world, then every answer but a 401 names its organisation and workspace, once."""
    headers = answer(world, request_of("sk-2", stream=stream), script).headers
    assert [value for name, value in headers if name == "anthropic-organization-id"] == ["org-a"]
    assert [value for name, value in headers if name == "anthropic-workspace-id"] == ["ws-2"]


@pytest.mark.parametrize("script", ["unauthorized", "forbidden:html", "unauthorized:html"])
def test_401_and_edge_pages_do_not_say_whose_key_it_was(world, script):
    refused = answer(world, request_of("sk-2"), script)
    assert refused.header("anthropic-organization-id") == refused.header("anthropic-workspace-id") == ""


@pytest.mark.parametrize(("script", "status"), [("forbidden:html", 403), ("unauthorized:html", 401)])
def test_edge_page_is_html(world, script, status):
    page = answer(world, request_of("sk-1"), script)
    assert (page.status, page.header("content-type")) == (status, "text/html; charset=UTF-8")


def test_script_wins_over_the_world(world):
    """Given a key in trouble, when its script is anything but `ok`, then that is answered and no limit touched."""
    world.change("org-a", credit=0, limits={"messages/opus-4": Limit(1, 60)})
    assert answer(world, request_of("sk-1"), "overloaded").status == 529
    assert answer(world, request_of("sk-1"), "tool_use").status == 200
    assert answer(world, request_of("sk-1"), "ok:events=9").status == 400
    world.change("org-a", credit=None)
    assert ask(world, "sk-1").status == 200
    counts = world.counts("sk-1")
    assert (counts.attempts, counts.refusals) == (4, {"overloaded": 1, "out_of_credit": 1})


def test_key_outside_the_world_is_none_of_its_business(world):
    good, other = ask(world, "sk-other"), ask(world, "sk-another")
    assert (good.status, other.status) == (200, 200)
    assert good.header("anthropic-organization-id") != other.header("anthropic-organization-id")
    assert good.header("anthropic-workspace-id") == ""
    assert world.counts().attempts == 0
    assert not world.could_answer("sk-other", Asked())


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-opus-4-5-20251101", "opus-4"),
        ("claude-opus-4-8", "opus-4"),
        ("claude-opus-5", "opus-5"),
        ("claude-opus-5-5", "opus-5-5"),
        ("claude-sonnet-4-6", "sonnet-4"),
        ("claude-haiku-4-5-latest", "haiku-4-5"),
        ("claude-fable-5-2", "fable-5"),
        ("somebodys-own", "somebodys-own"),
    ],
)
def test_model_has_its_class(model, name):
    assert class_of(model) == name


@pytest.mark.parametrize(
    ("asked", "scope"),
    [
        (Asked(model=OPUS), "messages/opus-4"),
        (Asked(model=OPUS, is_fast=True), "messages/opus-4+fast"),
        (Asked(Route.COUNT_TOKENS, OPUS), "count_tokens"),
        (Asked(Route.MODELS), "models"),
        (Asked(Route.MODEL), "models"),
    ],
)
def test_scope_is_named(asked, scope):
    assert asked.scope == scope


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([Workspace("ws", "org")], "no organisation 'org'"),
        ([Organisation("org"), Key("sk", "org")], "'org' does not exist"),
        ([Organisation("org"), Workspace("org", "org")], "same id"),
    ],
)
def test_world_that_does_not_hang_together_is_refused(members, complaint):
    with pytest.raises(ScriptError, match=complaint):
        World(members)


def test_documented_world_does_what_the_page_says(tmp_path, clock):
    """Given the page's script file, then its dev key has four messages of Opus a minute and others go on."""
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    [text] = [block.partition("```")[0] for block in page.split("```toml\n") if "[organisations.org-main]" in block]
    file = tmp_path / "drill.toml"
    file.write_text(text)
    world = World(read_script_file(file).world.members(), clock=clock)
    answers = [ask(world, "sk-sim-dev") for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 429]
    assert answers[-1].header("retry-after") == "15"
    assert ask(world, "sk-sim-prod").status == 200
    assert ask(world, "sk-sim-dev", model="claude-sonnet-5").status == 200


def test_key_moves_to_another_workspace(world):
    world.change("sk-1", workspace="ws-3")
    assert ask(world, "sk-1").header("anthropic-organization-id") == "org-b"


def test_oracle_agrees_with_what_is_answered(world, clock):
    """Given random troubles, limits and times, then every key answers exactly when the oracle says that it could."""
    dice = random.Random(14)
    limits = {"messages/opus-4": Limit(3, 20), "messages/sonnet-5": Limit(2, 9), "count_tokens": Limit(2, 5)}
    for organisation in ("org-a", "org-b"):
        world.change(organisation, limits=limits, lacks_models=frozenset({"claude-haiku-5-5"}))
    world.change("ws-1", limits={"messages/opus-4": Limit(1, 7)})
    seen = set()
    for _ in range(2000):
        clock.pass_seconds(dice.random() * 3)
        if dice.random() < 0.05:
            world.change(dice.choice(["org-a", "org-b"]), credit=dice.choice([0, 3, None]))
        key = dice.choice(["sk-1", "sk-1b", "sk-2", "sk-3"])
        model = dice.choice([OPUS, "claude-opus-4-5", "claude-sonnet-5", "claude-haiku-5-5"])
        request = request_of(key, dice.choice(PATHS), model=model)
        could = world.could_answer(key, wanted(request))
        assert could == world.could_answer(key, wanted(request))
        status = answer(world, request).status
        assert could == (status == 200)
        seen.add(status)
    assert seen == {200, 400, 403, 429}
    counts = world.counts()
    assert counts.attempts == 2000
    assert set(counts.refusals) == {"out_of_credit", "forbidden", "rate_limited"}


def test_threads_together_get_what_the_limit_allows(world):
    """Given twenty requests' worth, when eight threads ask a hundred times, then twenty are answered."""
    world.change("org-a", limits={"messages/opus-4": Limit(20, 60)}, credit=50)
    start = threading.Barrier(8)

    def ask_some() -> None:
        start.wait(30)
        for _ in range(100):
            ask(world, "sk-1")

    threads = [threading.Thread(target=ask_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    counts = world.counts()
    assert (counts.attempts, counts.refusals) == (800, {"rate_limited": 780})
    assert world.member("org-a").credit == 30
