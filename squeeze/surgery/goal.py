"""How many units of each part stay: by a ratio, or by the parameters of the whole model."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator

from squeeze.errors import ModelError
from squeeze.surgery.widths import Part, Widths

FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([%KMB])\s*", re.ASCII)
SCALES = {"K": 10**3, "M": 10**6, "B": 10**9}


def _is_a_count(text: str) -> str:
    match = FORM.fullmatch(text)
    if match is None or not 0 < float(match[1]) < (100 if match[2] == "%" else float("inf")):
        raise ValueError(f'"{text}" is no number of parameters; "75 %" of what the model has, or "100M" would be')
    return text


Count = Annotated[str, AfterValidator(_is_a_count)]


def fewer_parameters(goal: str, before: int) -> int:
    """The most that may stay, of ``before``.

    Raises:
        ModelError: all may.
    """
    most = most_parameters(goal, before)
    if most >= before:
        raise ModelError(f"parameters: the model has {before:,}, no more than {goal} allows; there is nothing to cut")
    return most


def most_parameters(goal: str, before: int) -> int:
    """What a goal allows, where the whole has ``before``."""
    match = FORM.fullmatch(goal)
    assert match is not None, "it was validated"
    number = float(match[1])
    return int(before * number / 100 if match[2] == "%" else number * SCALES[match[2]])


def units_by_ratio(widths: Widths[Any], ratio: float, align: int) -> dict[Part, int]:
    """The same share of each part leaves.

    Raises:
        ModelError: nothing would leave, or less of a part than it may have would stay.
    """
    units_of: dict[Part, int] = {}
    for part, units in widths.units.items():
        exact = units * (1 - ratio)
        least = align if part == "intermediate" else widths.choices[0]
        if round(exact) < least:
            what = f"ratio {ratio:g} leaves {round(exact)} of {units} {NOUNS[part]}; {least} are the fewest"
            raise ModelError(f"{what}: {1 - least / units:.2g} is the most, or parts: without {part}")
        units_of[part] = _wide(exact, align) if part == "intermediate" else _nearest(exact, widths.choices)
    if units_of == widths.units:
        raise ModelError(
            f"ratio {ratio:g} rounds to nothing at align {align} and {_words(widths.units)}; more would cut"
        )
    return units_of


def units_by_parameters(widths: Widths[Any], goal: str, align: int) -> dict[Part, int]:
    """Equal shares of each part leave, heads rounded first, channels down to what is allowed.

    Raises:
        ModelError: the model is no larger, or cannot become that small.
    """
    before = widths.parameters(widths.units)
    most = fewer_parameters(goal, before)
    cuttable = sum(units * widths.cost(part) for part, units in widths.units.items())
    share = 1 - (before - most) / cuttable
    most_kv = _nearest(widths.kv_heads * share, widths.choices) if widths.choices else 0
    for kv in sorted((n for n in widths.choices if n <= most_kv), reverse=True) or [0]:
        units_of: dict[Part, int] = {"heads": kv} if kv else {}
        if "intermediate" in widths.units:
            others = widths.parameters({"intermediate": 0, **units_of})
            units_of["intermediate"] = _fitting(widths, most - others, align)
        if all(units_of.values()) and widths.parameters(units_of) <= most:
            return units_of
    least: dict[Part, int] = {part: align if part == "intermediate" else widths.choices[0] for part in widths.units}
    smallest = widths.parameters(least)
    raise ModelError(
        f"parameters: {goal} cannot be reached by {' and '.join(widths.units)}: {smallest:,} of {before:,} "
        f"({smallest / before:.0%}) is the least; prune_depth before it would go further"
    )


NOUNS: dict[Part, str] = {"intermediate": "channels", "heads": "KV heads"}


def _fitting(widths: Widths[Any], parameters: int, align: int) -> int:
    """The most intermediate channels that so many parameters pay for."""
    units = widths.units["intermediate"]
    return max(0, min(units, _wide(parameters / widths.cost("intermediate"), align)))


def _nearest(exact: float, choices: list[int]) -> int:
    """Of two that are as near, the larger."""
    return min(choices, key=lambda choice: (abs(choice - exact), -choice))


def _wide(units: float, align: int) -> int:
    """Down to a multiple."""
    return int(units // align) * align


def _words(units: dict[Part, int]) -> str:
    return ", ".join(f"{count} {NOUNS[part]}" for part, count in units.items())
