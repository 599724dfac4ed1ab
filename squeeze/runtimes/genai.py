"""A decoder as ONNX Runtime GenAI runs it: ``genai_config.json`` and the graph that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.onnx_external import external_files, unsafe_location
from squeeze.models.facts import Facts
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.runtimes.base import GENERATE, Runtime
from squeeze.runtimes.onnx_decoder import in_onnx_runtime

CONFIG = "genai_config.json"


class GenaiDecoder(LanguageArtifact):
    """A folder that ``onnxruntime_genai.Model`` takes."""

    runtime = "onnxruntime-genai"

    @property
    def main(self) -> Path:
        return self.folder / CONFIG

    @cached_property
    def config(self) -> dict[str, Any]:
        """``genai_config.json``.

        Raises:
            ModelError: it cannot be read, or names no graph.
        """
        try:
            config: dict[str, Any] = json.loads(self.main.read_text())
            _ = config["model"]["decoder"]["filename"], int(config["model"]["vocab_size"])
            _ = int(config["model"]["context_length"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.main}: no GenAI config ({type(error).__name__}: {error})") from None
        return config

    @property
    def weight_files(self) -> tuple[Path, ...]:
        graph = self.config["model"]["decoder"]["filename"]
        if unsafe_location(graph) or not (self.folder / graph).is_file():
            raise ModelError(f"{self.main}: names the graph '{graph}', which is no file beside it; refused")
        side = external_files(self.folder / graph)
        for name in side:
            if unsafe_location(name) or not (self.folder / name).is_file():
                raise ModelError(f"{self.folder / graph}: weights in '{name}', which is no file beside it; refused")
        return (self.folder / graph, *(self.folder / name for name in side))

    def arithmetic(self) -> str:
        return in_onnx_runtime("ONNX Runtime GenAI", self.weight_files[0])

    @property
    def vocabulary(self) -> int:
        return int(self.config["model"]["vocab_size"])

    @property
    def context(self) -> int:
        """How many tokens a text may have."""
        return int(self.config["model"]["context_length"])

    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        self.require_known(tokens)
        for start in range(0, len(tokens), chunk):
            part = slice(start, min(start + chunk, len(tokens)))
            yield part, self.in_pieces(tokens[part], tokens.shape[1])

    def pieces(self, text: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
        self.require_known(text)
        self._require_within(len(text))
        generator = self._generator(min(self.context, len(text) + 1))
        for start in range(0, len(text), size):
            part = slice(start, min(start + size, len(text)))
            self._feed(generator, text[part].tolist())
            logits = self._running(lambda: generator.get_output("logits"))  # a copy of the runtime's own
            yield part, torch.from_numpy(np.asarray(logits, np.float32))[0]
            del logits

    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        self._require_within(len(prompt) + most)
        generator = self._generator(min(self.context, len(prompt) + most + 1))
        self._feed(generator, prompt)
        for count in range(1, most + 1):
            token = int(np.asarray(self._running(generator.get_logits)).reshape(-1, self.vocabulary)[-1].argmax())
            yield token
            if count < most:
                self._feed(generator, [token])

    def _feed(self, generator: Any, tokens: Sequence[int]) -> None:
        self._running(lambda: generator.append_tokens(np.array([list(tokens)], np.int32)))

    def _generator(self, most: int) -> Any:
        import onnxruntime_genai as og

        self._model()
        parameters = self._running(lambda: og.GeneratorParams(self._models[self.threads]))
        parameters.set_search_options(max_length=most, do_sample=False)
        return self._running(lambda: og.Generator(self._models[self.threads], parameters))

    @cached_property
    def _models(self) -> dict[int, Any]:
        """By number of threads."""
        return {}

    def _model(self) -> None:
        self.require_installed(CONFIG)
        _ = self.weight_files  # refused before the runtime opens them
        if self.threads not in self._models:
            import onnxruntime_genai as og

            config = self._running(lambda: og.Config(str(self.folder)))
            options = {"intra_op_num_threads": self.threads, "session.intra_op.allow_spinning": "0"}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._models[self.threads] = self._running(lambda: og.Model(config))

    def _require_within(self, count: int) -> None:
        if count > self.context:
            raise ModelError(f"{self.folder}: {count} tokens are more than the {self.context} that a text may have")

    def _running(self, call: Any) -> Any:
        """What the runtime gives; what it raises as one line."""
        try:
            return call()
        except Exception as error:  # GenAI raises plain RuntimeError and others
            raise ModelError(f"{self.folder}: GenAI stopped: {' '.join(str(error).split())[:300]}") from error


class GenaiScript:
    """A folder of ONNX Runtime GenAI."""

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime_genai as og

        config = og.Config(str(file.parent))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self.og, self.model = og, og.Model(config)
        self.most = int(json.loads((file.parent / "genai_config.json").read_text())["search"]["max_length"])
        self.reset()

    def reset(self) -> None:
        parameters = self.og.GeneratorParams(self.model)
        parameters.set_search_options(max_length=self.most, do_sample=False)
        self.generator = self.og.Generator(self.model, parameters)

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        import numpy as np

        steps = [[token] for token in tokens] if every else [tokens]
        rows = []
        for step in steps:
            self.generator.append_tokens(np.array([step], np.int32))
            rows.append(np.asarray(self.generator.get_logits(), np.float32).reshape(-1, self.width())[-1])
        return np.stack(rows)

    def width(self) -> int:
        return int(self.generator.get_logits().shape[-1])


class GenaiRuntime(Runtime):
    """ONNX Runtime's own generation loop."""

    name = "onnxruntime-genai"
    distribution = "onnxruntime-genai"
    modules = ("onnxruntime_genai",)
    extra = "genai"
    loads: ClassVar = {GENERATE: ("genai_config.json",)}
    beside = (".onnx", ".data", ".json", ".txt", ".model", ".jinja")
    script: ClassVar = {GENERATE: (GenaiScript,)}

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> GenaiDecoder:
        return GenaiDecoder(folder, facts, keeper)
