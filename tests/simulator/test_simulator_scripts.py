"""The text form of scripts, and which behaviour a playbook gives to whom."""

import pytest

from gateway.simulator import ScriptError
from gateway.simulator.grammar import split_outside
from gateway.simulator.playbook import Playbook, hint, parse_script


def names(playbook: Playbook, *secrets: str) -> list[str]:
    return [behaviour.name if (behaviour := playbook.take(secret)) else "refused" for secret in secrets]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("a", ["a"]),
        ("a, b ,c", ["a", "b", "c"]),
        ('a="x,y",b', ['a="x,y"', "b"]),
        ('a={"x":1,"y":[2,3]},b=1', ['a={"x":1,"y":[2,3]}', "b=1"]),
        (r'a="x\",y",b', [r'a="x\",y"', "b"]),
        ("a,", ["a", ""]),
    ],
)
def test_separators_inside_quotes_and_brackets_do_not_separate(text: str, parts: list[str]) -> None:
    assert split_outside(text, ",") == parts


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        ("ok", [("ok", 1)]),
        ("rate_limited:retry-after=5*3 then ok", [("rate_limited", 3), ("ok", 1)]),
        ("silent * 2 then\n  close", [("silent", 2), ("close", 1)]),
        ('ok:text="a then b*2"', [("ok", 1)]),
        (["ok then close", "silent*2"], [("ok", 1), ("close", 1), ("silent", 2)]),
    ],
)
def test_script_is_read_as_steps(script: str | list[str], steps: list[tuple[str, int]]) -> None:
    parsed = parse_script(script)
    assert [(behaviour.name, count) for behaviour, count in parsed.steps] == steps


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("", "empty"),
        ([], "empty"),
        ("ok then ", "a step of the script is empty"),
        ("rate_limted", "did you mean 'rate_limited'"),
        ("nothing_like_it", "--list"),
        ("ok:evnts=3", "did you mean 'events'"),
        ("silent:events=3", "no option 'events'"),
        ("ok:events=3,events=4", "given twice"),
        ("ok:events=", "wants a whole number"),
        ("ok:events=0", "1 or more"),
        ("ok:events=-1", "1 or more"),
        ("ok:delay=soon", "wants a number"),
        ("ok:delay=-1", "0 or more"),
        ("ok:delay=nan", "finite"),
        ("ok:gzip=yes", "true or false"),
        ("ok:framing=brick", "one of chunked, length, close"),
        ("ok,events=3", "unknown behaviour 'ok,events=3'"),
        ("ok:,", "an option is empty"),
        ("ok*0", "0 times"),
        ('ok:text="open', "not closed"),
        ('ok:text="a"b', "not a quoted text"),
        ("tool_use:input=[1]", "JSON object"),
        ("tool_use:input={1}", "option input"),
        ("status:code=99", "200 to 599"),
        ("rate_limited:raw=ü", "printable ASCII"),
    ],
)
def test_bad_script_is_refused_in_one_clear_line(script: str | list[str], complaint: str) -> None:
    with pytest.raises(ScriptError) as refusal:
        parse_script(script)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_key_plays_its_script_and_repeats_the_last_step() -> None:
    playbook = Playbook()
    playbook.set_key("sk-a", parse_script("rate_limited*2 then close then ok*2"))
    assert names(playbook, *["sk-a"] * 6) == ["rate_limited"] * 2 + ["close"] + ["ok"] * 3


def test_keys_play_apart_from_each_other() -> None:
    playbook = Playbook()
    playbook.set_key("sk-a", parse_script("close then ok"))
    playbook.set_key("sk-b", parse_script("silent then ok"))
    assert names(playbook, "sk-a", "sk-b", "sk-a", "sk-b") == ["close", "silent", "ok", "ok"]


def test_order_overrides_keys_until_it_is_taken_away() -> None:
    playbook = Playbook()
    playbook.set_key("sk-a", parse_script("silent"))
    playbook.set_key("sk-b", parse_script("close"))
    playbook.set_order(parse_script("tool_use then rate_limited then ok"))
    assert names(playbook, "sk-a", "sk-a", "sk-b", "sk-a") == [
        "tool_use",
        "rate_limited",
        "ok",
        "ok",
    ]
    playbook.set_order(None)
    assert names(playbook, "sk-a", "sk-b") == ["silent", "close"]


def test_unknown_key_uses_up_nothing_of_the_order() -> None:
    playbook = Playbook()
    playbook.set_key("sk-a", parse_script("ok"))
    playbook.set_order(parse_script("close then ok"))
    assert names(playbook, "sk-x", "", "sk-a") == ["refused", "refused", "close"]


def test_any_key_plays_its_own_copy_of_the_script() -> None:
    playbook = Playbook(parse_script("close then ok"))
    assert names(playbook, "sk-x", "sk-y", "sk-x", "") == ["close", "close", "ok", "refused"]
    assert [key.name for key in playbook.known_keys()] == ["key-1", "key-2"]


def test_new_script_starts_from_its_beginning_and_keeps_the_name() -> None:
    playbook = Playbook()
    playbook.set_key("sk-a", parse_script("ok"), "primary")
    names(playbook, "sk-a")
    playbook.set_key("sk-a", parse_script("close then silent"))
    assert names(playbook, "sk-a", "sk-a") == ["close", "silent"]
    assert playbook.name_of("sk-a") == "primary"
    assert playbook.secret_of("primary") == playbook.secret_of("sk-a") == "sk-a"
    assert playbook.secret_of("another") is None


@pytest.mark.parametrize("secret", ["", "sk-a", "sk-sim-0123456789"])
def test_hint_hides_most_of_a_secret(secret: str) -> None:
    assert not secret or secret not in hint(secret)
