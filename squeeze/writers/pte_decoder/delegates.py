"""An XNNPACK graph, as ExecuTorch's exporter made it, with other weights in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from squeeze.writers.pte_decoder.stored import Encoding, digest, encoded


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
        digests[key] = digest(data)
        entries[key.replace(sha256_of(key), digests[key])] = replace(entry, buffer_index=len(buffers))
        buffers.append(data)
    copy = LoweredBackendModule(
        edge_program=module.original_module,
        backend_id=module.backend_id,
        processed_bytes=with_digests(module.processed_bytes, digests),
        compile_specs=module.compile_specs,
        named_data_store_output=NamedDataStoreOutput(buffers, entries, {}),
    )
    copy.meta = module.meta
    return copy
