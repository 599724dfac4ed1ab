"""The module of a language model without its weights, and where its decoder blocks are.

Found from the module's structure, not from a table of families: a list of blocks of one class inside the decoder, an
embedding before it, a head behind it. What is not found is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.formats.regular import read_json, require_regular_folder
from squeeze.models.config_sizes import require_sizes, stored_tensors
from squeeze.models.language.build import build, config_values
from squeeze.models.language.minicpm import as_llama, factors
from squeeze.models.torch_macs import MacCounter, meta_copy, structure_key

MAC_TOKENS = 128  # prompt length for which multiply-accumulates are counted
_macs: dict[str, int | None] = {}  # by the digest of what decides them


class Skeleton:
    """A causal language model on the meta device.

    Args:
        module: The whole model; ``layers_name`` is where its blocks are.
        values: Of the config.json that it is made of.
        factors: What stored weights are multiplied by to become the module's (MiniCPM).
    """

    def __init__(self, module: nn.Module, values: Mapping[str, Any], factors: Mapping[str, float]) -> None:
        self.module, self.values, self.factors = module.eval(), values, factors
        self.config: Any = module.config
        self.layers_name, self.layers = _find_layers(module)

    @classmethod
    def read(cls, folder: Path) -> Skeleton:
        """Build from ``config.json``; code from the folder is never run."""
        require_regular_folder(folder)
        stored = config_values(folder / "config.json")
        require_sizes(stored, folder / "config.json", stored_tensors(folder))
        return cls.built(folder, as_llama(stored), factors(stored))

    @classmethod
    def built(cls, folder: Path, values: Mapping[str, Any], factors: Mapping[str, float] | None = None) -> Skeleton:
        """What a config.json of those values makes; ``folder`` is for messages."""
        module = build(folder, values)
        return cls(module, values, factors or {})

    @property
    def outside(self) -> list[str]:
        """Names of the tensors outside the blocks: embedding, final norm, head; tied ones once."""
        inside = f"{self.layers_name}."
        return [name for name in self.names() if not name.startswith(inside)]

    @property
    def read_outside(self) -> list[str]:
        """Those of ``outside`` that text goes through: not a vision tower's."""
        models = [(name, child) for name, child in self.module.named_modules() if hasattr(child, "_init_weights")]
        towers = tuple(f"{name}." for name, child in models if not _within(child, self.layers))
        return [name for name in self.outside if not name.startswith(towers)]

    @property
    def ends(self) -> list[str]:
        """Names of the embedding's weight and, where it is not tied, the head's."""
        weights = {id(end.weight) for end in (_embedding(self.module), _head(self.module)) if end is not None}
        return [name for name, value in self.module.named_parameters() if id(value) in weights]

    @property
    def tables(self) -> frozenset[str]:
        """Names of the weights that are only looked up: embeddings, but for one that is the head too."""
        head = _head(self.module)
        looked_up = [(name, child) for name, child in self.module.named_modules() if isinstance(child, nn.Embedding)]
        return frozenset(
            f"{name}.weight" for name, child in looked_up if head is None or child.weight is not head.weight
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's activations between two blocks."""
        embedding = self.module.get_input_embeddings().weight  # type: ignore[operator]
        return int(embedding.shape[1] * embedding.element_size())

    @property
    def hidden_size(self) -> int:
        """Channels between two blocks."""
        return int(self.module.get_input_embeddings().weight.shape[1])  # type: ignore[operator]

    @property
    def dtype(self) -> torch.dtype:
        """What the activations between two blocks are."""
        dtype: torch.dtype = self.module.get_input_embeddings().weight.dtype  # type: ignore[operator]
        return dtype

    @property
    def context(self) -> int | None:
        """How many tokens a text may have, where the config says it."""
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return positions if isinstance(positions, int) else None

    def macs(self) -> int | None:
        """Multiply-accumulates per token of a prompt of MAC_TOKENS, read at once; None: not known.

        Which experts a router chooses is not known without weights. Each structure is counted once in a process: every
        step of a check, and every model that is read back, asks for it.
        """
        structure = repr((self.config.to_dict(), self.context, structure_key(self.module)))
        key = hashlib.sha256(structure.encode()).hexdigest()
        if key not in _macs:
            _macs[key] = self._counted()
        return _macs[key]

    def _counted(self) -> int | None:
        tokens = torch.zeros(1, min(MAC_TOKENS, self.context or MAC_TOKENS), dtype=torch.int64, device="meta")
        with suppress(Exception):  # the family's own code, which may look at values
            copy = meta_copy(self.module)
            with MacCounter().watching(copy) as counter:
                copy(input_ids=tokens, use_cache=False)
            total = counter.total()
            return None if total is None else round(total / tokens.shape[1])
        return None

    def names(self) -> list[str]:
        """Every stored tensor of the model, tied ones once."""
        parameters = [name for name, _ in self.module.named_parameters()]
        every = {name for name, _ in self.module.named_parameters(remove_duplicate=False)}
        return parameters + [name for name in self.module.state_dict() if name not in every]

    def block_names(self, index: int) -> list[str]:
        """Tensors of one block, named inside it (``self_attn.q_proj.weight``)."""
        return list(self.layers[index].state_dict())

    def prefix(self, index: int) -> str:
        """``model.layers.3.``."""
        return f"{self.layers_name}.{index}."

    @contextmanager
    def in_place_of_blocks(self, stand_ins: list[nn.Module]) -> Iterator[None]:
        """The model with something else where its blocks were."""
        own = list(self.layers)
        try:
            for index, stand_in in enumerate(stand_ins):
                self.layers[index] = stand_in
            yield
        finally:
            for index, block in enumerate(own):
                self.layers[index] = block


def is_language_folder(folder: Path) -> bool:
    """True where ``config.json`` names a causal language model, or a vision-language one."""
    try:
        config = read_json(folder / "config.json")
    except ModelError:
        return False  # reading the folder reports what is wrong
    if not isinstance(config, dict) or not isinstance(config.get("architectures"), list):
        return False
    names = [str(name) for name in config["architectures"]]
    sees = "text_config" in config and "vision_config" in config
    ends = ("ForCausalLM", "LMHeadModel", *(["ForConditionalGeneration"] if sees else []))
    return any(name.endswith(ends) for name in names)


def fill(module: nn.Module, name: str, value: Tensor) -> None:
    """Give one parameter or buffer of a module its value, as it is (no copy)."""
    holder, _, leaf = name.rpartition(".")
    owner = module.get_submodule(holder)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[leaf] = value


@contextmanager
def filled(module: nn.Module, names: Iterable[str], read: Callable[[str], Tensor]) -> Iterator[nn.Module]:
    """A module with some of its weights, each read when it is filled in, for as long as the ``with`` lasts."""
    every = list(names)
    try:
        for name in every:
            fill(module, name, read(name))
        yield module
    finally:
        empty(module, every)


def empty(module: nn.Module, names: list[str]) -> None:
    """Take the values away again: back to the meta device."""
    state = module.state_dict(keep_vars=True)
    for name in names:
        fill(module, name, torch.empty_like(state[name], device="meta"))


def _find_layers(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """The outermost list of blocks of one class that hold weight matrices, inside the decoder where one is named."""
    kind, decoder = type(module).__name__, _decoder(module)
    lists = [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) and _are_blocks(child) and _within(decoder, child)
    ]
    if not lists:
        raise ModelError(
            f"{kind}: no list of decoder blocks (a ModuleList of one class with weight matrices) was found"
        )
    if _embedding(module) is None or _head(module) is None:
        raise ModelError(f"{kind}: no embedding before the blocks, or no head behind them, was found")
    return min(lists, key=lambda item: item[0].count("."))


def _decoder(module: nn.Module) -> nn.Module:
    """The language tower of a model that also sees; else what holds the blocks."""
    return module.get_decoder() if hasattr(module, "get_decoder") else module  # type: ignore[operator]


def _within(outer: nn.Module, inner: nn.Module) -> bool:
    return any(child is inner for child in outer.modules())


def _embedding(module: nn.Module) -> nn.Module | None:
    return module.get_input_embeddings()  # type: ignore[operator,no-any-return]


def _head(module: nn.Module) -> nn.Module | None:
    return module.get_output_embeddings()  # type: ignore[operator,no-any-return]


def _are_blocks(children: nn.ModuleList) -> bool:
    same = len({type(child) for child in children}) == 1
    return same and any(parameter.dim() > 1 for parameter in children[0].parameters())
