"""The facts that passes report, in words: known ones formatted, others printed as they are.

A fact that is not known here is shown all the same, so that a new pass needs no change to the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from squeeze.report.equality import equality_words
from squeeze.report.shape import Row
from squeeze.report.text import count, heading, interval, size, value
from squeeze.report.weights import PLAIN_LOSSES

MOST_ENTRIES = 8  # entries of a list or mapping; the rest are counted

Wording = Callable[[Any], str]


def fact_lines(row: Row) -> list[tuple[str, str]]:
    """Pairs of name and text, in the order in which the pass gave them."""
    # an empty table of layers: of a pass that touched no weight
    entries = [(name, fact) for name, fact in row.facts.items() if (name, fact) != ("layers", {})]
    facts = [(heading(name), _worded(name, fact, row)) for name, fact in entries]
    facts += [("recovered", line) for line in recovered_lines(row)]
    return facts + [(f"{heading(name)} spread", line) for name, line in spread_lines(row)]


def recovered_lines(row: Row) -> list[str]:
    """Per metric, the share of what was lost that a training won back."""
    entries = row.recovered.items()
    shares = {name: f"{value('share', one.value)} {interval('share', one.interval)}".strip() for name, one in entries}
    return [f"{words} of what was lost in {heading(name)}" for name, words in shares.items()]


def spread_lines(row: Row) -> list[tuple[str, str]]:
    """Per metric, how far it moves with other calibration samples; exact numbers that do not move are left out."""
    lines = []
    for name, values in row.spread.items():
        score = row.score(name)
        if score is not None and len(set(values)) > 1:
            low, middle, high = (value(score.unit, end) for end in (min(values), median(values), max(values)))
            lines.append((name, f"{low} to {high}, median {middle}, over {len(values)} calibration seeds"))
    return lines


def _worded(name: str, fact: Any, row: Row) -> str:
    if name == "coverage" and isinstance(fact, dict):
        return _coverage(fact, f"int{row.options.get('bits', 8)}")
    known = KNOWN.get(name)
    try:
        return known(fact) if known else anything(fact)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        # a plug-in's pass may use the name for something else
        return anything(fact)


def _coverage(covered: dict[str, Any], kind: str) -> str:
    """``int8: 21 of 21 Conv, 1 of 1 Gemm``; the widths may also be keys, ``{"int8": {"Conv": [21, 21]}}``."""
    if covered and all(isinstance(part, dict) for part in covered.values()):
        return "; ".join(_coverage(part, width) for width, part in covered.items())
    if not all(_is_pair(pair) for pair in covered.values()):
        return anything(covered)
    parts = [f"{done} of {total} {operator}" for operator, (done, total) in covered.items()]
    return f"{kind}: {', '.join(parts) or 'nothing'}"


def _widths(widths: dict[str, Sequence[int]]) -> str:
    changed = [f"{layer} {before} → {after}" for layer, (before, after) in widths.items()]
    total = " → ".join(f"{sum(pair[i] for pair in widths.values()):,}" for i in (0, 1))
    plural = "s" * (len(widths) != 1)
    return f"{len(widths)} layer{plural} changed, {total} channels in all: {_listed(changed)}"


def _losses(losses: Sequence[float]) -> str:
    plural = "s" * (len(losses) != 1)
    return f"{losses[0]:.4f} → {losses[-1]:.4f} over {len(losses)} epoch{plural}"


def _before_and_after(wording: Callable[[float], str]) -> Wording:
    def worded(pair: Any) -> str:
        if not _is_pair(pair):
            return anything(pair)
        return " → ".join(wording(number) for number in pair)

    return worded


def _weights(layers: dict[str, dict[str, Any]]) -> str:
    """Layer by layer is what ``report.json`` holds; here the sums, and every layer that fell back."""
    parts = [f"{len(layers)} weights"]
    for name, alone in PLAIN_LOSSES.items():
        losses = [(facts[name], facts["loss"]) for facts in layers.values() if name in facts]
        if losses:
            plain, corrected = (sum(pair[i] for pair in losses) for i in (0, 1))
            tokens = min(facts["tokens"] for facts in layers.values())
            parts.append(f"loss {plain:.4g} by {alone} alone → {corrected:.4g}, over {tokens:,} tokens or more")
    fallen = [
        f"{name} ({facts['fallback']}, {facts['tokens']} tokens)"
        for name, facts in layers.items()
        if "fallback" in facts
    ]
    return "; ".join([*parts, *([f"fell back: {_listed(fallen)}"] if fallen else [])])


def _quantized(widths: dict[str, Sequence[int]]) -> str:
    return ", ".join(f"{part} of {total} weights to {width}" for width, (part, total) in widths.items())


def _untouched(fact: dict[str, Any]) -> str:
    layers = [f"{name} {100 * share:.1f} %" for name, share in fact["largest"]]
    rest = fact["layers"] - len(layers)
    more = f" and {rest} more" if rest else ""
    return f"{100 * fact['share']:.0f} % of the bytes left as they were: {', '.join(layers)}{more}"


def _rounded(change: float) -> str:
    return f"up to {change:.2g} of themselves, to float16" if change else "nothing: they were float16 already"


def _delegated(fact: dict[str, Any]) -> str:
    """What a phone's fast kernels run, and every operator that is left to slow ones."""
    part, total = fact["operators"]
    macs = fact.get("macs")  # not every runtime's file tells
    share = f", {100 * macs[0] / max(macs[1], 1):.4g} % of the multiplications" if macs else ""
    operators = [f"{name} ({how})" for name, how in fact["left"].items()]
    slow = f"; slow kernels run {_listed(operators)}" if operators else ""
    return f"{fact['to']} runs {part} of {total} operators{share}{slow}"


KNOWN: dict[str, Wording] = {
    "layers": _weights,
    "quantized": _quantized,
    "scales_rounded_by": _rounded,
    "proof": equality_words,
    "untouched": _untouched,
    "widths": _widths,
    "losses": _losses,
    "delegated": _delegated,
    "macs": _before_and_after(count),
    "parameters": _before_and_after(count),
    "size_bytes": _before_and_after(size),
}


def anything(fact: Any) -> str:
    """Any JSON value on one line, long lists cut short and counted."""
    if fact in (None, "", [], {}):
        return "none"
    match fact:
        case bool():
            return "yes" if fact else "no"
        case int():
            return f"{fact:,}"
        case float():
            return f"{fact:.4g}"
        case list():
            return _listed([anything(item) for item in fact])
        case dict():
            return _listed([f"{key}: {anything(item)}" for key, item in fact.items()])
    return str(fact)


def _listed(items: Sequence[str]) -> str:
    rest = len(items) - MOST_ENTRIES
    return ", ".join(items[:MOST_ENTRIES]) + (f" and {rest} more" if rest > 0 else "")


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(end, int | float) for end in pair)
