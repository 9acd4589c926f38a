"""Units: one registry, and the two conversions that the evidence needs."""

from functools import cache

import pint

#: The unit registry of osteobayes. A year has 365.25 days and a month is a twelfth of a year.
units: pint.UnitRegistry = pint.UnitRegistry()
units.define("ten_thousand_years = 10000 * year")
units.define("hundred_thousand_years = 100000 * year")

_SCALE = {
    "percent": "percent",
    "percentage_point": "percent",
    "percent_change": "percent",
    "fraction": "dimensionless",
    "ratio": "dimensionless",
    "count": "dimensionless",
    "1/year": "1/year",
    "percent_per_year": "percent/year",
    "per_10000_years": "1/ten_thousand_years",
    "per_100000_years": "1/hundred_thousand_years",
    "per_uL": "1/microliter",
    "pixel": "dimensionless",
}


@cache
def _factor(unit: str) -> float:
    """Multiplier from `unit` to the model's unit of the same kind (years, per year, or a pure number)."""
    quantity = units.Quantity(1.0, _SCALE.get(unit, unit))
    for target in ("dimensionless", "year", "1/year", "1/microliter"):
        if quantity.check(units.Quantity(1.0, target).dimensionality):
            return float(quantity.to(target).magnitude)
    raise ValueError(f"{unit!r} is neither a time, a rate, a concentration nor a pure number")


def time_in_years(time: float, unit: str) -> float:
    """Convert a time to years.

    Examples
    --------
    >>> round(time_in_years(15, "month"), 6)
    1.25
    """
    return float(units.Quantity(time, unit).to("year").magnitude)


def si_value(value: float, unit: str) -> float:
    """Convert a printed value to the unit that the model uses.

    Shares, differences of shares and percent changes become fractions, times years, rates events a year; ratios and
    counts stay as they are.
    """
    return value * _factor(unit)
