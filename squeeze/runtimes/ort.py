"""ONNX Runtime: ``.onnx`` and ``.ort`` files that answer a batch in one call, and decoders with their memory."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from squeeze.formats.tensor_spec import TensorSpec
from squeeze.models import ort_session
from squeeze.runtimes.base import GENERATE, PREDICT, Arrays, Opened, Runtime

if TYPE_CHECKING:
    from squeeze.models.facts import Facts
    from squeeze.models.language.artifact import LanguageArtifact


class OpenedOnnx(Opened):
    """A file in ONNX Runtime."""

    def __init__(self, file: Path, threads: int, where: str) -> None:
        self.session = ort_session.open_session(file, threads, where)
        self.inputs = tuple(_spec(value) for value in self.session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self.session.get_outputs())

    def run(self, feed: Arrays) -> list[np.ndarray[Any, Any]]:
        return ort_session.run_limited(self.session, dict(feed))

    def stopwatch_call(self, feed: Arrays) -> Callable[[], object]:
        return ort_session.stopwatch_call(self.session, dict(feed))


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, (int, str)) else f"d{place}" for place, size in enumerate(value.shape))
    return TensorSpec(name=value.name, shape=shape, dtype=ort_session.dtype(value))


class OnnxRuntimeSession:
    """ONNX Runtime on a file, with exact int8 products where this CPU's fast ones overflow: x86 without VNNI."""

    # y = MatMulInteger(x, w): x uint8 [1, 4], w int8 [4, 1], all 127
    PRODUCTS = (
        "CAg6WAoYCgF4CgF3EgF5Ig1NYXRNdWxJbnRlZ2VyEgFnKg8IBAgBEANCAXdKBH9/f39aEwoBeBIOCgwIAhIICgIIAQoCCARiEwoB"
        "eRIOCgwIBhIICgIIAQoCCAFCBAoAEA0="
    )

    def __init__(self, file: Path, threads: int) -> None:
        self.session = self.exact_session(str(file), threads)

    def run(self, feed: dict[str, Any]) -> Any:
        """All outputs, in their order."""
        return self.session.run(None, feed)

    @classmethod
    def exact_session(cls, model: str | bytes, threads: int) -> Any:
        import numpy as np

        product = cls.opened(base64.b64decode(cls.PRODUCTS), threads, exact=False)
        if product.run(None, {"x": np.full((1, 4), 255, np.uint8)})[0].item() == 4 * 255 * 127:
            return cls.opened(model, threads, exact=False)
        try:
            return cls.opened(model, threads, exact=True)
        except Exception:  # onnxruntime has no exact ones where int8 weights or zero points are shared
            session = cls.opened(model, threads, exact=False)
            print("run.py: int8 products overflow on this CPU: outputs are off by more than rounding", file=sys.stderr)
            return session

    @staticmethod
    def opened(model: str | bytes, threads: int, exact: bool) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeDecoder:
    """``model.onnx`` with past and present keys and values, which stay in the runtime's own memory."""

    KEEP = "num_logits_to_keep"  # an input that decoders exported by Squeeze may be given

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        self.ort, self.session = ort, ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.may_be_told = {value.name for value in self.session.get_overridable_initializers()}
        self.reset()

    def reset(self) -> None:
        """Forget what was read: one sequence, every other free dimension is empty."""
        import numpy as np

        self.length, self.past = 0, {}
        for name, value in self.inputs.items():
            if name.startswith("past"):
                sizes = [size if isinstance(size, int) else 0 for size in value.shape]
                element = value.type.removeprefix("tensor(").removesuffix(")")
                dtype = {"float": "float32", "double": "float64"}.get(element, element)
                self.past[name] = self.value(np.zeros([1, *sizes[1:]], dtype))

    def value(self, array: Any) -> Any:
        return self.ort.OrtValue.ortvalue_from_numpy(array)

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        """Read more tokens; logits float32 ``[tokens, vocabulary]``, or ``[1, vocabulary]`` behind the last."""
        import numpy as np

        end = self.length + len(tokens)
        arrays = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self.length, end, dtype=np.int64)[None],
        }
        feed = {name: self.value(array) for name, array in arrays.items() if name in self.inputs} | self.past
        if not every and self.KEEP in self.may_be_told:
            feed[self.KEEP] = self.value(np.array([1], np.int64))  # the head is skipped for all tokens but the last
        results = dict(zip(self.outputs, self.session.run_with_ort_values(self.outputs, feed), strict=True))
        self.length = end
        self.past = {name: results[name.replace("past_key_values", "present")] for name in self.past}
        logits = results["logits"].numpy()[0].astype(np.float32)
        return logits if every else logits[-1:]


class OnnxRuntime(Runtime):
    """ONNX Runtime on a processor."""

    name = "onnxruntime"
    distribution = "onnxruntime"
    modules = ("onnxruntime",)
    loads: ClassVar = {PREDICT: (".onnx", ".ort"), GENERATE: (".onnx",)}
    opens = OpenedOnnx
    beside = (".onnx", ".ort", ".data", ".config", ".json", ".txt", ".model", ".jinja", ".npz")
    script: ClassVar = {PREDICT: (OnnxRuntimeSession,), GENERATE: (OnnxRuntimeDecoder,)}

    @classmethod
    def values(cls, file: Path, feed: Arrays, names: Collection[str], where: str) -> dict[str, np.ndarray[Any, Any]]:
        if file.suffix != ".onnx":
            return super().values(file, feed, names, where)
        from squeeze.formats.onnx_values import showing

        model, shown = showing(file, names)
        if not shown:
            return {}
        session = ort_session.open_session(model, 1, where)
        found = ort_session.run_limited(session, dict(feed), list(shown.values()))
        return {name: value for name, value in zip(shown, found, strict=True) if value.dtype == np.float32}

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> LanguageArtifact:
        from squeeze.runtimes.onnx_decoder import OnnxDecoder  # which needs torch

        return OnnxDecoder(folder, facts, keeper)

    @classmethod
    def version(cls) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)
