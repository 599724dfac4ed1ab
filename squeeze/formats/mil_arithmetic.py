"""What a MIL program computes, by the documentation of its operations, in float32 on torch, rounded where it is half.

Not Core ML: a second reading of a file, for where Core ML does not run. It shows whether layouts, paddings, options,
weights and scales in the file are those of the graph that it was made from; how Core ML rounds it cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from squeeze.errors import ModelError, all_lines
from squeeze.formats.mil_program import Operation, Program

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d}
POOLS = {1: (functional.max_pool1d, functional.avg_pool1d), 2: (functional.max_pool2d, functional.avg_pool2d)}
HALF = "FLOAT16"
RANGES = {"int8": (-128, 127), "uint8": (0, 255)}
Parameters = Mapping[str, Any]  # by name: a tensor, a list of them, a text, a truth value
Compute = Callable[[Parameters], Any]  # gives a tensor


def computed(program: Program, feed: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """All outputs, in their order.

    Raises:
        ModelError: an operation that is not known here, or what it reads does not fit together.
    """
    values: dict[str, Any] = {spec.name: _fed(spec.name, spec.shape, feed) for spec in program.inputs}
    weights = {weight.name: torch.from_numpy(weight.real()) for weight in program.weights()}
    for operation in program.operations:
        if operation.output in weights:
            values[operation.output] = weights[operation.output]
            continue
        if operation.kind not in OPERATIONS:
            raise ModelError(f"{operation.output}: {operation.kind} is no operation that Squeeze writes")
        parameters = {name: _widened(value) for name, value in _parameters(program, operation, values)}
        try:
            result = OPERATIONS[operation.kind](parameters)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            what = f"{operation.kind} cannot be worked out ({all_lines(error)})"
            raise ModelError(f"{operation.output}: {what}") from error
        if tuple(result.shape) != operation.shape:
            what = f"gives {list(result.shape)}, and the file says {list(operation.shape)}"
            raise ModelError(f"{operation.output}: {operation.kind} {what}")
        values[operation.output] = result.half() if operation.dtype == HALF else result
    return [values[spec.name].numpy() for spec in program.outputs]


def _fed(name: str, shape: tuple[int | str, ...], feed: Mapping[str, np.ndarray[Any, Any]]) -> Tensor:
    if name not in feed or feed[name].shape != shape:
        fed = list(feed[name].shape) if name in feed else "nothing"
        raise ModelError(f"input '{name}' is fed {fed}; {list(shape)} would do")
    return torch.from_numpy(np.array(feed[name], np.float32))


def _parameters(program: Program, operation: Operation, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for parameter, names in operation.reads.items():
        each = [values[name] if name in values else _plain(program.constants[name]) for name in names]
        yield parameter, each if parameter == "values" else each[0]


def _plain(constant: Any) -> Any:
    return torch.from_numpy(np.array(constant)) if isinstance(constant, np.ndarray) else constant


def _widened(value: Any) -> Any:
    """Half-precision numbers are computed with in float32, and what comes out is rounded."""
    if isinstance(value, list):
        return [_widened(each) for each in value]
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _quantize(p: Parameters) -> Any:
    low, high = RANGES[p["output_dtype"]]
    steps = torch.round(p["input"] / p["scale"]) + p["zero_point"].float()
    return steps.clamp(low, high).to(getattr(torch, p["output_dtype"]))


def _dequantize(p: Parameters) -> Any:
    return p["scale"] * (p["input"].float() - p["zero_point"].float())


def _conv(p: Parameters) -> Any:
    convolve = CONVOLUTIONS[p["weight"].ndim - 2]
    window = {"stride": p["strides"].tolist(), "dilation": p["dilations"].tolist(), "groups": int(p["groups"])}
    return convolve(_padded(p, 0.0), p["weight"], p.get("bias"), **window)


def _padded(p: Parameters, fill: float) -> Tensor:
    """With ``pad`` places before and behind each axis of the picture."""
    if p["pad_type"] != "custom":
        raise ValueError(f"pad_type {p['pad_type']}")
    return _pads(p["x"], p["pad"].tolist(), fill)


def _pads(x: Tensor, ends: list[int], fill: float) -> Tensor:
    """torch takes the last axis first."""
    pairs = [ends[place : place + 2] for place in range(0, len(ends), 2)]
    return functional.pad(x, [size for pair in reversed(pairs) for size in pair], value=fill)


def _max_pool(p: Parameters) -> Any:
    sizes = p["kernel_sizes"].tolist()
    return POOLS[len(sizes)][0](_padded(p, float("-inf")), sizes, p["strides"].tolist())


def _avg_pool(p: Parameters) -> Any:
    """The sum of a window by how many places of it count."""
    sizes, strides = p["kernel_sizes"].tolist(), p["strides"].tolist()
    pool = POOLS[len(sizes)][1]
    counted = torch.ones_like(p["x"])
    counts = _pads(counted, p["pad"].tolist(), 0.0 if bool(p["exclude_padding_from_average"]) else 1.0)
    return pool(_padded(p, 0.0), sizes, strides) / pool(counts, sizes, strides)


def _pad(p: Parameters) -> Any:
    if p["mode"] != "constant":
        raise ValueError(f"mode {p['mode']}")
    return _pads(p["x"], p["pad"].tolist(), float(p["constant_val"]))


def _slice(p: Parameters) -> Any:
    cuts = zip(p["begin"].tolist(), p["end"].tolist(), p["stride"].tolist(), strict=True)
    return p["x"][tuple(slice(*cut) for cut in cuts)]


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Compute:
    return lambda p: function(p["x"], p["y"])


def _of_one(function: Callable[[Tensor], Tensor]) -> Compute:
    return lambda p: function(p["x"])


OPERATIONS: Mapping[str, Compute] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "conv": _conv,
    "linear": lambda p: functional.linear(p["x"], p["weight"], p.get("bias")),
    **{name: _of_two(getattr(torch, name)) for name in ("matmul", "add", "sub", "mul", "minimum", "maximum")},
    "real_div": _of_two(torch.div),
    **{name: _of_one(getattr(torch, name)) for name in ("relu", "sigmoid", "tanh")},
    "relu6": _of_one(functional.relu6),
    **dict.fromkeys(("identity", "cast"), _of_one(torch.clone)),
    "constexpr_cast": lambda p: p["source_val"],
    "clip": lambda p: torch.clamp(p["x"], float(p["alpha"]), float(p["beta"])),
    "sigmoid_hard": lambda p: torch.clamp(p["x"] * p["alpha"] + p["beta"], 0.0, 1.0),
    "softmax": lambda p: torch.softmax(p["x"], int(p["axis"])),
    "reduce_mean": lambda p: torch.mean(p["x"], dim=p["axes"].tolist(), keepdim=bool(p["keep_dims"])),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "pad": _pad,
    "slice_by_index": _slice,
    "reshape": lambda p: torch.reshape(p["x"], p["shape"].tolist()),
    "transpose": lambda p: torch.permute(p["x"], p["perm"].tolist()),
    "concat": lambda p: torch.cat(p["values"], int(p["axis"])),
}
