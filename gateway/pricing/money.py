"""Amounts of money: whole picodollars (10^-12 dollars), which add up exactly.

Owns: the unit, reading an amount and writing it. Pure; any thread.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

PICODOLLARS = 10**12  # a dollar's
_PICODOLLARS_OF_A_MICRODOLLAR = 10**6
# What a column of 64 bits holds: nine million dollars.
MOST_PICODOLLARS = 9 * 10**18
# What has a digit further from the point than that is no amount of money, and costs too much to calculate with.
_MOST_DIGITS = 60


def microdollars(picodollars: int) -> int:
    """An amount in whole microdollars, half of one rounded up."""
    return (picodollars + _PICODOLLARS_OF_A_MICRODOLLAR // 2) // _PICODOLLARS_OF_A_MICRODOLLAR


def dollars(picodollars: int) -> str:
    """An amount in dollars, to the microdollar: `12.345678`."""
    whole, rest = divmod(microdollars(picodollars), 10**6)
    return f"{whole}.{rest:06d}"


def exact_decimal(value: object) -> Decimal | None:
    """The number that TOML or JSON gave, exactly as it was written where it came as a Decimal or a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    return number if number.is_finite() else None


def scaled(number: Decimal, factor: int) -> int | None:
    """A number times a factor, if that is whole and fits a column of 64 bits either way; None if not."""
    exponent = number.as_tuple().exponent
    if not number:
        return 0
    if not isinstance(exponent, int) or exponent < -_MOST_DIGITS or number.adjusted() > _MOST_DIGITS:
        return None
    product = Fraction(number) * factor
    return int(product) if product.denominator == 1 and abs(product) <= MOST_PICODOLLARS else None
