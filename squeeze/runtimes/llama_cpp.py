"""A .gguf file as llama.cpp runs it, through llama-cpp-python.

llama.cpp multiplies quantized weights by activations that it rounds to 8 bits in blocks of 32, and keeps keys and
values in float16: the weights are the grid's, the logits differ from float32's in the third digit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
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
BATCH = 256  # tokens at most that are read at once: llama.cpp takes memory for all of their logits
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
    """``model.gguf``, a tokenizer beside it, and ``adapter.gguf`` where the model has one."""

    file_name = FILE_NAME


class GgufDecoder(GgufFile):
    """The file in llama.cpp.

    Raises:
        ModelError: no such file, or llama.cpp cannot load it.
    """

    runtime = "llama.cpp"

    def arithmetic(self) -> str:
        return "llama.cpp: activations rounded to 8 bits in blocks of 32, float16 keys and values, float32 logits"

    @cached_property
    def vocabulary(self) -> int:
        self.require_installed(self.main.name)
        model = self._load(vocab_only=True)  # without weights, keys and values
        try:
            return int(model.n_vocab())
        finally:
            model.close()

    def logits(self, tokens: Tensor, chunk: int = 8, spill: Path | None = None) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(tokens), chunk):
            part = slice(start, min(start + chunk, len(tokens)))
            yield part, self.in_pieces(tokens[part], BATCH)

    def pieces(self, text: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
        self.require_known(text)
        size = min(size, BATCH)
        model, tokens = self._open(len(text), size), text.tolist()
        self._require_made_for(model, len(text))
        for start in range(0, len(text), size):
            part = slice(start, min(start + size, len(text)))
            yield part, torch.from_numpy(_decoded(model, tokens[part], start))

    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        model = self._open(len(prompt) + most, STEP)
        if len(prompt) + most > STEP:
            self._require_made_for(model, len(prompt) + most)
        model.reset()
        for count, token in enumerate(model.generate(list(prompt), top_k=1, temp=0.0, repeat_penalty=1.0), 1):
            yield int(token)
            if count == most:
                return

    @cached_property
    def _opened(self) -> dict[tuple[int, int, int], Any]:
        """By room for tokens, threads, and tokens that are read at once."""
        return {}

    def _open(self, tokens: int, batch: int) -> Any:
        """The file in llama.cpp, with room for a text of so many tokens; it keeps logits for ``batch`` of them.

        What was opened with more room serves, too: each opening maps the file anew.
        """
        self.require_installed(self.main.name)
        for (room, *others), model in self._opened.items():
            if room >= tokens and others == [self.threads, batch]:
                return model
        room, threads = -(-tokens // STEP) * STEP, self.threads
        many = {"n_threads": threads, "n_threads_batch": threads, "n_batch": batch, "n_ubatch": batch}
        model = self._load(n_ctx=room, **many)
        self._closing.append(weakref.finalize(self, model.close))  # before the library is unloaded
        self._opened[room, threads, batch] = model
        return model

    def _require_made_for(self, model: Any, tokens: int) -> None:
        longest = int(model.metadata.get(f"{model.metadata['general.architecture']}.context_length", tokens))
        if tokens > longest:
            raise ModelError(f"{self.main}: {tokens} tokens are more than the {longest} that the file is made for")

    def _load(self, **options: Any) -> Any:
        from llama_cpp import Llama

        if (adapter := self.folder / ADAPTER_NAME).is_file() and not options.get("vocab_only"):
            options["lora_path"] = str(adapter)
        talks = options.keys() & {"vocab_only", "lora_path"}  # of a context of 0, and of each weight with an adapter
        try:
            with WithoutAmx(), redirect_stderr(StringIO()) if talks else nullcontext():
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


def _decoded(model: Any, tokens: list[int], start: int) -> np.ndarray[Any, Any]:
    """Logits float32 ``[n, vocabulary]`` of tokens behind ``start`` others, whose keys and values are kept."""
    from llama_cpp import llama_cpp as library

    if start == 0:
        library.llama_memory_clear(library.llama_get_memory(model.ctx), True)
    batch = library.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token, start + place, True
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        if code := library.llama_decode(model.ctx, batch):
            raise ModelError(f"llama.cpp stopped with code {code} behind {start} tokens")
    finally:
        library.llama_batch_free(batch)
    logits = library.llama_get_logits(model.ctx)
    return np.ctypeslib.as_array(logits, shape=(len(tokens), model.n_vocab())).copy()


class LlamaCppScript:
    """A ``.gguf`` file in llama.cpp."""

    ADAPTER = "adapter.gguf"  # laid over the weights, where it is there
    ROOM = 4096  # tokens of a text: llama.cpp takes memory for all of them at once

    def __init__(self, file: Path, threads: int) -> None:
        import contextlib
        import io

        import llama_cpp

        self.library = llama_cpp
        many = {"n_threads": threads, "n_threads_batch": threads}
        adapter = file.parent / self.ADAPTER
        beside = {"lora_path": str(adapter)} if adapter.is_file() else {}
        with WithoutAmx(), contextlib.redirect_stderr(io.StringIO()):  # it says where it lays an adapter, line by line
            self.llama = llama_cpp.Llama(str(file), n_ctx=self.ROOM, verbose=False, **many, **beside)

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


ADAPTER_NAME = LlamaCppScript.ADAPTER


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
    def weight_files(cls, file: Path) -> tuple[Path, ...]:
        adapter = file.parent / ADAPTER_NAME
        return (file, adapter) if adapter.is_file() else (file,)

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> GgufDecoder:
        return GgufDecoder(folder, facts, keeper)
