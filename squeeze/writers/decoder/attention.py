"""Attention with its cache as one node, GroupQueryAttention, whatever heads a family has.

Keys and values are cached behind the rotary turn, one pair of ``[batch, kv heads, tokens, channels]`` per layer. Values
narrower than keys are padded with zeros, since the operator and its runtimes know one width.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from torch import nn

from squeeze.errors import ModelError
from squeeze.writers.decoder.graph import CONTRIB, Builder
from squeeze.writers.decoder.rotary import Rotated, Table
from squeeze.writers.decoder.shapes import BATCH, Dim, Size
from squeeze.writers.decoder.traced import Traced, number
from squeeze.writers.decoder.views import Blank

PAST, TOTAL = Dim(("past_length",)), Dim(("total_length",))
UNDERSTOOD = {"scaling", "sliding_window", "softcap"} | {  # options that both attentions heed, and those without effect
    *("dropout", "position_ids", "use_cache", "cache_position", "output_attentions", "logits_to_keep")
}


class Attention:
    """Called by transformers in place of its attention functions; notes each layer's cache.

    Args:
        mask: int64 ``[batch, total_length]``, ones for tokens, zeros for padding on the right.
    """

    def __init__(self, builder: Builder, mask: ir.Value) -> None:
        self.builder, self.mask = builder, mask
        self.presents: dict[str, ir.Value] = {}
        self.layers: list[tuple[int, int]] = []  # kv heads and channels of each
        self._lengths: tuple[ir.Value, ir.Value] | None = None

    def __call__(
        self, module: nn.Module, query: Any, key: Any, value: Any, *_: Any, **options: Any
    ) -> tuple[Any, None]:
        """``[batch, length, heads, channels]``, and no weights."""
        query, key, value = (part.filled() if isinstance(part, Blank) else part for part in (query, key, value))
        refuse_unknown(module, options)
        heads, kv_heads = (number(part.shape[1], "the number of heads") for part in (query, key))
        channels, value_channels = (number(part.shape[-1], "the width of a head") for part in (key, value))
        value = self._padded(value, channels - value_channels)
        table = _common_table(query, key)
        flat = [
            self._flat(part.source if table and isinstance(part, Rotated) else part) for part in (query, key, value)
        ]
        tables = [table.cos, table.sin, table.positions] if table else []
        attributes = {"num_heads": heads, "kv_num_heads": kv_heads} | _attributes(options, channels)
        if table:
            attributes |= {"do_rotary": 1, "rotary_interleaved": int(query.interleaved)}
        output = self._node([*flat, *self._pasts(kv_heads, channels), *self._totals(), *tables], attributes, query)
        return query.like(output)[..., :value_channels], None

    def _node(self, inputs: list[ir.Value], attributes: dict[str, Any], query: Traced) -> ir.Value:
        layer, width = len(self.layers) - 1, query.shape
        kv_heads, channels = self.layers[-1]
        shapes = [(BATCH, width[2], number(width[1], "heads") * channels), *[(BATCH, kv_heads, TOTAL, channels)] * 2]
        output, *presents = self.builder.node(
            "GroupQueryAttention", inputs, shapes, attributes, CONTRIB, name=f"attention.{layer}"
        )
        self.presents |= {f"present.{layer}.{k}": v for k, v in zip(("key", "value"), presents, strict=True)}
        return self.builder.reshape(output, (BATCH, width[2], width[1], channels))

    def _pasts(self, kv_heads: int, channels: int) -> list[ir.Value]:
        layer = len(self.layers)
        self.layers.append((kv_heads, channels))
        names = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        return [self.builder.input(name, (BATCH, kv_heads, PAST, channels), ir.DataType.FLOAT) for name in names]

    def _totals(self) -> tuple[ir.Value, ir.Value]:
        """int32: of each sequence its tokens less one, and of the longest all of them."""
        if self._lengths is None:
            one, first = self.builder.one, self.builder.constant([1])
            int32, int64 = {"dtype": ir.DataType.INT32}, {"dtype": ir.DataType.INT64}
            summed = one("ReduceSum", [self.mask, first], (BATCH,), attributes={"keepdims": 0}, **int64)
            last = one("Sub", [summed, first], (BATCH,), **int64)
            to32 = {"to": int(ir.DataType.INT32)}
            whole = one("Shape", [self.mask], (1,), attributes={"start": 1, "end": 2}, **int64)
            scalar = self.builder.reshape(one("Cast", [whole], (1,), attributes=to32, **int32), ())
            self._lengths = one("Cast", [last], (BATCH,), attributes=to32, **int32), scalar
        return self._lengths

    def _flat(self, part: Traced) -> ir.Value:
        """``[batch, length, heads * channels]``."""
        value = self.builder.transpose(part.value, (0, 2, 1, 3))
        batch, length, heads, channels = self.builder.shapes[value]
        width: Size = number(heads, "the number of heads") * number(channels, "the width of a head")
        return self.builder.reshape(value, (batch, length, width))

    def _padded(self, value: Traced, missing: int) -> Traced:
        if missing == 0:
            return value
        if missing < 0:
            raise ModelError("values wider than keys: GroupQueryAttention caches both in one width")
        shape = (*value.shape[:-1], number(value.shape[-1], "the width of a head") + missing)
        return value.apply("Pad", self.builder.constant([0, 0, 0, 0, 0, 0, 0, missing]), shape=shape)


class NoCache:
    """In place of a cache: keys and values go on as they are, since attention itself keeps them."""

    is_compileable = False

    def update(self, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        return key, value

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def __bool__(self) -> bool:
        return True


def _common_table(query: Traced, key: Traced) -> Table | None:
    """What the operator can turn both by itself; its kernels turn multiples of 16 channels."""
    if not isinstance(query, Rotated) or not isinstance(key, Rotated) or query.table is not key.table:
        return None
    return query.table if query.table.rotated % 16 == 0 else None


def _attributes(options: dict[str, Any], channels: int) -> dict[str, Any]:
    scaling = options.get("scaling")
    attributes: dict[str, Any] = {"scale": float(scaling) if scaling is not None else channels**-0.5}
    if options.get("sliding_window"):
        attributes["local_window_size"] = int(options["sliding_window"])
    if options.get("softcap"):
        attributes["softcap"] = float(options["softcap"])
    return attributes


def refuse_unknown(module: nn.Module, options: dict[str, Any]) -> None:
    unknown = sorted(name for name, value in options.items() if name not in UNDERSTOOD and value not in (None, False))
    if unknown:
        what = f"{', '.join(unknown)}, which has no graph form here"
        raise ModelError(f"{type(module).__name__} asks attention for {what}")
    if not getattr(module, "is_causal", True):
        raise ModelError(f"{type(module).__name__} looks ahead; only causal attention has a graph form here")
