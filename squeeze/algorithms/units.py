"""What this CPU multiplies: narrow numbers are fast only where it has units for them, and slow where it has none."""

from __future__ import annotations

from functools import lru_cache

import torch

UNITS = {  # CPU instruction sets per type, by torch's names
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}


@lru_cache(maxsize=8)
def multiplies(dtype: torch.dtype) -> bool:
    """Whether the CPU has units for a half-precision type; without, oneDNN is at a fifth of float32's rate."""
    can_do = torch.cpu.get_capabilities()
    return any(can_do.get(unit) for unit in UNITS[dtype])


@lru_cache(maxsize=1)
def multiplies_int8() -> bool:
    """Whether int8 is the fastest that this CPU multiplies: it has units for that, and none for bf16."""
    can_do = torch.cpu.get_capabilities()
    return bool(can_do.get("avx512_vnni") or can_do.get("avx_vnni")) and not multiplies(torch.bfloat16)
