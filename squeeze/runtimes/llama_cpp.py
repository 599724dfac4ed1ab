"""A .gguf file as llama.cpp runs it, through llama-cpp-python.

llama.cpp multiplies quantized weights by activations that it rounds to 8 bits in blocks of 32, and keeps keys and
values in float16: the weights are the grid's, the logits differ from float32's in the third digit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError, first_line
from squeeze.models.facts import Facts
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.runtimes.base import GENERATE, Runtime

FILE_NAME = "model.gguf"
STEP = 256  # llama.cpp rounds the context up to a multiple of this


class WithoutAmx:
    """While it is open, llama.cpp loads files without its kernels for AMX, which end the process on such processors.

    Known as https://github.com/ggml-org/llama.cpp/issues/20824. Other processors load as usual.
    """

    CPU = Path("/proc/cpuinfo")

    def __enter__(self) -> None:
        import llama_cpp

        self.library, self.usual = llama_cpp.llama_cpp, llama_cpp.llama_cpp.llama_model_default_params
        if self.CPU.is_file() and "amx_int8" in self.CPU.read_text():
            self.library.llama_model_default_params = self.plain

    def __exit__(self, *_: object) -> None:
        self.library.llama_model_default_params = self.usual

    def plain(self) -> Any:
        params = self.usual()
        params.use_extra_bufts = False  # "extra" are the layouts that AMX reads, and other repacked ones
        return params


class GgufFile(LanguageArtifact):
    """``model.gguf``, a tokenizer beside it."""

    @property
    def main(self) -> Path:
        return self.folder / FILE_NAME


class GgufDecoder(GgufFile):
    """The file in llama.cpp.

    Raises:
        ModelError: no such file, or llama.cpp cannot load it.
    """

    runtime = "llama.cpp"

    def arithmetic(self) -> str:
        return "llama.cpp: activations rounded to 8 bits in blocks of 32, float16 keys and values, float32 logits"

    @property
    def vocabulary(self) -> int:
        return self._tokens

    @cached_property
    def _tokens(self) -> int:
        self.require_installed(self.main.name)
        with redirect_stderr(StringIO()):  # it warns of a context longer than 0, which it did not read
            model = self._load(vocab_only=True)  # without weights, keys and values
        try:
            return int(model.n_vocab())
        finally:
            model.close()

    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        length = tokens.shape[1]
        model = self._open(length, every=True)
        self.require_known(tokens)
        for start in range(0, len(tokens), chunk):
            part = slice(start, min(start + chunk, len(tokens)))
            logits = np.empty((part.stop - start, length, model.n_vocab()), np.float32)
            for place, text in enumerate(tokens[part].tolist()):
                model.reset()
                model.eval(text)
                logits[place] = model.scores[:length]
            yield part, torch.from_numpy(logits)

    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        model = self._open(len(prompt) + most, every=False)
        model.reset()
        for count, token in enumerate(model.generate(list(prompt), top_k=1, temp=0.0, repeat_penalty=1.0), 1):
            yield int(token)
            if count == most:
                return

    @cached_property
    def _opened(self) -> dict[tuple[int, int, bool], Any]:
        """By room for tokens, threads, and whether every token's logits are kept."""
        return {}

    def _open(self, tokens: int, every: bool) -> Any:
        """The file in llama.cpp, with room for a text of so many tokens."""
        self.require_installed(self.main.name)
        key = (-(-tokens // STEP) * STEP, self.threads, every)
        if key not in self._opened:
            room, threads, logits_all = key
            model = self._load(n_ctx=room, n_threads=threads, n_threads_batch=threads, logits_all=logits_all)
            self._closing.append(weakref.finalize(self, model.close))  # before the library is unloaded
            self._opened[key] = model
        model = self._opened[key]
        longest = int(model.metadata.get(f"{model.metadata['general.architecture']}.context_length", key[0]))
        if tokens > max(longest, STEP * (not every)):
            raise ModelError(f"{self.main}: {tokens} tokens are more than the {longest} that the file is made for")
        return model

    def _load(self, **options: Any) -> Any:
        from llama_cpp import Llama

        try:
            with WithoutAmx():
                return Llama(str(self.main), verbose=False, **options)
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(f"{self.main}: llama.cpp cannot load it ({first_line(error)})") from None

    @cached_property
    def _closing(self) -> list[Any]:
        """What closes those that were opened."""
        return []

    def close(self) -> None:
        while self._closing:
            self._closing.pop()()
        super().close()


class LlamaCppScript:
    """A ``.gguf`` file in llama.cpp."""

    ROOM = 4096  # tokens of a text: llama.cpp takes memory for all of them at once

    def __init__(self, file: Path, threads: int) -> None:
        import llama_cpp

        self.library = llama_cpp
        many = {"n_threads": threads, "n_threads_batch": threads}
        with WithoutAmx():
            self.llama = llama_cpp.Llama(str(file), n_ctx=self.ROOM, verbose=False, **many)

    def reset(self) -> None:
        self.llama.reset()

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        import numpy as np

        rows = []
        for step in [[token] for token in tokens] if every else [tokens]:  # only the last token's logits are kept
            self.llama.eval(step)
            logits = self.library.llama_get_logits_ith(self.llama.ctx, -1)
            rows.append(np.ctypeslib.as_array(logits, shape=(self.llama.n_vocab(),)).copy())
        return np.stack(rows)


class LlamaCpp(Runtime):
    """llama.cpp on a processor."""

    name = "llama.cpp"
    distribution = "llama-cpp-python"
    modules = ("llama_cpp",)
    extra = "llama-cpp"
    loads: ClassVar = {GENERATE: (".gguf",)}
    beside = (".gguf", ".json", ".txt", ".model", ".jinja")
    script: ClassVar = {GENERATE: (WithoutAmx, LlamaCppScript)}

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> GgufDecoder:
        return GgufDecoder(folder, facts, keeper)
