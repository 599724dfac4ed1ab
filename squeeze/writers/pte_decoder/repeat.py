"""The lowered program of a few blocks, grown to all blocks of the model.

Lowering takes seconds for each block, whatever its size. So those of a pattern are lowered, and the rest are copies of
one round: the same operators and XNNPACK graphs, with other weights in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputSpec, OutputSpec

from squeeze.writers.pte_decoder.alike import Lowered, NotAlikeError, require_alike
from squeeze.writers.pte_decoder.delegates import with_other_weights
from squeeze.writers.pte_decoder.pattern import REPEATED, ROUNDS
from squeeze.writers.pte_decoder.stored import ProgramWeights

Nodes = dict[fx.Node, fx.Node]  # new ones by those of the exported program
ByName = Mapping[str, Tensor] | ProgramWeights  # weights of blocks by their names in the program


def repeated(lowered: Lowered, weights: ByName) -> ExportedProgram:
    """The program with all blocks of the model, and with their weights.

    Raises:
        NotAlikeError: rounds of the exported one differ in more than their weights.
    """
    require_alike(lowered)
    return _Growth(lowered, weights).program()


class _Growth:
    """The new graph: the first rounds, the copies, then the last round."""

    def __init__(self, lowered: Lowered, weights: ByName) -> None:
        self.lowered, self.pattern, self.old = lowered, lowered.pattern, lowered.program
        self.weights = weights
        self.root, self.graph = nn.Module(), fx.Graph()
        self.inputs: dict[str, fx.Node] = {}  # by the weight, cache or constant that they bring
        self.caches: dict[str, fx.Node] = {}  # what is left in each
        self.state: dict[str, Tensor] = {}
        self.cache_of = {node: spec.target for spec, node in self._outputs() if spec.target is not None}

    def program(self) -> ExportedProgram:
        inputs, new = self._placeholders()
        for number in range(-1, REPEATED + 1):
            self._add(number, 0, new)
        before, own = self.lowered.nodes(REPEATED - 1), self.lowered.nodes(REPEATED)
        for shift in range(1, len(self.pattern.copies) + 1):
            new |= {node: new[latest] for node, latest in zip(before, own, strict=True)}
            self._add(REPEATED, shift, new)
        self._add(ROUNDS - 1, len(self.pattern.copies), new)
        return self._assembled(inputs, self._finish(new))

    def _placeholders(self) -> tuple[list[InputSpec], Nodes]:
        """Inputs of the new graph, those of copies behind the ones that they are copies of."""
        nodes: Nodes = {}
        by_name = {node.name: node for node in self.old.graph.nodes if node.op == "placeholder"}
        specs = []
        for spec in self.old.graph_signature.input_specs:
            node = by_name[spec.arg.name]
            for target in self._all_rounds(spec.target):
                added = self.graph.node_copy(node)
                added.target = added.name
                specs.append(replace(spec, arg=_named(spec.arg, added), target=target))
                nodes.setdefault(node, added)
                if target is not None:
                    self.inputs[target] = added
                    self._keep(spec.target, target)
        return specs, nodes

    def _keep(self, old: str, name: str) -> None:
        """Take the model's weight in a block; what is outside blocks, and caches, as the exported program has them."""
        inside = self.pattern.block_of(name) is not None and old not in self.cache_of.values()
        if old in self.old.constants:
            if inside:
                raise NotAlikeError(f"{name} is made with the module and stored nowhere")
            return
        value = self.old.state_dict[old]
        if inside:
            own = self.weights[name]
            self.state[name] = nn.Parameter(own, requires_grad=False) if isinstance(value, nn.Parameter) else own
        else:
            self.state[name] = value.clone() if old in self.cache_of.values() else value  # each round has its own

    def _all_rounds(self, target: str | None) -> Iterable[str | None]:
        """The name in the whole model of a weight or cache, and of those that are made after it."""
        if target is None:
            return [None]
        copied = self.pattern.copies if self.pattern.round_of(target) == REPEATED else ()
        return [self.pattern.whole(target), *(self.pattern.moved(target, number - REPEATED) for number in copied)]

    def _add(self, number: int, shift: int, new: Nodes) -> None:
        """A round of the exported program, some rounds further on.

        Args:
            new: What its nodes read; those that are made come to it.
        """

        def moved(name: str) -> str:
            return self.pattern.moved(name, shift)

        def read(source: fx.Node) -> fx.Node:
            target = self.lowered.targets.get(source.name, "")
            shared = not self.pattern.round_of(target)  # by all rounds, or of no block
            return new[source] if shared else self.inputs[moved(target)]

        for node in self.lowered.nodes(number):
            if node.op == "get_attr":
                roles = self.lowered.roles(node).items()
                weights = {key: (self.weights[moved(role[0])], role[1]) for key, role in roles if role}
                new[node] = self._delegate(with_other_weights(self.lowered.module(node), weights))
            else:
                new[node] = self._operator(node, read, moved)

    def _operator(self, node: fx.Node, read: Callable[[fx.Node], fx.Node], renamed: Callable[[str], str]) -> fx.Node:
        """A node of the exported program that reads others."""
        added = self.graph.node_copy(node, read)
        stack = node.meta.get("nn_module_stack") or {}
        added.meta["nn_module_stack"] = {key: (renamed(path), kind) for key, (path, kind) in stack.items()}
        if node in self.cache_of:
            self.caches[renamed(self.cache_of[node])] = added
        return added

    def _delegate(self, module: nn.Module) -> fx.Node:
        name = f"lowered_module_{len(self.root._modules)}"  # some of the same module
        self.root.add_module(name, module)
        return self.graph.get_attr(name)

    def _outputs(self) -> list[tuple[OutputSpec, fx.Node]]:
        return list(zip(self.old.graph_signature.output_specs, self.old.graph.output_node().args[0], strict=True))

    def _finish(self, new: Nodes) -> list[OutputSpec]:
        """What the program gives: what is left in each cache, and logits."""
        specs, nodes = [], []
        for spec, node in self._outputs():
            for target in self._all_rounds(spec.target):
                nodes.append(new[node] if target is None else self.caches[target])
                specs.append(replace(spec, arg=_named(spec.arg, nodes[-1]), target=target))
        output = self.graph.output(tuple(nodes))
        output.meta = dict(self.old.graph.output_node().meta)
        return specs

    def _assembled(self, inputs: list[InputSpec], outputs: list[OutputSpec]) -> ExportedProgram:
        module = fx.GraphModule(self.root, self.graph)
        module.meta = dict(self.old.graph_module.meta)
        return ExportedProgram(
            root=module,
            graph=module.graph,
            graph_signature=ExportGraphSignature(inputs, outputs),
            state_dict=self.state,
            range_constraints=self.old.range_constraints,
            module_call_graph=self.old.module_call_graph,
            constants=self.old.constants,
            verifiers=[self.old.verifier],
        )


def _named(argument: Any, node: fx.Node) -> Any:
    return replace(argument, name=node.name)
