"""Units: one spelling each, and exact conversion between units of one dimension.

The judge strips units from answers, and unknown words after a number too. It converts a unit only into the one that the
problem asks for ("200 cm" where metres are asked), and uses units to tell choices with equal numbers apart.
"""

from __future__ import annotations

import re
from fractions import Fraction

# One spelling per unit: the key is what a Quantity carries.
_UNITS = {
    "°": "° degrees degree degs deg 度",
    "%": "% percent",
    "mm": "mm millimeters millimeter millimetres millimetre 毫米",
    "cm": "cm centimeters centimeter centimetres centimetre 厘米",
    "dm": "dm decimeters decimeter 分米",
    "m": "m meters meter metres metre 米",
    "km": "km kilometers kilometer kilometres kilometre 千米",
    "nmi": "nmi 海里",
    "in": "in inches inch",
    "ft": "ft feet foot",
    "yd": "yd yards yard",
    "mi": "mi miles mile",
    "mg": "mg milligrams milligram",
    "g": "g grams gram 克",
    "kg": "kg kilograms kilogram 千克",
    "mL": "ml mL milliliters milliliter millilitres millilitre",
    "L": "L liters liter litres litre",
    "s": "s sec seconds second 秒",
    "min": "min minutes minute 分钟",
    "h": "h hr hours hour 小时",
    "day": "days day 天",
    "year": "years year yrs yr",
    "rad": "rad radians radian",
    "unit": "units unit",
    "$": "dollars dollar USD",
    "m^2": "平方米",
    "cm^2": "平方厘米",
}
SPELLING = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings.split()}
# "5 in the box" is not in inches.
_BASE = "|".join(r"in(?!\s[a-z])" if s == "in" else re.escape(s) for s in sorted(SPELLING, key=len, reverse=True))
UNIT = re.compile(
    rf"\s{{0,2}}\{{?\s?(?P<square>square|cubic|sq\.?)?\s?(?P<base>{_BASE})(?![A-Za-z(])\s?\}}?"
    r"(?P<power>\s?\^\s?\{?\s?[23]\s?\}?\^?)?(?P<per>\s?/\s?[a-z]{1,4}(?![A-Za-z])(?:\s?\^\s?\{?[23]\}?)?\s?\}?)?"
)

# One unit in terms of the first unit of its dimension. Exact by definition (1 in = 2.54 cm, 1 nmi = 1852 m).
_DIMENSIONS: tuple[dict[str, Fraction], ...] = (
    {
        "m": Fraction(1), "mm": Fraction(1, 1000), "cm": Fraction(1, 100), "dm": Fraction(1, 10), "km": Fraction(1000),
        "nmi": Fraction(1852), "in": Fraction(254, 10_000), "ft": Fraction(3048, 10_000), "yd": Fraction(9144, 10_000),
        "mi": Fraction(1_609_344, 1000),
    },
    {"g": Fraction(1), "mg": Fraction(1, 1000), "kg": Fraction(1000)},
    {"L": Fraction(1), "mL": Fraction(1, 1000)},
    {"s": Fraction(1), "min": Fraction(60), "h": Fraction(3600), "day": Fraction(86_400)},
)  # fmt: skip
_SIZE = {unit: (i, size) for i, units in enumerate(_DIMENSIONS) for unit, size in units.items()}


def unit_of(m: re.Match[str]) -> str:
    """The canonical unit of a match of UNIT: `square meters` and `m^{2}` are both "m^2"."""
    power = re.sub(r"[^23]", "", m["power"] or "")[:1] or {"square": "2", "sq": "2", "sq.": "2", "cubic": "3"}.get(
        m["square"] or "", ""
    )
    return SPELLING[m["base"]] + (f"^{power}" if power else "") + re.sub(r"[ {}]", "", m["per"] or "")


def read_unit(text: str | None) -> str:
    """The canonical unit that `text` names; "" for none or an unknown one."""
    m = UNIT.fullmatch((text or "").strip())
    return unit_of(m) if m else ""


def factor(unit: str, into: str) -> Fraction | None:
    """The factor that converts a value in `unit` into `into`; None for units of different dimensions."""
    base, _, power = unit.partition("^")
    base_into, _, power_into = into.partition("^")
    if base not in _SIZE or base_into not in _SIZE or power != power_into:
        return None
    (dimension, size), (dimension_into, size_into) = _SIZE[base], _SIZE[base_into]
    return (size / size_into) ** int(power or 1) if dimension == dimension_into else None
