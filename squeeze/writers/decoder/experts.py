"""A mixture of experts: each expert's product over the tokens that were sent to it, and none where there are none.

Experts lie in 3-D weights ``gate_up_proj`` ``[experts, 2 * intermediate, hidden]`` and ``down_proj``; which tokens go
where is the router's business, which is traced like everything else.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.writers.decoder.shapes import Dim, Shape
from squeeze.writers.decoder.traced import Traced
from squeeze.writers.decoder.views import chunk
from squeeze.writers.decoder.weights import WeightFunctions

INT64, BOOL = ir.DataType.INT64, ir.DataType.BOOL


def are_experts(module: nn.Module) -> bool:
    """True where a module holds experts in 3-D weights."""
    parameters = module.named_parameters(recurse=False)
    return any(value.dim() == 3 and name.endswith("proj") for name, value in parameters)


class Experts:
    """Called in place of a module of experts: ``(hidden [tokens, hidden], places [tokens, k], shares [tokens, k])``."""

    def __init__(self, module: nn.Module, weights: WeightFunctions) -> None:
        self.module, self.weights = module, weights
        parameters = dict(module.named_parameters(recurse=False))
        odd = [flag for flag in ("is_transposed", "has_bias") if getattr(module, flag, False)]
        if set(parameters) != {"gate_up_proj", "down_proj"} or odd or not hasattr(module, "act_fn"):
            parts = ", ".join([*parameters, *odd])
            what = f"{type(module).__name__} holds {parts}"
            raise ModelError(f"{what}; gate_up_proj [experts, 2 * inner, hidden], down_proj and act_fn were looked for")
        self.gate_up, self.down = parameters["gate_up_proj"], parameters["down_proj"]

    def __call__(self, hidden: Traced, places: Traced, shares: Traced) -> Traced:
        """The experts' answers, weighted and added up, in the order of experts as torch adds them."""
        builder = hidden.builder
        zero = builder.constant(np.zeros((1, 1)), "float32")
        result = builder.one("Mul", [hidden.value, zero], hidden.shape)
        for expert in range(len(self.gate_up)):
            result = self._added(result, expert, hidden, places, shares)
        return hidden.like(result)

    def _added(self, result: ir.Value, expert: int, hidden: Traced, places: Traced, shares: Traced) -> ir.Value:
        builder = hidden.builder
        hit = builder.one("Equal", [places.value, builder.constant(expert)], places.shape, dtype=BOOL)
        share = builder.one("Where", [hit, shares.value, builder.constant(0, "float32")], shares.shape)
        last, keeps = builder.constant([1]), {"keepdims": 1}
        each = builder.one("ReduceSum", [share, last], (places.shape[0], 1), attributes=keeps)
        tokens = self._token_places(hidden, hit, places.shape)
        some = builder.one("Size", [tokens], (), dtype=INT64)
        any_tokens = builder.one("Greater", [some, builder.constant(0)], (), dtype=BOOL)
        with builder.branch(f"expert.{expert}") as works:
            works.outputs.append(self._add_answer(result, expert, hidden, each, tokens))
        with builder.branch(f"idle.{expert}") as rests:
            rests.outputs.append(builder.one("Identity", [result], hidden.shape))
        return builder.branches(any_tokens, {"then_branch": works, "else_branch": rests}, [hidden.shape])[0]

    def _token_places(self, hidden: Traced, hit: ir.Value, shape: Shape) -> ir.Value:
        """int64 ``[sent, 1]``: the tokens that an expert is given."""
        builder = hidden.builder
        tokens = Dim((f"sent_{len(builder.graph)}",))  # unique: the runtime takes equal names for equal sizes
        ones = builder.one("Cast", [hit], shape, attributes={"to": int(INT64)}, dtype=INT64)
        last, drops = builder.constant([1]), {"keepdims": 0}
        most = builder.one("ReduceMax", [ones, last], shape[:1], attributes=drops, dtype=INT64)
        return builder.transpose(builder.one("NonZero", [most], (1, tokens), dtype=INT64), (1, 0))

    def _add_answer(self, result: ir.Value, expert: int, hidden: Traced, each: ir.Value, tokens: ir.Value) -> ir.Value:
        builder, width = hidden.builder, hidden.shape[-1]
        count = builder.shapes[tokens][0]
        rows = hidden.apply("GatherND", tokens, shape=(count, width))
        gate, up = chunk(self._product(rows, self.gate_up, expert), 2, -1)
        answer = self._product(self.module.act_fn(gate) * up, self.down, expert)  # type: ignore[operator]
        answer = answer * hidden.like(builder.one("GatherND", [each, tokens], (count, 1)))
        before = builder.one("GatherND", [result, tokens], (count, width))
        after = builder.one("Add", [before, answer.value], (count, width))
        return builder.one("ScatterND", [result, tokens, after], hidden.shape)

    def _product(self, traced: Traced, weight: Tensor, expert: int) -> Traced:
        return self.weights.product(traced, self.weights.name(weight), int(weight.shape[1]), expert=expert)
