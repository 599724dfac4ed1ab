"""ONNX Runtime as the models use it: one session per number of threads, a batch fed by name, logits back.

Its int8 products are exact on every CPU: where the fast ones are not, it is told to use others. It takes
``.onnx`` and ``.ort`` files alike. What the graph holds is not its business.
"""

from __future__ import annotations

import threading
import warnings
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squeeze.errors import ModelError

if TYPE_CHECKING:  # a child that only runs a session starts without torch
    from onnxruntime import InferenceSession
    from torch import Tensor

    from squeeze.models.base import Batch, InputSpec

RUN_SECONDS = 600.0  # time limit of one batch
Feed = dict[str, np.ndarray[Any, Any]]

_DTYPES = {"float": "float32", "double": "float64"}  # other types have the same name in both

# y = MatMulInteger(x, w): x uint8 [1, 4], w int8 [4, 1], all 127
PRODUCTS = b64decode(
    "CAg6WAoYCgF4CgF3EgF5Ig1NYXRNdWxJbnRlZ2VyEgFnKg8IBAgBEANCAXdKBH9/f39aEwoBeBIOCgwIAhIICgIIAQoCCARiEwoBeRIOCgwIBhIICgII"
    "AQoCCAFCBAoAEA0="
)
INEXACT = (
    "int8 products overflow 16 bits on this CPU, and ONNX Runtime has no exact ones for this graph (a weight or zero "
    "point is shared): outputs are off by more than rounding; a CPU with VNNI or ARM would compute exactly"
)
EXACT_PRODUCTS = "session.x64quantprecision"  # uint8 by uint8: slower, and never cut
FLOAT_ACTIVATIONS = {"session.qdq_matmulnbits_accuracy_level": "0"}
NO_SPINNING = {"session.intra_op.allow_spinning": "0"}  # it would take the processor from what is timed beside it


def open_session(
    model: bytes | Path,
    threads: int,
    source: str,
    entries: Mapping[str, str] = NO_SPINNING,
    int8_operators: bool = True,
) -> InferenceSession:
    """Load a model into ONNX Runtime on the CPU, with a fixed number of threads and exact int8 products.

    Args:
        int8_operators: Whether the graph may hold ONNX's own products of integers. A decoder's blocks of weights have
            kernels of their own, and making products exact would break DequantizeLinear of a shared table.

    Raises:
        ModelError: The runtime does not take it.
    """
    overflows = int8_operators and products_overflow()
    if overflows:
        # ORT 1.32 refuses those whose int8 weights or zero points are shared; any other fault comes again below
        with suppress(Exception):
            return _session(model, threads, {**entries, EXACT_PRODUCTS: "1"})
    try:
        session = _session(model, threads, entries)
    except Exception as error:  # ONNX Runtime's own exception classes share no base
        raise ModelError(f"{source}: ONNX Runtime refuses the model: {' '.join(str(error).split())[:200]}") from error
    if overflows:
        warnings.warn(f"{source}: {INEXACT}", stacklevel=2)
    return session


@cache
def products_overflow() -> bool:
    """Whether this CPU adds pairs of uint8 by int8 products in 16 bits and cuts their sums: x86 without VNNI does.

    Asked of the runtime itself, in a millisecond. An ``.ort`` file is past the step that would cure it.
    """
    (product,) = _session(PRODUCTS, 1, {}).run(None, {"x": np.full((1, 4), 255, np.uint8)})
    return int(product.item()) != 4 * 255 * 127


def _session(model: bytes | Path, threads: int, entries: Mapping[str, str]) -> InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # failures come back as exceptions; the rest is noise on the user's screen
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    stored = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(stored, options, providers=["CPUExecutionProvider"])


def dtype(value: Any) -> str:
    """The numpy name of an input's or output's element type."""
    element = str(value.type).removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(element, element)


def feed(specs: tuple[InputSpec, ...], batch: Batch, source: str) -> Feed:
    """Arrays by the model's names; a model with one input takes the batch's one input whatever its name."""
    if len(specs) == 1 and len(batch.inputs) == 1:
        (tensor,) = batch.inputs.values()
        return {specs[0].name: _array(tensor, specs[0])}
    missing = [spec.name for spec in specs if spec.name not in batch.inputs]
    if missing:
        raise ModelError(f"{source}: wants the input '{missing[0]}'; the data has {', '.join(batch.inputs)}")
    return {spec.name: _array(batch.inputs[spec.name], spec) for spec in specs}


def logits(run: Callable[[Feed], list[Any]], size: int | None, arrays: Feed, examples: int) -> Tensor:
    """The first output for all examples, float32 ``[n, classes]``.

    Args:
        size: The one number of examples that ``run`` takes; None: any.
    """
    import torch

    values = np.concatenate([run(part)[0] for part in fitting(arrays, examples, size)])[:examples]
    return torch.from_numpy(np.asarray(values, dtype=np.float32).reshape(examples, -1))


def run_limited(session: InferenceSession, arrays: Feed, names: list[str] | None = None) -> list[Any]:
    """One run, stopped where it takes longer than :data:`RUN_SECONDS`: a loop in a graph need not end.

    Raises:
        ModelError: it took longer.
    """
    import onnxruntime as ort

    options = ort.RunOptions()
    timer = threading.Timer(RUN_SECONDS, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        outputs: list[Any] = session.run(names, arrays, options)
        return outputs
    except Exception as error:  # ONNX Runtime's own exception classes share no base
        if options.terminate:
            raise ModelError(f"one batch ran longer than {RUN_SECONDS:.0f} s; does a loop in the graph end?") from None
        raise ModelError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:200]}") from error
    finally:
        timer.cancel()


def fixed_batch(session: InferenceSession) -> int | None:
    """The one number of examples that the graph takes, or None where any will do."""
    shape = session.get_inputs()[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else None


def stopwatch_call(session: InferenceSession, arrays: Feed) -> Callable[[], object]:
    """One run of the session and nothing else."""
    run, names = session.run, [output.name for output in session.get_outputs()]
    return lambda: run(names, arrays)


def _array(tensor: Tensor, spec: InputSpec) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(spec.dtype, copy=False))


def fitting(arrays: Feed, examples: int, size: int | None) -> Iterator[Feed]:
    """The feed as it is, or in parts of the one number of examples that a graph takes."""
    yield from [arrays] if size in (None, examples) else parts(arrays, examples, size or examples)


def parts(arrays: Feed, examples: int, size: int) -> Iterator[Feed]:
    """Feeds of exactly ``size`` examples for a graph that takes no other number; the last is filled up."""
    for start in range(0, examples, size):
        indices = np.minimum(np.arange(start, start + size), examples - 1)
        yield {name: array[indices] for name, array in arrays.items()}
