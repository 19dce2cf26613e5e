"""The table of prices: what may stand in it, which row holds, and that no model that is known goes without."""

from __future__ import annotations

import ast
import importlib.util
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config.loader import load_settings
from gateway.config.settings import Settings, SettingsError
from gateway.pricing.money import MOST_PICODOLLARS, dollars, exact_decimal, microdollars, scaled
from gateway.pricing.prices import PriceError, known_prices, read_prices
from gateway.web.service import Gateway

ROOT = Path(__file__).parents[3]
# Models of the SDKs that have no row, and why.
WITHOUT_PRICE = {"claude-mythos-preview": "deprecated; no price was found, so it is charged the default"}

RATES = {"input": "1", "cache_write_5m": "1.25", "cache_write_1h": "2", "cache_read": "0.1", "output": "5"}


def row(**changes: str | None) -> str:
    """A row as TOML; None leaves a member out."""
    members = {"model": '"claude-own-1"', "from": "2026-11-01"} | RATES | changes
    return "\n".join(["[[price]]", *(f"{name} = {value}" for name, value in members.items() if value is not None), ""])


def models_of(path: Path) -> set[str]:
    """The names in a `Literal` of an SDK's `model.py`."""
    return {
        node.value
        for literal in ast.walk(ast.parse(path.read_text()))
        if isinstance(literal, ast.Subscript) and isinstance(literal.value, ast.Name) and literal.value.id == "Literal"
        for node in ast.walk(literal.slice)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def sdk_models() -> dict[str, set[str]]:
    """By SDK: that of the tests' own environment, and each major version that is installed beside it."""
    spec = importlib.util.find_spec("anthropic")
    assert spec is not None
    assert spec.origin is not None
    own = Path(spec.origin).parent / "types" / "model.py"
    found = {"own": own} | {
        path.relative_to(ROOT).parts[1]: path
        for path in ROOT.glob(".venv-sdk/python-*/lib/python*/site-packages/anthropic/types/model.py")
    }
    return {name: models_of(path) for name, path in found.items()}


@pytest.mark.parametrize(("sdk", "models"), sdk_models().items())
def test_every_model_that_an_sdk_knows_has_a_price(sdk: str, models: set[str]) -> None:
    """Given the models of an SDK, then each has a row, or stands in the list of those that have none, with a reason."""
    assert len(models) > 10, f"{sdk} lists its models in another form"
    without = {model for model in models if known_prices().price_of(model, "2026-11-29", 0).is_default}
    assert without == models & set(WITHOUT_PRICE)


def test_the_default_is_the_dearest() -> None:
    """Given the package's rows, then the default is below none of them: nobody spends more than is counted."""
    default = known_prices().default
    assert (default.above_prompt_tokens, default.name, default.is_default) == (0, "default", True)
    for each in known_prices().rows:
        for name in RATES:
            assert getattr(each, name) <= getattr(default, name), each.name
        assert (each.fast_percent or 0) <= (default.fast_percent or 0)
        assert each.us_percent <= default.us_percent


def test_every_price_has_its_source() -> None:
    """Given the package's table, then each row, the default and the tools say where they come from."""
    prices = known_prices()
    assert all(each.source for each in [*prices.rows, prices.default])
    assert prices.tools_source


def test_own_rows_replace_all_of_a_model_s_and_the_rest_stays() -> None:
    """Given an own file with one model, then its rows alone hold for that model; others, default and tools stay."""
    own = read_prices(row(model='"claude-sonnet-5-5"'), known_prices())
    assert [each.since for each in own.rows if each.model == "claude-sonnet-5-5"] == ["2026-11-01"]
    assert own.price_of("claude-opus-5", "2026-11-29", 0) == known_prices().price_of("claude-opus-5", "2026-11-29", 0)
    assert (own.default, own.web_search) == (known_prices().default, known_prices().web_search)
    assert own != known_prices()
    assert read_prices("", known_prices()) == known_prices()


def test_the_example_of_the_documentation_can_be_read() -> None:
    """Given the file in docs/costs.md, then it is one, with both rows and the tools."""
    example = (ROOT / "docs" / "costs.md").read_text().split("```toml\n")[1].split("```")[0]
    own = read_prices(example, known_prices())
    assert [each.above_prompt_tokens for each in own.in_force("claude-opus-5", "2026-12-01")] == [200_000, 0]
    assert own.web_search == 8_000_000_000


def test_an_own_name_goes_before_the_plain_one() -> None:
    """Given an own row for a dated name, then it holds for that name alone."""
    own = read_prices(row(model='"claude-haiku-4-5-20251001"'), known_prices())
    assert own.price_of("claude-haiku-4-5-20251001", "2026-11-29", 0).since == "2026-11-01"
    assert own.price_of("claude-haiku-4-5-latest", "2026-11-29", 0).model == "claude-haiku-4-5"


def test_names_that_clients_send_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given models without end, then no more than a number of them are remembered, and each has its price."""
    monkeypatch.setattr("gateway.pricing.prices._MOST_KNOWN", 3)
    own = read_prices(row(), known_prices())
    sizes = []
    for number in range(8):
        assert own.price_of(f"claude-own-1-2026010{number}", "2026-11-29", 0).model == "claude-own-1"
        sizes.append(len(own._known))
    assert sizes == [1, 2, 3, 1, 2, 3, 1, 2]


def test_factors_that_are_not_given_change_nothing() -> None:
    """Given a row without factors, then the United States cost no more, and there is no price for fast mode."""
    price = read_prices(row(), known_prices()).price_of("claude-own-1", "2026-11-29", 0)
    assert (price.us_percent, price.fast_percent, price.above_prompt_tokens) == (100, None, 0)
    price = read_prices(row(us_factor="1.1", fast_factor="2"), known_prices()).price_of("claude-own-1", "2026-11-29", 0)
    assert (price.us_percent, price.fast_percent) == (110, 200)
    assert (price.name, price.is_default) == ("claude-own-1 from 2026-11-01", False)


def test_the_row_is_that_of_the_day_and_the_prompt() -> None:
    """Given two dates and two thresholds, then the newest date that has come holds, and its largest one below."""
    own = read_prices(
        row(**{"from": "2026-10-01"})
        + row(**{"from": "2026-10-01", "above_prompt_tokens": "1000"})
        + row(**{"from": "2026-11-01"})
        + row(**{"from": "2026-11-01", "above_prompt_tokens": "500"})
        + row(**{"from": "2026-11-01", "above_prompt_tokens": "2000"}),
        known_prices(),
    )
    for day, prompt_tokens, since, above in (
        ("2026-09-30", 1000, "2026-10-01", 0),
        ("2026-09-30", 1001, "2026-10-01", 1000),
        ("2026-10-31", 1001, "2026-10-01", 1000),
        ("2026-11-01", 500, "2026-11-01", 0),
        ("2026-11-01", 501, "2026-11-01", 500),
        ("2026-12-01", 9999, "2026-11-01", 2000),
    ):
        found = own.price_of("claude-own-1", day, prompt_tokens)
        assert (found.since, found.above_prompt_tokens) == (since, above)
    assert [each.above_prompt_tokens for each in own.in_force("claude-own-1", "2026-12-01")] == [2000, 500, 0]


LABEL = "[[price]] 1 (claude-own-1): "
BAD = {
    "negative": (row(input="-1"), LABEL + "input: a price cannot be negative"),
    "missing": (row(output=None), LABEL + "output: expected a number of dollars"),
    "text": (row(output='"5"'), LABEL + "output: expected a number of dollars"),
    "true": (row(output="true"), LABEL + "output: expected a number of dollars"),
    "nan": (row(output="nan"), LABEL + "output: expected a number of dollars"),
    "inf": (row(output="-inf"), LABEL + "output: expected a number of dollars"),
    "decimals": (row(output="0.0000001"), LABEL + "output: the price is too large, or has too many decimals"),
    "many-decimals": (row(output="1." + "0" * 80 + "1"), LABEL + "output: the price is too large, or has"),
    "1e30": (row(output="1e30"), LABEL + "output: the price is too large, or has too many decimals"),
    "1e400": (row(output="1e400"), LABEL + "output: the price is too large, or has too many decimals"),
    "1e-400": (row(output="1e-400"), LABEL + "output: the price is too large, or has too many decimals"),
    "1e999999999": (row(output="1e999999999"), LABEL + "output: the price is too large, or has too many decimals"),
    "1e-999999999": (row(output="1e-999999999"), LABEL + "output: the price is too large, or has too many decimals"),
    "1e(10^30)": (row(output="1e" + "9" * 30), "not valid TOML: a number that is too large or too small"),
    "many-digits": (row(output="9" * 5000), "not valid TOML"),
    "hexadecimal": (row(output="0x" + "f" * 5000), LABEL + "output: the price is too large, or has too many decimals"),
    "no-model": (row(model=None), "[[price]] 1: model: expected the name of a model"),
    "empty-model": (row(model='""'), "[[price]] 1: model: expected the name of a model"),
    "number-as-model": (row(model="7"), "[[price]] 1: model: expected the name of a model"),
    "default-as-model": (row(model='"default"'), "[[price]] 1: model: expected the name of a model"),
    "no-date": (row(**{"from": None}), LABEL + "from: expected a date like 2026-11-29"),
    "date-as-text": (row(**{"from": '"2026-11-01"'}), LABEL + "from: expected a date like 2026-11-29"),
    "date-and-time": (row(**{"from": "2026-11-01T00:00:00Z"}), LABEL + "from: expected a date like 2026-11-29"),
    "source": (row(source="7"), LABEL + "source: expected a text"),
    "threshold": (row(above_prompt_tokens="-1"), LABEL + "above_prompt_tokens: expected a whole number, 0 or more"),
    "text-as-threshold": (row(above_prompt_tokens='"1"'), LABEL + "above_prompt_tokens: expected a whole number"),
    "flag-as-threshold": (row(above_prompt_tokens="true"), LABEL + "above_prompt_tokens: expected a whole number"),
    "zero-factor": (row(fast_factor="0"), LABEL + "fast_factor: expected a number above 0 with two decimals at most"),
    "fine-factor": (row(us_factor="1.125"), LABEL + "us_factor: expected a number above 0 with two decimals at most"),
    "unknown-member": (row(cache_write="1"), LABEL + "cache_write: this member does not exist"),
    "twice": (row() + row(), "claude-own-1 from 2026-11-01: this price is given twice"),
    "gap": (
        row(above_prompt_tokens="1000"),
        "claude-own-1 from 2026-11-01 above 1000: a row without above_prompt_tokens is missing for this date",
    ),
    "no-toml": ("[[price]", "not valid TOML: "),
    "nested": ("a = " + "[" * 5000, "not valid TOML: "),
    "unknown-table": ("[prices]\n", "prices: expected `[[price]]`, `[default]` or `[tools]`"),
    "price-as-table": ("[price]\n", "price: expected `[[price]]` tables"),
    "price-as-number": ("price = [1]\n", "[[price]] 1: expected a table"),
    "default-as-number": ("default = 1\n", "[default]: expected a table"),
    "default-with-a-date": ("[default]\nfrom = 2026-11-01\n", "[default]: from: a default holds for all models"),
    "default-in-part": ("[default]\ninput = 1\n", "[default]: cache_write_5m: expected a number of dollars"),
    "tools": ("[tools]\nweb_search = -1\n", "[tools]: web_search: a price cannot be negative"),
    "unknown-tool": ("[tools]\nweb_fetch = 1\n", "[tools]: web_fetch: this member does not exist"),
    "tools-without-a-price": ('[tools]\nsource = "us"\n', "[tools]: web_search: expected a number of dollars"),
}


@pytest.mark.parametrize(("text", "complaint"), BAD.values(), ids=BAD)
def test_a_bad_file_is_told_by_the_row(text: str, complaint: str) -> None:
    """Given a file with a fault, then the one line says which row has it and what was expected."""
    with pytest.raises(PriceError) as caught:
        read_prices(text, known_prices())
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_without_a_base_the_default_and_the_tools_must_be_there() -> None:
    """Given a table of its own, then a model that has no price, and a search, must cost something."""
    default = "[default]\n" + "\n".join(f"{name} = {value}" for name, value in RATES.items()) + "\n"
    for text, complaint in (("", "[default]: it is missing"), (default, "[tools]: web_search: expected")):
        with pytest.raises(PriceError, match="^" + complaint.replace("[", r"\[")):
            read_prices(text)
    assert read_prices(default + "[tools]\nweb_search = 0.02\n").web_search == 20_000_000_000


def test_amounts_are_exact() -> None:
    """Given amounts as they are written, then each is whole picodollars or none at all; they are rounded once."""
    assert scaled(Decimal("0.125"), 10**6) == 125_000
    assert scaled(Decimal("9000000"), 10**12) == MOST_PICODOLLARS
    assert scaled(Decimal("9000000.000000000001"), 10**12) is None
    assert [scaled(Decimal(text), 10**6) for text in ("0", "0e-999999", "0E+999999", "-0")] == [0, 0, 0, 0]
    assert [scaled(Decimal("1." + "0" * digits), 1) for digits in (60, 61)] == [1, None]
    assert exact_decimal(0.1) == Decimal("0.1")
    assert [microdollars(amount) for amount in (0, 499_999, 500_000, 1_499_999)] == [0, 0, 1, 1]
    assert dollars(12_345_678_500_000) == "12.345679"


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("vanished", "cannot read {path}: No such file or directory"),
        ("folder", "cannot read {path}: it is not a regular file"),
        ("latin-1", "{path} is not UTF-8 text"),
        ("negative", "{path}: " + BAD["negative"][1]),
        ("no-toml", "{path}: not valid TOML"),
    ],
)
def test_a_bad_file_is_no_configuration(fault: str, complaint: str, tmp_path, monkeypatch, capsys) -> None:
    """Given prices that cannot be used, when the configuration is read, then `gateway check` says so and why."""
    path = tmp_path / "prices.toml"
    if fault == "folder":
        path.mkdir()
    elif fault != "vanished":
        path.write_bytes(b"\xff" if fault == "latin-1" else BAD[fault][0].encode())
    monkeypatch.setenv("GATEWAY_API_KEYS", "a=sk-a")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GATEWAY_PRICES_FILE", str(path))
    assert main(["check"]) == 1
    assert f"gateway: GATEWAY_PRICES_FILE: {complaint.format(path=path)}" in capsys.readouterr().err


def test_a_reload_takes_new_prices_and_a_bad_file_keeps_the_old(tmp_path) -> None:
    """Given a running gateway, when its file changes, then new prices hold; one that is bad or gone changes nothing."""
    path = tmp_path / "prices.toml"
    environ = {"GATEWAY_API_KEYS": "a=sk-a", "GATEWAY_DATA_DIR": str(tmp_path), "GATEWAY_PRICES_FILE": str(path)}

    def read() -> Settings:
        return load_settings(environ, lambda name: Path(name).read_bytes())

    path.write_text(row())
    first = read()
    gateway = Gateway(first)
    path.write_text(row(output="7"))
    second = read()
    assert second.digest != first.digest
    gateway.reload(second)
    assert gateway.configuration.settings.prices.price_of("claude-own-1", "2026-11-29", 0).output == 7_000_000
    path.write_text(row(output="-7"))
    with pytest.raises(SettingsError):
        read()
    path.unlink()
    with pytest.raises(SettingsError):
        read()
    assert gateway.configuration.settings.prices == second.prices
