"""How fast a language model's artifact reads and writes, in its own runtime, beside the original as float32."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from squeeze.evaluate.evidence.facts import GenerationClock
from squeeze.evaluate.metrics import ClockMetric
from squeeze.models.language.artifact import LanguageArtifact

PLAIN_TOKENS = 3  # first token id that may occur inside a text; lower ids are begin, end and the like


class GenerationMetric(ClockMetric):
    """A ratio of times; the other side is the original, exported unquantized, in ONNX Runtime."""

    evidence = GenerationClock

    sessions: int = Field(default=6, ge=4, multiple_of=2)
    """Fresh ones of each model, half of them opened first; those of a language model take seconds to open."""
    prompt: PositiveInt = 128
    """Tokens read, drawn at random: what they say does not matter."""

    def clock(self, model: LanguageArtifact) -> Callable[[], float]:
        """A measurement, in seconds, to be repeated; the model keeps its own number of threads."""
        prompt = self.prompt_tokens(model)

        def seconds() -> float:
            before, model.threads = model.threads, self.threads
            try:
                return self.once(model, prompt)
            finally:
                model.threads = before

        return seconds

    @abstractmethod
    def once(self, model: LanguageArtifact, prompt: list[int]) -> float:
        """Seconds of one measurement."""

    def length(self) -> int:
        """Tokens of a text, those that are read and those that are written."""
        return self.prompt + 1

    def prompt_tokens(self, model: LanguageArtifact) -> list[int]:
        """The prompt."""
        tokens = np.random.default_rng(0).integers(PLAIN_TOKENS, model.vocabulary, self.prompt)
        return [int(token) for token in tokens]


class Prefill(GenerationMetric):
    """Time from a prompt to the first token behind it, as a ratio to the original's."""

    name: ClassVar[str] = "prefill"

    def once(self, model: LanguageArtifact, prompt: list[int]) -> float:
        start = time.perf_counter()
        next(iter(model.generate(prompt, 1)))
        return time.perf_counter() - start


class Decode(GenerationMetric):
    """Time per token written behind a prompt, as a ratio to the original's."""

    name: ClassVar[str] = "decode"

    new: PositiveInt = 32
    """Tokens written."""

    def length(self) -> int:
        return self.prompt + 1 + self.new

    def once(self, model: LanguageArtifact, prompt: list[int]) -> float:
        tokens = iter(model.generate(prompt, self.new + 1))
        next(tokens)
        start = time.perf_counter()
        written = sum(1 for _ in tokens)
        return (time.perf_counter() - start) / written
