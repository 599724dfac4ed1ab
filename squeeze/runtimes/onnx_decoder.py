"""A decoder as ONNX Runtime runs it: ``model.onnx`` with keys and values going in and out.

How the file is made is the business of ``squeeze.passes.export``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze.errors import ModelError, all_lines
from squeeze.formats.onnx_external import external_files, unsafe_location
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.ort_session import FLOAT_ACTIVATIONS, dtype, open_session

FILE_NAME = "model.onnx"
INT8_ACTIVATIONS = 4  # accuracy_level of MatMulNBits; also what the runtime takes by itself
KEEP = "num_logits_to_keep"
CONTEXT = "squeeze.context"  # metadata key: how many tokens a text may have
TOKENS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
LOGITS_BYTES = 2**28  # largest logits of one call; longer texts are read in pieces
Array = NDArray[Any]


class OnnxDecoder(LanguageArtifact):
    """``model.onnx``, the weights beside it, a tokenizer.

    Raises:
        ModelError: no such file, weights outside its folder, or not the inputs of a decoder.
    """

    runtime = "onnxruntime"
    file_name = FILE_NAME

    @property
    def weight_files(self) -> tuple[Path, ...]:
        side = external_files(self.main)
        for name in side:
            if unsafe_location(name) or not (self.folder / name).is_file():
                raise ModelError(f"{self.main}: weights in '{name}', which is no file beside it; refused")
        return (self.main, *(self.folder / name for name in side))

    def arithmetic(self) -> str:
        return in_onnx_runtime("ONNX Runtime", self.main)

    @cached_property
    def sessions(self) -> dict[int, Session]:
        """By number of threads."""
        return {}

    @property
    def session(self) -> Session:
        if self.threads not in self.sessions:
            _ = self.weight_files  # refused before the runtime opens them
            self.sessions[self.threads] = Session(self.main, self.threads)
        return self.sessions[self.threads]

    @property
    def vocabulary(self) -> int:
        return self.session.vocabulary

    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        self.require_known(tokens)
        for start in range(0, len(tokens), chunk):
            part = slice(start, min(start + chunk, len(tokens)))
            yield part, self._all_logits(tokens[part])

    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        text = self.text(len(prompt) + most)
        token = int(text.read(prompt).argmax())
        for count in range(1, most + 1):
            yield token
            if count < most:
                token = int(text.read([token]).argmax())

    def text(self, most: int) -> Text:
        """A text of up to so many tokens that the model reads and remembers, one call after the other."""
        return Text(self.session, most)

    def pieces(self, text: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
        self.require_known(text)
        reading, tokens = self.text(len(text)), text.tolist()
        for start in range(0, len(text), size):
            part = slice(start, min(start + size, len(text)))
            yield part, torch.from_numpy(reading.read_all(tokens[part]).copy())

    def _all_logits(self, tokens: Tensor) -> Tensor:
        """``[rows, length, vocabulary]``; what would be too large to be given at once is read in pieces, row by row."""
        rows, length = tokens.shape
        step = max(1, LOGITS_BYTES // (4 * self.vocabulary))
        if rows * length <= step:
            return torch.from_numpy(self.session.read(tokens.numpy(), self.session.nothing(rows), 0)[0])
        return self.in_pieces(tokens, step)


def in_onnx_runtime(name: str, graph: Path) -> str:
    """The arithmetic of a decoder's graph, in words."""
    import onnx_ir as ir  # takes a second

    if any(map(_rounds_activations, ir.load(graph).graph.all_nodes())):  # read without its weights
        return f"{name}: float32, activations rounded to int8 in products with blocks of integers"
    return f"{name}: float32 activations, head and logits"


def _rounds_activations(node: Any) -> bool:
    """Whether a node is a product of blocks of integers that takes activations rounded to int8."""
    if node.op_type == "MatMulNBits":
        return bool(node.attributes.get_int("accuracy_level") == INT8_ACTIVATIONS)
    return node.op_type == "DequantizeLinear" and "block_size" in node.attributes


class Session:
    """One ONNX Runtime session and what it says of its model.

    Args:
        spinning: Threads wait busily between two products: faster alone, a nuisance beside others.
        exact: Products that the runtime itself makes of DequantizeLinear leave activations float32.
    """

    def __init__(self, file: Path, threads: int, spinning: bool = False, exact: bool = False) -> None:
        entries = {"session.intra_op.allow_spinning": str(int(spinning))} | (FLOAT_ACTIVATIONS if exact else {})
        self.ort = open_session(file, threads, str(file), entries, int8_operators=False)
        inputs = {value.name: value for value in self.ort.get_inputs()}
        self.may_be_told = {value.name for value in self.ort.get_overridable_initializers()}
        outputs = {value.name: value for value in self.ort.get_outputs()}
        self.past = {name: value for name, value in inputs.items() if name.startswith("past_key_values.")}
        self.presents = [name.replace("past_key_values", "present") for name in self.past]
        missing = [name for name in (TOKENS, MASK) if name not in inputs]
        missing += [name for name in (LOGITS, *self.presents) if name not in outputs]
        if missing or not self.past:
            raise ModelError(f"{file}: no decoder: it has no '{(missing or ['past_key_values.0.key'])[0]}'")
        context = self.ort.get_modelmeta().custom_metadata_map.get(CONTEXT, "")
        self.context = int(context) if context.isdigit() else None
        self.file = file
        self.inputs, self.vocabulary = inputs, int(outputs[LOGITS].shape[-1])

    def nothing(self, rows: int) -> dict[str, Array]:
        """The past of texts of which nothing was read."""
        return {name: np.zeros(self.past_shape(name, rows, 0), dtype(self.past[name])) for name in self.past}

    def past_shape(self, name: str, rows: int, length: int) -> tuple[int, ...]:
        """``[rows, kv heads, length, channels]``."""
        _, heads, _, channels = self.past[name].shape
        return rows, heads, length, channels

    def step_inputs(self, tokens: Array, start: int) -> dict[str, Array]:
        """Inputs for tokens ``[rows, length]`` behind ``start`` others."""
        rows, length = tokens.shape
        self.require_within(start + length)
        positions = np.arange(start, start + length, dtype=np.int64)
        step_inputs = {
            TOKENS: tokens.astype(np.int64),
            MASK: np.ones((rows, start + length), np.int64),
            POSITIONS: np.broadcast_to(positions, (rows, length)).copy(),
        }
        return {name: array for name, array in step_inputs.items() if name in self.inputs}

    def read(self, tokens: Array, past: dict[str, Array], start: int) -> tuple[Array, dict[str, Array]]:
        """Logits of every token ``[rows, length, vocabulary]``, and the past with them in it."""
        feed = self.step_inputs(tokens, start) | past
        logits, *presents = self.running(lambda: self.ort.run([LOGITS, *self.presents], feed))
        return np.asarray(logits, np.float32), dict(zip(self.past, presents, strict=True))

    def require_within(self, count: int) -> None:
        """Refuse a text that is too long for the model."""
        if self.context is not None and count > self.context:
            raise ModelError(f"{self.file}: {count} tokens are more than the {self.context} that a text may have")

    def running(self, call: Callable[[], Any]) -> Any:
        """What the runtime gives; what it raises as one line."""
        try:
            return call()
        except Exception as error:  # ONNX Runtime's own exception classes share no base
            raise ModelError(f"{self.file}: ONNX Runtime stopped: {all_lines(error, 300)}") from error


class Text:
    """One text as the model reads it; keys and values stay in one place of the runtime, no copies are made.

    Args:
        most: Tokens that there is room for.
    """

    def __init__(self, session: Session, most: int) -> None:
        self.session, self.most, self.length = session, most, 0
        self.binding = session.ort.io_binding()
        self.room: list[Array] = []  # keeps arrays alive: the binding holds only their addresses
        for past, present in zip(session.past, session.presents, strict=True):
            room = np.zeros(session.past_shape(past, 1, most), dtype(session.past[past]))
            self._bind(self.binding.bind_input, past, room)
            self._bind(self.binding.bind_output, present, room)
        self.tokens, self.mask = np.zeros(most, np.int64), np.ones(most, np.int64)
        self.positions, self.logits = np.arange(most, dtype=np.int64), np.zeros(session.vocabulary, np.float32)
        whole = {TOKENS: self.tokens, MASK: self.mask, POSITIONS: self.positions}
        self.places = {name: array.ctypes.data for name, array in whole.items()}
        self.bound = (0, 0)  # tokens that are read, and those whose logits are given, as inputs and outputs are bound
        self.every: Array = np.zeros((0, session.vocabulary), np.float32)

    def read(self, tokens: Sequence[int]) -> Array:
        """Logits ``[vocabulary]`` behind more tokens; the array is written anew by the next call.

        Raises:
            ModelError: there is no room for them.
        """
        self._prepare(tokens)
        last_alone = len(tokens) == 1 or KEEP in self.session.may_be_told
        every = self._run(len(tokens), self.logits[None] if last_alone else self._room_for(len(tokens)))
        last: Array = every[-1]
        return last

    def read_all(self, tokens: Sequence[int]) -> Array:
        """As :meth:`read`, behind each of them: logits ``[n, vocabulary]``."""
        self._prepare(tokens)
        return self._run(len(tokens), self._room_for(len(tokens)))

    def _room_for(self, count: int) -> Array:
        if len(self.every) < count:
            self.every = np.zeros((count, self.session.vocabulary), np.float32)
        return self.every[:count]

    def _prepare(self, tokens: Sequence[int]) -> None:
        """Bind what is told of the tokens; raises ``ModelError`` where there is no room for them."""
        count, end = len(tokens), self.length + len(tokens)
        if not 0 < count <= self.most - self.length:
            raise ModelError(f"{end} tokens; there is room for {self.most}, and at least one must be new")
        self.session.require_within(end)
        self.tokens[:count] = tokens
        self._tell(MASK, self.mask, 0, end)
        self._tell(POSITIONS, self.positions, self.length, count)
        if count != self.bound[0]:  # single tokens reuse the address of the previous one
            self._tell(TOKENS, self.tokens, 0, count)
        self.length = end

    def _tell(self, name: str, array: Array, start: int, count: int) -> None:
        """Bind int64 ``[1, count]`` from a place of an array on."""
        if name in self.session.inputs:
            where = self.places[name] + start * array.itemsize
            self.binding.bind_input(name, "cpu", 0, np.int64, (1, count), where)

    def _run(self, count: int, logits: Array) -> Array:
        """Fill ``logits`` ``[n, vocabulary]``, of the last ``n`` tokens."""
        bound, self.bound = self.bound, (count, len(logits))
        if self.bound != bound:
            if KEEP in self.session.may_be_told:
                self._bind(self.binding.bind_input, KEEP, np.array([len(logits)]))
            self._bind(self.binding.bind_output, LOGITS, logits[None])
        self.session.running(lambda: self.session.ort.run_with_iobinding(self.binding))
        return logits

    def _bind(self, bind: Callable[..., None], name: str, array: Array) -> None:
        self.room.append(array) if array.flags.owndata else None
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
