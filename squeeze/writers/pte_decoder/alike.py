"""The lowered program of a few blocks, by rounds, and whether one round can be repeated.

A round is repeated only where it is found to be the one before it with other weights, operator by operator;
``NotAlikeError`` says where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from squeeze.writers.pte_decoder.delegates import sha256_of, with_digests
from squeeze.writers.pte_decoder.pattern import REPEATED, Pattern
from squeeze.writers.pte_decoder.stored import Encoding

_tree_map: Any = torch.utils._pytree.tree_map
NONE = -1  # the round of what belongs to no block


class NotAlikeError(Exception):
    """Two rounds of blocks are not the same program."""


@dataclass
class Lowered:
    """The program of the exported rounds.

    Args:
        weights: By sha256 of their bytes, those of blocks that delegates hold: names and encodings.
    """

    program: ExportedProgram
    pattern: Pattern
    weights: Mapping[str, set[tuple[str, Encoding]]]
    targets: dict[str, str] = field(init=False)  # weights, caches and constants by the names of their nodes
    rounds: dict[fx.Node, int] = field(init=False)

    def __post_init__(self) -> None:
        specs = self.program.graph_signature.input_specs
        self.targets = {spec.arg.name: spec.target for spec in specs if spec.target is not None}
        self.rounds = {}
        for node in self.program.graph.nodes:
            self.rounds[node] = self._round(node)
        for node in self.program.graph.nodes:
            if node.op == "get_attr":
                (user,) = node.users
                self.rounds[node] = self.rounds[user]

    def nodes(self, number: int) -> list[fx.Node]:
        """The operators of one round, in order."""
        return [node for node, own in self.rounds.items() if own == number and node.op in ("call_function", "get_attr")]

    def module(self, node: fx.Node) -> Any:
        return getattr(self.program.graph_module, str(node.target))

    def roles(self, node: fx.Node) -> dict[str, tuple[str, Encoding] | None]:
        """Which weight each constant of a delegate is, by its key; None: one that belongs to no block.

        Raises:
            NotAlikeError: two weights have the same bytes.
        """
        found: dict[str, tuple[str, Encoding] | None] = {}
        for key in self.module(node).named_data_store_output.pte_data:
            candidates = self.weights.get(sha256_of(key), set())
            if len(candidates) > 1:
                raise NotAlikeError(f"{' and '.join(sorted(name for name, _ in candidates))} have the same bytes")
            found[key] = next(iter(candidates), None)
        return found

    def weights_of(self, node: fx.Node) -> list[str]:
        """The weights and caches of blocks that a node reads or, as a delegate, holds."""
        names = [self.targets.get(source.name, "") for source in node.all_input_nodes if source.op == "placeholder"]
        for source in (node, *node.all_input_nodes):
            if source.op == "get_attr":
                names += [role[0] for role in self.roles(source).values() if role]
        return [name for name in names if self.pattern.round_of(name) is not None]

    def _round(self, node: fx.Node) -> int:
        """That of the results that a node reads, or of the first of its weights where that comes later.

        A graph of XNNPACK may reach from one block into the next.
        """
        if node.op == "placeholder":
            number = self.pattern.round_of(self.targets.get(node.name, ""))
            return NONE if number is None else number
        own = min((self.pattern.round_of(name) or 0 for name in self.weights_of(node)), default=NONE)
        return max([own, *(self.rounds[source] for source in node.all_input_nodes if source.op == "call_function")])


def require_alike(lowered: Lowered) -> None:
    """The round that will be repeated is the one before it with other weights, and the next takes up from it alone.

    Raises:
        NotAlikeError: where it is not.
    """
    before, repeated = lowered.nodes(REPEATED - 1), lowered.nodes(REPEATED)
    if len(before) != len(repeated) or not repeated:
        raise NotAlikeError(f"a round has {len(before)} operators, the next one {len(repeated)}")
    places = [{node: place for place, node in enumerate(nodes)} for nodes in (before, repeated)]
    for pair in zip(before, repeated, strict=True):
        _require_same_node(lowered, places, *pair)
    for node, number in lowered.rounds.items():
        if node.op == "call_function" and (old := _old(lowered, node)):
            raise NotAlikeError(f"{node.name} of round {number} reads {old[0]}, of one that is over")


def _old(lowered: Lowered, node: fx.Node) -> list[str]:
    """What a node reads of rounds other than the first, which all may share, and those next to its own."""
    number = lowered.rounds[node]
    calls = [source for source in node.all_input_nodes if source.op == "call_function"]
    results = [source.name for source in calls if 0 < lowered.rounds[source] < number - 1]
    weights = [name for name in lowered.weights_of(node) if 0 < (lowered.pattern.round_of(name) or 0) < number]
    return results + weights


def _require_same_node(lowered: Lowered, places: list[dict[fx.Node, int]], *pair: fx.Node) -> None:
    first, second = pair
    if first.op == "get_attr" and second.op == "get_attr":
        _require_same_delegate(lowered, first, second)
        return
    arguments = [
        _tree_map(lambda part: "node" if isinstance(part, fx.Node) else repr(part), (node.args, node.kwargs))
        for node in pair
    ]
    if first.target is not second.target or arguments[0] != arguments[1]:
        raise NotAlikeError(f"{first.name} and {second.name} are different operators")
    if repr(_shapes(first)) != repr(_shapes(second)):
        raise NotAlikeError(f"{first.name} and {second.name} give different shapes")
    for sources in zip(first.all_input_nodes, second.all_input_nodes, strict=True):
        if not _correspond(lowered, places, *sources):
            raise NotAlikeError(f"{first.name} reads {sources[0].name}, and {second.name} {sources[1].name}")


def _correspond(lowered: Lowered, places: list[dict[fx.Node, int]], first: fx.Node, second: fx.Node) -> bool:
    """Whether two nodes are to their rounds the same."""
    own, other = lowered.rounds[first], lowered.rounds[second]
    if first.op == "placeholder" and second.op == "placeholder":
        names = [lowered.targets.get(node.name, node.name) for node in (first, second)]
        moved = own != NONE and lowered.pattern.moved(names[0], 1) == names[1]
        return moved or (own <= 0 and _same_constant(lowered.program, *names))
    if own == REPEATED - 1 and other == REPEATED:
        return places[0].get(first) == places[1].get(second)
    return first is second or (own == 0 and other == REPEATED - 1)  # what both share; what comes from the round before


def _require_same_delegate(lowered: Lowered, first: fx.Node, second: fx.Node) -> None:
    modules = [lowered.module(node) for node in (first, second)]
    roles = [lowered.roles(node) for node in (first, second)]
    blanked = [
        with_digests(module.processed_bytes, {key: str(place) for place, key in enumerate(own)})
        for module, own in zip(modules, roles, strict=True)
    ]
    if blanked[0] != blanked[1] or len(roles[0]) != len(roles[1]):
        raise NotAlikeError(f"{first.name} and {second.name} are different graphs")
    for (key, role), (other_key, other) in zip(roles[0].items(), roles[1].items(), strict=True):
        moved = role and (lowered.pattern.moved(role[0], 1), role[1])
        if moved != other or (role is None and key != other_key):
            raise NotAlikeError(f"{first.name} multiplies with {role or key}, and {second.name} with {other}")


def _shapes(node: fx.Node) -> Any:
    return _tree_map(lambda value: getattr(value, "shape", value), node.meta.get("val"))


def _same_constant(program: ExportedProgram, first: str, second: str) -> bool:
    """Whether two constants, such as the epsilons of two norms, are equal."""
    values = [program.state_dict.get(name, program.constants.get(name)) for name in (first, second)]
    if first == second:
        return True
    return all(isinstance(value, Tensor) for value in values) and torch.equal(*values)
