"""How many units of each part stay where the hidden size is one: a config may bind it to the number of heads.

Llama's heads must divide it, so that of 576 channels with 9 heads multiples of 288 stay at ``align: 32``, and with 6
heads multiples of 96.
"""

from __future__ import annotations

from typing import Any

from squeeze.errors import ModelError
from squeeze.surgery.widths import Cost, Part, Widths, most_channels

UNUSED = 3  # a share of the whole that could have stayed counts as so much of a difference between two parts


def hidden_by_ratio(widths: Widths[Any], others: dict[Part, int], ratio: float, align: int) -> int:
    """The hidden size nearest to the share, of those that the config takes beside the heads that stay.

    Args:
        others: Units of the other parts that stay.

    Raises:
        ModelError: the nearest is the whole; names those that would do.
    """
    whole, exact = widths.units["hidden"], widths.units["hidden"] * (1 - ratio)
    sizes = widths.hidden_sizes(others.get("heads"), align)
    nearest = min(sizes, key=lambda size: (abs(size - exact), -size), default=whole)
    if nearest == whole:
        fewer = [size for size in sizes if size < whole]
        what = f"ratio {ratio:g} leaves {round(exact)} of {whole} hidden channels"
        raise ModelError(f"{what}; {_would_do(widths, others.get('heads'), fewer, align)}")
    return nearest


def units_with_hidden(widths: Widths[Any], cost: Cost, most: float, align: int) -> dict[Part, int] | None:
    """The units that cost at most so much: as equal shares of each part as the config allows.

    Returns:
        None where even the fewest cost more.
    """
    before = cost(widths.units)
    best: tuple[float, dict[Part, int]] | None = None
    kv_heads: list[int | None] = [*widths.choices] or [None]
    for kv in kv_heads:
        heads: dict[Part, int] = {} if kv is None else {"heads": kv}
        for hidden in widths.hidden_sizes(kv, align):
            units: dict[Part, int] = {**heads, "hidden": hidden}
            if "intermediate" in widths.units:
                units["intermediate"] = most_channels(widths, units, cost, most, align)
            if not all(units.values()) or (costs := cost(units)) > most:
                continue
            shares = [units[part] / widths.units[part] for part in units]
            uneven = max(shares) - min(shares) + UNUSED * (most - costs) / before
            if best is None or uneven < best[0]:
                best = uneven, units
    return None if best is None else {part: best[1][part] for part in widths.units}


def fewest_with_hidden(widths: Widths[Any], align: int) -> dict[Part, int]:
    kv = widths.choices[0] if widths.choices else None
    least: dict[Part, int] = {"hidden": widths.hidden_sizes(kv, align)[0]}
    least |= {} if kv is None else {"heads": kv}
    return least | ({"intermediate": align} if "intermediate" in widths.units else {})


def _would_do(widths: Widths[Any], kv_heads: int | None, sizes: list[int], align: int) -> str:
    config, kept = widths.config, widths.kv_heads if kv_heads is None else kv_heads
    heads = kept * (widths.heads // widths.kv_heads)
    beside = f"a config of model_type '{config.model_type}' with {heads} heads takes"
    if sizes:
        listed = ", ".join(str(size) for size in sizes[-4:])
        return f"{beside} {listed} at align {align}: a ratio near one of these would do, or a smaller align"
    return f"{beside} no smaller multiple of {align}: a smaller align would do, or parts: [heads, hidden]"
