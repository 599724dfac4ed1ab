"""Which tensors of a decoder have a channel for each one of the residual stream, as many as its hidden size says.

Found as other widths are: by building the model with a smaller one. Each tensor may differ in one dimension alone, from
the one hidden size to the other: where heads get narrower with it, or a table of positions is as wide, it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from squeeze.blocks.watch import Weight
from squeeze.errors import ModelError
from squeeze.models.language.skeleton import Skeleton

OTHERS = "parts: [intermediate] would do"
HEADS = "its heads are hidden_size / num_attention_heads wide, whatever config.json says beside"
ENDS = "that is known of embedding, head and the norm between blocks and head alone"


@dataclass(frozen=True)
class Hidden:
    """The tensors that get narrower with the stream, each with the dimension in which it does.

    Args:
        blocks: Of each block, by name inside it.
        outside: By full name: the embedding, the norm before the head, the head where it is not tied.
    """

    size: int
    blocks: tuple[Mapping[str, int], ...]
    outside: Mapping[str, int]

    @classmethod
    def of(cls, skeleton: Skeleton, smaller: Skeleton) -> Hidden:
        """What differs between the two.

        Raises:
            ModelError: something that is not known to be right with fewer channels.
        """
        size, blocks = (skeleton.hidden_size, smaller.hidden_size), []
        for index, (block, fewer) in enumerate(zip(skeleton.layers, smaller.layers, strict=True)):
            with _refusing(skeleton, skeleton.prefix(index), HEADS):
                dims = dict(_differing(dict(block.named_parameters()), dict(fewer.named_parameters()), size))
            _require_matrices(skeleton, index, dims)
            blocks.append(dims)
        inside = f"{skeleton.layers_name}."
        shapes, new = (dict(each.module.named_parameters()) for each in (skeleton, smaller))
        with _refusing(skeleton, "", ENDS):
            outside = dict(_differing({n: v for n, v in shapes.items() if not n.startswith(inside)}, new, size))
            for name in outside:
                if name not in skeleton.ends and shapes[name].dim() != 1:
                    raise _Unknown(f"{name} of {list(shapes[name].shape)} would change")
        return cls(skeleton.hidden_size, tuple(blocks), outside)

    def norms(self, skeleton: Skeleton, index: int) -> list[str]:
        """Submodules of a block that look at the stream's channels and hold no matrix."""
        owners = {name.rpartition(".")[0] for name in self.blocks[index]}
        block = skeleton.layers[index]
        return sorted(n for n in owners if all(p.dim() == 1 for p in block.get_submodule(n).parameters()))


def table_of(skeleton: Skeleton) -> str:
    """Name of the embedding's weight."""
    return _name(skeleton, skeleton.module.get_input_embeddings())  # type: ignore[operator]


def head_of(skeleton: Skeleton) -> Weight:
    """The head by its name in the model; the embedding's where the two are tied."""
    return Weight(_name(skeleton, skeleton.module.get_output_embeddings()))  # type: ignore[operator]


def _name(skeleton: Skeleton, module: nn.Module) -> str:
    weight = module.get_parameter("weight")
    return next(name for name, value in skeleton.module.named_parameters() if value is weight)


def narrowed(value: Tensor, dim: int | None, kept: Tensor) -> Tensor:
    """The channels that stay, where the tensor has some."""
    return value if dim is None else value.index_select(dim, kept)


class _Unknown(Exception):
    """A tensor that does not change as it should."""


@contextmanager
def _refusing(skeleton: Skeleton, prefix: str, why: str) -> Iterator[None]:
    try:
        yield
    except _Unknown as error:
        kind = skeleton.config.get_text_config().model_type
        raise ModelError(f"model_type '{kind}': {prefix}{error} with hidden_size: {why}; {OTHERS}") from None


def _differing(
    parameters: Mapping[str, Tensor], new: Mapping[str, Tensor], size: tuple[int, int]
) -> Iterator[tuple[str, int]]:
    """Name and dimension of each tensor that goes from the one size to the other."""
    for name, value in parameters.items():
        was, now = list(value.shape), list(new[name].shape)
        changed = [dim for dim in range(value.dim()) if was[dim] != now[dim]]
        if len(changed) > 1 or any((was[dim], now[dim]) != size for dim in changed):
            raise _Unknown(f"{name} goes from {was} to {now}")
        if changed:
            yield name, changed[0]


def _require_matrices(skeleton: Skeleton, index: int, dims: Mapping[str, int]) -> None:
    block, where = skeleton.layers[index], skeleton.prefix(index)
    for name in dims:
        if block.get_parameter(name).dim() > 2:
            raise ModelError(f"{where}{name} holds experts, which are given other tokens each; {OTHERS}")
    if not any(block.get_parameter(name).dim() == 2 and dim == 1 for name, dim in dims.items()):
        raise ModelError(f"no matrix of {where.removesuffix('.')} gets narrower with hidden_size; {OTHERS}")
