"""Tasks of the lm-evaluation-harness (package and extra ``lm-eval``), asked of a language model through its logits.

The harness forms the prompts and judges the answers; a score keeps the standard error that it works out. What it says
of single examples is not read, so two such scores are compared unpaired.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from squeeze.data.choices import ChoiceDataset, CutEnding
from squeeze.data.documents import Documents
from squeeze.errors import DataError, MissingExtra, SqueezeError, first_line
from squeeze.evaluate.endings import score_endings
from squeeze.evaluate.evidence.base import Estimate
from squeeze.evaluate.metrics import EstimateMetric
from squeeze.models.base import Model
from squeeze.models.language.decoder import Decoder, decoder_of
from squeeze.models.tokenizer import read_tokenizer
from squeeze.progress import Progress

ABSENT = "lm_eval needs the package lm-eval: pip install 'squeeze[lm-eval]'"
FILES = (".yaml", ".yml")


class LmEval(EstimateMetric):
    """A task of lm-eval: one of its own by name, or a task file of yours, whose data may lie beside it.

    A task file may name Python functions beside it, which lm-eval runs: use files that you trust. Its own tasks fetch
    their data from the hub. Tasks whose answers are generated, or that are perplexities, are not asked here.
    """

    name, unit, higher_is_better = "lm_eval", "share", True

    task: str
    """A name, a task file, or a folder with one task file in it."""
    metric: Literal["acc", "acc_norm"] = "acc"
    """acc_norm: by log-likelihood per byte of the answer."""
    limit: PositiveInt | None = None
    """Only the first so many examples; null: all."""
    fewshot: int | None = None
    """Examples in the prompt; null: as the task has it."""

    @property
    def label(self) -> str:
        return f"{self.name}:{Path(self.task).name.removesuffix('.yaml').removesuffix('.yml')}:{self.metric}"

    def faults(self, root: Path) -> Iterator[str]:
        if find_spec("lm_eval") is None:
            yield ABSENT
        if self._is_path() and not (root / self.task).exists():
            yield f"{self.name}: {root / self.task} does not exist"

    def cache_inputs(self, root: Path) -> dict[str, Any]:
        inputs: dict[str, Any] = {"options": self.model_dump(mode="json")}
        if self._is_path():
            file = self._file(root)
            beside = [path for path in sorted(file.parent.rglob("*")) if path.is_file()]
            inputs["files"] = {str(path.relative_to(file.parent)): _digest(path) for path in beside}
        return inputs | {"lm_eval": version("lm_eval")}

    def estimate(self, model: Model, root: Path, progress: Progress) -> Estimate:
        try:
            from lm_eval import simple_evaluate
            from lm_eval.tasks import TaskManager
        except ImportError:
            raise MissingExtra(ABSENT) from None
        with _quiet():
            try:
                tasks = [_config(self._file(root)) if self._is_path() else self.task]
                results = simple_evaluate(
                    adapter(decoder_of(model), progress),
                    tasks=tasks,
                    num_fewshot=self.fewshot,
                    limit=self.limit,
                    task_manager=TaskManager(include_defaults=not self._is_path()),
                    random_seed=None,
                    numpy_random_seed=None,
                    torch_random_seed=None,
                )
            except SqueezeError:
                raise
            except Exception as error:  # tasks fail in yaml, jinja, datasets, the hub: each in its own way
                raise DataError(f"{self.label}: lm-eval cannot ask it ({first_line(error)})") from error
        return self._read(results)

    def documents(self, root: Path) -> Documents:
        if find_spec("lm_eval") is None:
            raise DataError(ABSENT)
        with _quiet(), _offline():
            try:
                from lm_eval.tasks import TaskManager

                task = _config(self._file(root)) if self._is_path() else self.task
                tasks = TaskManager(include_defaults=not self._is_path()).load([task])["tasks"].values()
                texts = [_strings(document) for task in tasks for document in task.eval_docs]
            except SqueezeError:
                raise
            except Exception as error:  # tasks fail in yaml, datasets, the hub: each in its own way
                raise DataError(f"lm-eval cannot read it without the network ({first_line(error)})") from error
        return Documents(self.label, texts)

    def _is_path(self) -> bool:
        return self.task.endswith(FILES) or "/" in self.task

    def _file(self, root: Path) -> Path:
        path = root / self.task
        files = sorted(file for file in path.iterdir() if file.suffix in FILES) if path.is_dir() else [path]
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise DataError(f"{path}: holds {len(files)} task files ({names}); name one of them")
        return files[0]

    def _read(self, results: Any) -> Estimate:
        """The harness's own numbers."""
        (task,) = list(results["groups" if results.get("groups") else "results"])[:1]
        values = results["results"][task]
        key = next((key for key in values if key.split(",")[0] == self.metric), None)
        if key is None:
            known = sorted({key.split(",")[0] for key in values if "," in key and "stderr" not in key})
            raise DataError(f"{self.label}: the task gives no {self.metric}; it gives {', '.join(known) or 'nothing'}")
        error = values.get(key.replace(self.metric, f"{self.metric}_stderr", 1))
        if not isinstance(error, float):
            raise DataError(f"{self.label}: lm-eval gives no standard error; two examples or more would have one")
        hashes = sorted(sample["doc_hash"] for samples in results["samples"].values() for sample in samples)
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
        examples = sum(len({sample["doc_id"] for sample in samples}) for samples in results["samples"].values())
        return Estimate(float(values[key]), error, f"lm-eval task {task}", digest, examples)


def adapter(model: Decoder, progress: Progress) -> Any:
    """A language model as the harness asks it: tokens in, log-likelihoods of continuations out."""
    from lm_eval.api.model import TemplateLM

    tokenizer: Any = read_tokenizer(model.folder)

    class Adapter(TemplateLM):  # type: ignore[misc]  # untyped
        @property
        def eot_token_id(self) -> int:
            return int(tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            tokens: list[int] = tokenizer.encode(string, **options)
            return tokens

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            endings = [
                CutEnding(np.array(context + continuation), len(context), 1) for _, context, continuation in requests
            ]
            ones = np.ones(len(endings), dtype=np.int64)
            data = ChoiceDataset("lm-eval", endings, ones, ones - 1)
            scores = score_endings(model, data, progress, "lm-eval")
            return [
                (float(log_probability), bool(g))
                for log_probability, g in zip(scores.log_probability, scores.greedy, strict=True)
            ]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise DataError("lm_eval: a task of perplexity; Squeeze's own metric perplexity is paired")

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            raise DataError("lm_eval: a task whose answers are generated; one that chooses among answers would do")

    return Adapter()


def _config(file: Path) -> dict[str, Any]:
    """A task file as the harness reads it, with the data that it names looked for beside it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    values: dict[str, Any] = load_yaml(file)
    options = values.get("dataset_kwargs") or {}
    if "data_files" in options:
        values["dataset_kwargs"] = options | {"data_files": _beside(file.parent, options["data_files"])}
    return values


def _beside(folder: Path, files: Any) -> Any:
    if isinstance(files, dict):
        return {key: _beside(folder, value) for key, value in files.items()}
    if isinstance(files, list):
        return [_beside(folder, value) for value in files]
    return str(folder / files) if (folder / str(files)).exists() else files


def _strings(value: Any) -> list[str]:
    """Every text in a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


@contextmanager
def _offline() -> Iterator[None]:
    """What lies on this machine, and nothing else: comparing asks no hub."""
    import datasets.config
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's own log and bars; what goes wrong is raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
