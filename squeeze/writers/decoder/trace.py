"""Run a language model's own forward on stand-ins for tensors, which record the graph.

Norms, rotary positions, attention and experts become one operator each; everything else is what transformers' code
does, so whatever scales, soft caps, biases or parallel branches a family has are its own. Nothing here knows a family.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from torch import nn

from squeeze.errors import ModelError, SqueezeError, first_line
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton, fill
from squeeze.writers.decoder import functions  # noqa: F401 its functions are known once it is imported
from squeeze.writers.decoder.attention import TOTAL, Attention, NoCache
from squeeze.writers.decoder.experts import Experts, are_experts
from squeeze.writers.decoder.graph import Builder
from squeeze.writers.decoder.norms import as_norm
from squeeze.writers.decoder.rotary import Rotary
from squeeze.writers.decoder.shapes import BATCH, LENGTH, LOGIT_ROWS
from squeeze.writers.decoder.traced import Traced
from squeeze.writers.decoder.views import LastOnly
from squeeze.writers.decoder.weights import WeightFunctions

OWN = "squeeze_graph"  # the name under which transformers finds our attention
KEEP = "num_logits_to_keep"


@dataclass(frozen=True)
class Traces:
    """A traced decoder: its weights are named, not there.

    Args:
        positions: How many tokens a text may have.
    """

    graph: ir.Graph
    positions: int | None


def trace(model: LanguageModel, positions: int | None = None, blocks: int | None = None) -> Traces:
    """The graph of a decoder.

    Args:
        positions: How long texts may become; None: as long as the config says.
        blocks: Only so many of the first ones; None: all.

    Raises:
        ModelError: its code does what no graph form is known of; the message says what.
    """
    skeleton = Skeleton.read(model.folder)
    module, kind = skeleton.module, type(skeleton.module).__name__
    del skeleton.layers[model.blocks if blocks is None else blocks :]
    most = positions or _most(module)
    _fill_small(module, model)
    traced = _Trace(module, most)
    try:
        with torch.no_grad():
            return traced.run()
    except SqueezeError as error:
        raise ModelError(f"export_onnx: {kind}: {traced.reached}{error}") from None
    except Exception as error:  # whatever transformers' code makes of stand-ins that it does not expect
        raise ModelError(f"export_onnx: {kind} cannot be traced: {traced.reached}{first_line(error)}") from error


class _Trace:
    def __init__(self, module: nn.Module, positions: int | None) -> None:
        self.module, self.positions = module, positions
        self.builder = Builder()
        whole = {"dtype": ir.DataType.INT64}
        self.tokens = Traced(self.builder, self.builder.input("input_ids", (BATCH, LENGTH), **whole), torch.int64)
        self.mask = self.builder.input("attention_mask", (BATCH, TOTAL), **whole)
        self.places = Traced(self.builder, self.builder.input("position_ids", (BATCH, LENGTH), **whole), torch.int64)
        self.attention = Attention(self.builder, self.mask)

    @property
    def reached(self) -> str:
        """Where a trace ended that did not come as far as attention."""
        return "" if self.attention.layers else "before it called attention through transformers' interface: "

    def run(self) -> Traces:
        with self._in_place_of_torch():
            inputs = self._inputs()
            output = self.module(**inputs)
        logits = output.logits
        if not self.attention.layers or not isinstance(logits, Traced):
            raise ModelError("it gives no logits, or calls no attention through transformers' interface")
        self.builder.finish({"logits": logits.value} | self.attention.presents)
        return Traces(self.builder.graph, self.positions)

    def _inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "input_ids": self.tokens,
            "attention_mask": Traced(self.builder, self.mask, torch.int64),
            "position_ids": self.places,
            "cache": NoCache(),
            "use_cache": True,
        }
        if "logits_to_keep" in inspect.signature(self.module.forward).parameters:
            inputs["logits_to_keep"] = self._last_only()
        return inputs

    def _last_only(self) -> LastOnly:
        """An input that may be left out: how many of the last tokens to give logits of; 0, its default, = all."""
        zero = ir.Tensor(torch.zeros(1, dtype=torch.int64).numpy(), name=KEEP)
        value = self.builder.initializer(KEEP, zero, (1,))
        self.builder.graph.inputs.append(value)
        start = self.builder.one("Neg", [value], (1,), dtype=ir.DataType.INT64)
        return LastOnly(Traced(self.builder, start, torch.int64), LOGIT_ROWS)

    @contextmanager
    def _in_place_of_torch(self) -> Iterator[None]:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        weights = WeightFunctions(self.module)
        weights.install()
        for config in _configs(self.module):
            config._attn_implementation = OWN
        with ExitStack() as stack:
            stack.enter_context(patch.dict(ALL_ATTENTION_FUNCTIONS._global_mapping, {OWN: self.attention}))
            self._replace_modules(weights)
            self._replace_functions(stack)
            yield

    def _replace_modules(self, weights: WeightFunctions) -> None:
        for child in self.module.modules():
            if any("inv_freq" in name for name in child._buffers):
                child.forward = self._rotary.module(child, child.forward)
            elif are_experts(child):
                child.forward = Experts(child, weights)
            elif (norm := as_norm(child)) is not None:
                child.forward = norm

    def _replace_functions(self, stack: ExitStack) -> None:
        """``apply_rotary_pos_emb``, as every transformers model that has one calls it."""
        name = "apply_rotary_pos_emb"
        for file in {type(child).__module__ for child in self.module.modules()}:
            own = getattr(sys.modules[file], name, None)
            if own is not None:
                stack.enter_context(patch.object(sys.modules[file], name, self._rotary.function(own)))

    @cached_property
    def _rotary(self) -> Rotary:
        second = {"attributes": {"start": 1, "end": 2}, "dtype": ir.DataType.INT64}
        return Rotary(self.builder, self.positions, partial(self.builder.one, "Shape", [self.mask], (1,), **second))


def _most(module: nn.Module) -> int | None:
    """How many tokens the config says a text may have; None where it does not say."""
    config = module.config.get_text_config()  # type: ignore[union-attr,operator]
    most = getattr(config, "max_position_embeddings", None)
    return most if isinstance(most, int) else None


def _configs(module: nn.Module) -> list[Any]:
    """Every config that some part of the model reads."""
    configs = {id(child.config): child.config for child in module.modules() if hasattr(child, "config")}
    return list(configs.values())


def _fill_small(module: nn.Module, model: LanguageModel) -> None:
    """Norms and biases, in float32: they are looked at while tracing; matrices stay on disk."""
    read_outside = set(model.skeleton.read_outside)
    inside = f"{model.skeleton.layers_name}."
    for name, value in list(module.named_parameters()):
        is_used = name in read_outside or name.startswith(inside)
        if is_used and (value.dim() < 2 or "norm" in name):
            fill(module, name, model.tensor(name).float())
