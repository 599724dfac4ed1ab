"""Products with weights, and looked-up tokens, as single nodes that only name their weight.

What a node ``Linear`` or ``Embedding`` of the domain ``squeeze`` becomes depends on how its weight is stored: see
``lowering``, which reads the weights one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.writers.decoder.traced import FUNCTIONS, Traced, number

DOMAIN, LINEAR, EMBEDDING = "squeeze", "Linear", "Embedding"


@dataclass(frozen=True)
class Place:
    """A node that names its weight: ``names`` lie one under the other, ``expert`` is a place in a 3-D one or -1."""

    node: ir.Node
    names: tuple[str, ...]
    rows: int
    columns: int
    expert: int

    @classmethod
    def of(cls, node: ir.Node) -> Place:
        attributes = node.attributes
        names = tuple(attributes["weight"].as_string().split("\n"))
        expert = attributes.get_int("expert", -1)
        return cls(node, names, attributes["rows"].as_int(), attributes["columns"].as_int(), expert)

    @property
    def key(self) -> str:
        """What its tensors are called."""
        name = self.names[0] if len(self.names) == 1 else f"{self.names[0]}+{len(self.names) - 1}"
        return name if self.expert < 0 else f"{name}.{self.expert}"

    @property
    def label(self) -> str:
        """Names of the weights, for whoever reads the file."""
        return "\n".join(self.names) if self.expert < 0 else f"{self.names[0]}#{self.expert}"


class WeightFunctions:
    """``linear`` and ``embedding`` of one module's parameters; ends of a model that are tied have one name."""

    def __init__(self, module: nn.Module) -> None:
        self.names = {id(value): name for name, value in module.named_parameters()}

    def install(self) -> None:
        FUNCTIONS["linear"], FUNCTIONS["embedding"] = self.linear, self.embedding

    def name(self, parameter: Tensor) -> str:
        """Of a weight on disk; raises ``ModelError`` where it is none of the module's, such as a product of two."""
        if id(parameter) not in self.names:
            shape = list(parameter.shape)
            raise ModelError(f"the forward computes with weights before it uses them (a tensor {shape})")
        return self.names[id(parameter)]

    def linear(self, traced: Traced, weight: Tensor, bias: Tensor | None = None) -> Traced:
        """``x @ weight.T + bias``."""
        return self.product(traced, self.name(weight), int(weight.shape[0]), bias)

    def product(self, traced: Traced, name: str, rows: int, bias: Tensor | None = None, expert: int = -1) -> Traced:
        """A product with a weight by its name; of a 3-D weight, with one expert's."""
        builder = traced.builder
        inputs = [traced.value]
        if bias is not None:
            inputs.append(builder.constant(bias.detach().float().numpy(), "float32"))
        columns = number(traced.shape[-1], "the width of a product")
        attributes = {"weight": name, "rows": rows, "columns": columns, "expert": expert}
        label = name.removesuffix(".weight") + (f".{expert}" if expert >= 0 else "")
        shape = (*traced.shape[:-1], rows)
        return traced.like(builder.one(LINEAR, inputs, shape, attributes=attributes, domain=DOMAIN, name=label))

    def embedding(self, tokens: Traced, weight: Tensor, *_: object, **__: object) -> Traced:
        name = self.name(weight)
        shape = (*tokens.shape, int(weight.shape[1]))
        attributes = {"weight": name, "rows": int(weight.shape[0]), "columns": int(weight.shape[1])}
        label = name.removesuffix(".weight")
        value = tokens.builder.one(EMBEDDING, [tokens.value], shape, attributes=attributes, domain=DOMAIN, name=label)
        return tokens.like(value, torch.float32)
