"""An XNNPACK graph, as ExecuTorch's exporter made it, with other weights in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from tempfile import NamedTemporaryFile, gettempdir
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from squeeze.writers.pte_decoder.stored import Encoding, digest, encoded

IN_FILE = 2**16  # bytes of a constant from which on it waits on disk


def sha256_of(key: str) -> str:
    """Of the bytes of a constant, which its key ends with: ``scale_0f3c...`` -> ``0f3c...``."""
    return key.rpartition("_")[2]


def with_digests(data: bytes, new: Mapping[str, str]) -> bytes:
    """A graph that names its constants by other digests; ``new`` by the keys that it has."""
    digests = {sha256_of(key).encode(): sha256.encode() for key, sha256 in new.items()}
    return re.sub(b"|".join(digests), lambda found: digests[found[0]], data) if digests else data


def with_other_weights(module: Any, new: Mapping[str, tuple[Tensor, Encoding]]) -> Any:
    """A lowered module; ``new`` by the keys of the constants in whose place they are, all others stay."""
    from executorch.exir._serialize._named_data_store import NamedDataStoreOutput
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    old = module.named_data_store_output
    buffers: list[Any] = []
    entries, digests = {}, {}
    for key, entry in old.pte_data.items():
        data = encoded(*new[key]) if key in new else old.buffers[entry.buffer_index]
        digests[key] = digest(data) if key in new else sha256_of(key)
        entries[key.replace(sha256_of(key), digests[key])] = replace(entry, buffer_index=len(buffers))
        buffers.append(_on_disk(data, digests[key]) if key in new and len(data) >= IN_FILE else data)
    copy = LoweredBackendModule(
        edge_program=module.original_module,
        backend_id=module.backend_id,
        processed_bytes=with_digests(module.processed_bytes, digests),
        compile_specs=module.compile_specs,
        named_data_store_output=NamedDataStoreOutput(buffers, entries, {}),
    )
    copy.meta = module.meta
    return copy


@contextmanager
def sharing_tensors() -> Iterator[None]:
    """XNNPACK's graphs are made from copies of subgraphs; here these share their weights, which nobody writes to."""
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend

    def shared(_: type, program: Any, __: Any) -> Any:
        values = (*program.state_dict.values(), *program.constants.values())
        return deepcopy(program, {id(value): value for value in values})

    with patch.object(XnnpackBackend, "copy_exported_program_for_preprocess", classmethod(shared)):
        yield


def forget_tensors(program: Any) -> None:
    """Free the weights that XNNPACK's graphs were made from: the file takes the bytes that were made of them.

    What is left has their shapes, which later passes ask for, and memory that nobody touches.
    """
    for node in program.graph.nodes:
        if node.op == "get_attr":
            state = getattr(program, node.target).original_module.state_dict
            state.update({name: _unwritten(value) for name, value in state.items()})


def _unwritten(value: Tensor) -> Tensor:
    """Of the same shape and kind: torch runs the graph again, on shapes alone, and asks parameters to be such."""
    new = torch.empty_like(value)
    return nn.Parameter(new, requires_grad=False) if isinstance(value, nn.Parameter) else new


def _on_disk(data: bytes, sha256: str) -> Any:
    """The same bytes as ExecuTorch reads them from a file, which goes when nothing refers to them any more."""
    from executorch.exir._serialize._cord import FileBackedData

    with NamedTemporaryFile(dir=gettempdir(), delete=False) as file:  # the job's folder, which the run owns
        file.write(data)
    return FileBackedData(file.name, cleanup=True, sha256=bytes.fromhex(sha256))
