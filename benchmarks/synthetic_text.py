"""Text that a model wrote itself beside real text: gptq calibrated on it, and a pruned student taught with it.

    python benchmarks/synthetic_text.py [--real FOLDER] [--bits 3] [--calibration 128] [--steps 250] [--seeds 3]
        [--threads 2]

The model is prose6M. ``real`` is text of the domain that it was trained on, ``written`` what it writes from nothing,
``prompted`` what it writes behind the first eight words of real paragraphs, ``other domain`` is Shakespeare. As many
sequences of each, other ones for each seed. Scored on prose that none has seen and, of another domain again, on
WikiText-2: KL divergence from the original and the next token's loss, differences to ``real`` paired by document with
their 95 % intervals. Above 0: the text serves worse than real text.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _inputs import positive, run
from _teaching import BATCH, CALIBRATE, HELD_OUT, LENGTH, TRAIN, compare, parser_of, prose, score, show

from squeeze.cli.terminal import LineProgress
from squeeze.data.overlap import without_overlap
from squeeze.data.synthesize import SynthesizeData
from squeeze.data.text import TextData
from squeeze.data.token_dataset import TokenDataset
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.passes.quantize.gptq import Gptq
from squeeze.run.written import write_texts
from squeeze.store import Journal

CALIBRATED_ON = ("real", "written", "prompted", "other domain")
TAUGHT_WITH = ("real", "prompted")
PROMPT_WORDS = 8  # of a real paragraph
Make = Callable[[str, int], LanguageModel]  # with the text of that name, drawn or written by that seed


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(options, Path(work))
        print(f"gptq, {options.bits} bits, groups of 64, calibrated on {options.calibration} sequences")
        for seed in range(options.seeds):
            bench.compare_all(CALIBRATED_ON, seed, bench.calibrated)
        print(f"a student of 70 % of the parameters, taught for {options.steps} steps of {BATCH} sequences")
        for seed in range(options.seeds):
            bench.compare_all(TAUGHT_WITH, seed, bench.taught)


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, choices=(2, 3, 4), default=3)
    parser.add_argument("--calibration", type=positive, default=128, help="calibration sequences")
    return parser.parse_args()


class Bench:
    """The original, what all are scored on, and the student that is taught."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.original = LanguageModel(options.real / "models" / "prose6M")
        other = TextData(text=str(options.real / "data" / "text" / "valid.txt"), length=LENGTH, samples=100)
        self.scored = {
            "prose": prose(options.real, HELD_OUT, options.sequences),
            "WikiText-2": other.open(options.real, self.original.folder),
        }
        calibrate = Context(calibration_data=prose(options.real, CALIBRATE, 64), threads=options.threads)
        self.narrow = PruneWidth(parameters="70 %").run(self.original, self.with_journal(calibrate, "narrow"))

    def with_journal(self, context: Context, name: str) -> Context:
        (own := self.folder / name).mkdir()
        context.journal = Journal(own)
        return context

    def compare_all(self, texts: tuple[str, ...], seed: int, make: Make) -> None:
        """The scores of what ``make`` makes with each text, and how far they are from real text's."""
        models = {}
        for text in texts:
            began = time.monotonic()
            models[text] = make(text, seed)
            print(f"seed {seed}, {text} ({time.monotonic() - began:.0f} s)", flush=True)
        for name, data in self.scored.items():
            scores = {text: score(model, self.original, data) for text, model in models.items()}
            for text, values in scores.items():
                show(f"seed {seed}, {name}, {text}", values)
            for text in texts[1:]:
                compare(scores, text, "real", data)

    def calibrated(self, text: str, seed: int) -> LanguageModel:
        data = self.text(text, seed, self.options.calibration)
        context = Context(seed, self.options.threads, calibration_data=data, progress=LineProgress())
        pass_ = Gptq(bits=self.options.bits, group_size=64)
        return pass_.run(self.original, self.with_journal(context, f"calibrated on {text} {seed}"))

    def taught(self, text: str, seed: int) -> LanguageModel:
        data = self.text(text, seed, self.options.steps * BATCH)
        context = Context(seed, self.options.threads, None, data, lambda: LanguageModel(self.original.folder))
        pass_ = Distill(steps=self.options.steps, batch_size=BATCH, learning_rate=self.options.rate)
        return pass_.run(self.narrow, self.with_journal(context, f"taught with {text} {seed}"))

    def text(self, name: str, seed: int, sequences: int) -> TokenDataset:
        """So many sequences, without any that shares a passage with what is scored."""
        if name == "real":
            data = prose(self.options.real, TRAIN, sequences, seed=seed)
        elif name == "other domain":
            file = str(self.options.real / "data" / "text" / "input.txt")
            data = TextData(text=file, length=LENGTH, samples=sequences, seed=seed).open(
                self.options.real, self.original.folder
            )
        else:
            data = self.written(name, seed, sequences)
        for scored in self.scored.values():
            data = without_overlap(data, scored)
        return data

    def written(self, name: str, seed: int, sequences: int) -> TokenDataset:
        (own := self.folder / f"{name} {seed} {sequences}").mkdir()
        prompts = str(self.prompts()) if name == "prompted" else None
        source = SynthesizeData(synthesize=sequences, length=LENGTH, prompts=prompts, seed=seed)
        write_texts(own / "text.jsonl", self.original, source, self.folder, Journal(own), LineProgress())
        return source.text(own / "text.jsonl").open(self.folder, self.original.folder)

    def prompts(self) -> Path:
        """The first words of each paragraph of real text, a line each."""
        file = self.folder / "prompts.txt"
        if not file.is_file():
            lines = (self.options.real / "data" / "prose" / CALIBRATE).read_text().splitlines()
            words = [line.split()[:PROMPT_WORDS] for line in lines]
            whole = [" ".join(some) for some in words if len(some) == PROMPT_WORDS]
            order = np.random.default_rng(0).permutation(len(whole))
            file.write_text("\n".join(whole[number] for number in order) + "\n")
        return file


if __name__ == "__main__":
    run(main)
