"""How many units of each part stay: by a ratio, or by what the whole model may keep of parameters, bytes or time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from squeeze.errors import ModelError
from squeeze.models.options import BYTES
from squeeze.surgery.hidden_goal import fewest_with_hidden, hidden_by_ratio, units_with_hidden
from squeeze.surgery.widths import Cost, Part, Units, Widths, most_channels

Kind = Literal["parameters", "size", "decode"]
FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%|[KMG]i?B|[KMB])\s*", re.ASCII)
SCALES: dict[Kind, dict[str, int]] = {
    "parameters": {"K": 10**3, "M": 10**6, "B": 10**9},
    "size": BYTES,
    "decode": {},
}
EXAMPLES: dict[Kind, str] = {
    "parameters": 'number of parameters; "75 %" of what the model has, or "100M" would be',
    "size": 'size; "75 %" of the bytes that the model has, or "200 MB" would be',
    "decode": 'share of the time per token; "70 %" would be',
}


@dataclass(frozen=True)
class Goal:
    """What a whole model may keep.

    Args:
        text: As the plan has it: a share, or a number with its unit.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        match = FORM.fullmatch(self.text)
        known = match is not None and match[2] in {"%", *SCALES[self.kind]}
        if match is None or not known or not 0 < float(match[1]) < (100 if match[2] == "%" else float("inf")):
            raise ValueError(f'"{self.text}" is no {EXAMPLES[self.kind]}')

    def allowed(self, before: float) -> float:
        """What may stay where the whole has ``before``; counts are whole numbers."""
        match = FORM.fullmatch(self.text)
        assert match is not None, "it was looked at when it was made"
        number = float(match[1])
        most = before * number / 100 if match[2] == "%" else number * SCALES[self.kind][match[2]]
        return most if self.kind == "decode" else int(most)

    def most(self, before: float) -> float:
        """The same, for who has to cut.

        Raises:
            ModelError: all may stay.
        """
        most = self.allowed(before)
        if most >= before:
            has = f"the model has {self.words(before)}, no more than {self.text} allows"
            raise ModelError(f"{self.kind}: {has}; there is nothing to cut")
        return most

    def words(self, amount: float) -> str:
        """``134,515,008``, ``269.0 MB``."""
        if self.kind == "parameters":
            return f"{amount:,.0f}"
        return f"{amount / 1e6:,.1f} MB" if amount >= 1e6 else f"{amount / 1e3:,.1f} KB"

    def out_of_reach(self, by: str, least: float, before: float) -> str:
        """For messages: the goal asks for less than what cutting ``by`` can leave."""
        share = f"about {least / before:.0%}"
        if self.kind != "decode":  # whose unit is bytes until times are measured
            share = f"{self.words(least)} of {self.words(before)} ({least / before:.0%})"
        return f"{self.kind}: {self.text} cannot be reached by {by}: {share} is the least"


def _valid(kind: Kind) -> Callable[[str], str]:
    return lambda text: Goal(kind, text).text


Count = Annotated[str, AfterValidator(_valid("parameters"))]
Size = Annotated[str, AfterValidator(_valid("size"))]
TimeShare = Annotated[str, AfterValidator(_valid("decode"))]


def units_by_ratio(widths: Widths[Any], ratio: float, align: int) -> dict[Part, int]:
    """The same share of each part leaves.

    Raises:
        ModelError: nothing would leave, or less of a part than it may have would stay.
    """
    units_of: dict[Part, int] = {}
    for part, units in widths.units.items():
        if part == "hidden":
            continue  # last: what is allowed depends on the heads
        exact = units * (1 - ratio)
        least = align if part == "intermediate" else widths.choices[0]
        if round(exact) < least:
            what = f"ratio {ratio:g} leaves {round(exact)} of {units} {NOUNS[part]}; {least} are the fewest"
            raise ModelError(f"{what}: {1 - least / units:.2g} is the most, or parts: without {part}")
        units_of[part] = int(exact // align) * align if part == "intermediate" else _nearest(exact, widths.choices)
    if "hidden" in widths.units:
        units_of["hidden"] = hidden_by_ratio(widths, units_of, ratio, align)
    if units_of == widths.units:
        raise ModelError(
            f"ratio {ratio:g} rounds to nothing at align {align} and {_words(widths.units)}; more would cut"
        )
    return units_of


def units_within(widths: Widths[Any], goal: Goal, cost: Cost, align: int) -> dict[Part, int]:
    """Equal shares of each part leave, heads rounded first, channels down to what is allowed.

    Args:
        cost: Of what the goal counts; more units never cost less.

    Raises:
        ModelError: the model costs no more, or cannot cost as little.
    """
    before = cost(widths.units)
    most = goal.most(before)
    if "hidden" in widths.units:
        found = units_with_hidden(widths, cost, most, align)
        if found is None:
            raise _unreachable(widths, goal, cost, fewest_with_hidden(widths, align))
        return found
    least: dict[Part, int] = {part: align if part == "intermediate" else widths.choices[0] for part in widths.units}
    most_kv = _nearest(widths.kv_heads * _share(widths, cost, least, before - most), widths.choices or [0])
    for kv in sorted((n for n in widths.choices if n <= most_kv), reverse=True) or [0]:
        units_of: dict[Part, int] = {"heads": kv} if kv else {}
        if "intermediate" in widths.units:
            units_of["intermediate"] = most_channels(widths, units_of, cost, most, align)
        if all(units_of.values()) and cost(units_of) <= most:
            return units_of
    raise _unreachable(widths, goal, cost, least)


def _unreachable(widths: Widths[Any], goal: Goal, cost: Cost, least: Units) -> ModelError:
    what = goal.out_of_reach(" and ".join(widths.units), cost(least), cost(widths.units))
    return ModelError(f"{what}; prune_depth before it would go further")


def _share(widths: Widths[Any], cost: Cost, least: Units, saved: float) -> float:
    """Of each part that stays, where units of a part all cost the same."""
    before = cost(widths.units)
    all_of_them = 0.0
    for part, units in widths.units.items():
        gone = units - least[part]
        fewer: dict[Part, int] = {**widths.units, part: least[part]}
        all_of_them += units * (before - cost(fewer)) / gone if gone > 0 else 0
    return 1 - saved / all_of_them if all_of_them else 0.0


NOUNS: dict[Part, str] = {"intermediate": "channels", "heads": "KV heads", "hidden": "hidden channels"}


def _nearest(exact: float, choices: list[int]) -> int:
    """Of two that are as near, the larger."""
    return min(choices, key=lambda choice: (abs(choice - exact), -choice))


def _words(units: dict[Part, int]) -> str:
    return ", ".join(f"{count} {NOUNS[part]}" for part, count in units.items())
