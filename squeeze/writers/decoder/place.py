"""Where a traced graph names its weights."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


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
        """What a node says of its weight."""
        attributes = node.attributes
        expert = attributes["expert"].as_int() if "expert" in attributes else -1
        names = tuple(attributes["weight"].as_string().split("\n"))
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
