"""How often are copies in disguise found, different texts and pictures taken for copies, and what does looking cost?

    python benchmarks/overlap.py [--real FOLDER]

Texts and pictures that are called different here come from different sources, or from different parts of one; a few of
them are copies in truth, so the shares are upper bounds. Costs are processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from _inputs import Arguments, run
from PIL import Image
from sklearn.datasets import load_digits

from squeeze.data.grams import sharing
from squeeze.data.overlap import FEWEST_WORDS
from squeeze.data.similar_images import Sketch, bound_of, similar_images, sketch
from squeeze.data.similar_texts import similar_texts
from squeeze.data.words import word_hashes

TEXTS = ("text/valid.txt", "text/ptb.valid.txt", "text/input.txt", "prose/calibrate.txt", "prose/evaluate.txt")
LENGTHS = (16, 24, 32, 64, 256)
EXAMPLES = 150  # pictures that are disguised


def pieces(words: np.ndarray, length: int) -> list[list[np.ndarray]]:
    """Examples of that many words."""
    return [[words[start : start + length]] for start in range(0, len(words) - length + 1, length)]


def every_fourth_replaced(examples: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    random = np.random.default_rng(0)
    changed = [[text.copy() for text in example] for example in examples]
    for (text,) in changed:
        text[3::4] = random.integers(2**62, size=len(text[3::4]))
    return changed


def different_texts(texts: dict[str, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every text beside every other, and its second half beside its first."""
    for name, words in texts.items():
        half = len(words) // 2
        yield from ((words[half:], words[:half]) if name == other else (words, texts[other]) for other in texts)


def show_texts(data: Path) -> None:
    texts = {name: word_hashes((data / name).read_text(encoding="utf-8")) for name in TEXTS}
    print(f"texts: {len(texts)} sources, each beside each, {sum(map(len, texts.values())):,} words")
    print(f"{'words':>6} {'examples':>9} {'refused':>9} {'warned of':>10} {'found with every 4th word replaced':>36}")
    for length in LENGTHS:
        pairs = [(pieces(mine, length), [theirs]) for mine, theirs in different_texts(texts)]
        refused = np.concatenate([sharing(mine, theirs, FEWEST_WORDS) for mine, theirs in pairs])
        warned = np.concatenate([similar_texts(mine, theirs) for mine, theirs in pairs])
        copies = [similar_texts(every_fourth_replaced(pieces(words, length)), [words]) for words in texts.values()]
        share_ = np.concatenate(copies).mean()
        print(f"{length:>6} {len(warned):>9,} {refused.mean():>9.3%} {warned.mean():>10.3%} {share_:>36.1%}")
    show_questions(data, texts[TEXTS[0]])


def show_questions(data: Path, wiki: np.ndarray) -> None:
    with (data / "sst2/dev.tsv").open() as dev, (data / "sst2/train.tsv").open() as train:
        sentences, others = ([[word_hashes(row.split("\t")[0])] for row in file] for file in (dev, train))
    lines = [line for file in sorted((data / "blimp").glob("*.jsonl")) for line in file.read_text().splitlines()]
    blimp = [json.loads(line)["sentence_good"] for line in lines]
    for name, mine, theirs in (
        ("SST-2 dev beside train", sentences, [text for (text,) in others]),
        ("BLiMP beside WikiText-2", [[word_hashes(sentence)] for sentence in blimp], [wiki]),
    ):
        print(f"{name}: {similar_texts(mine, theirs).mean():.3%} of {len(mine):,} warned of")


def show_text_cost(data: Path) -> None:
    mine, theirs = ((data / name).read_text(encoding="utf-8") for name in (TEXTS[0], TEXTS[2]))
    size = (len(mine) + len(theirs)) / 1e6
    began = time.process_time()
    one, other = word_hashes(mine), word_hashes(theirs)
    words = time.process_time()
    sharing(pieces(one, 256), [other], FEWEST_WORDS)
    runs = time.process_time()
    similar_texts(pieces(one, 256), [other])
    done = time.process_time()
    parts = [(words - began) / size, (runs - words) / size, (done - runs) / size]
    print("cost: {:.2f} s per MB of text for words, {:.2f} for runs of 13, {:.2f} for runs of 3".format(*parts))


def picture_sets(data: Path) -> Iterator[tuple[str, Sequence[np.ndarray], Sequence[np.ndarray]]]:
    """Name, evaluation and other pictures."""
    digits = np.asarray(load_digits().images * 15, dtype=np.uint8)
    yield "digits 8 x 8", digits[1200:], digits[:1200]
    with np.load(data / "mnist/mnist.npz") as mnist:
        yield "MNIST 28 x 28", mnist["x_test"][:2000], mnist["x_train"][:10000]
    with np.load(data / "cifar10/cifar10_lossless.npz") as cifar:
        yield "CIFAR-10 32 x 32", cifar["x_test"], cifar["x_train"]
    files = sorted((data / "imagenet_sample256").glob("*.jpg"))[:400]
    photographs = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    yield "photographs, short side 256", photographs[:200], photographs[200:]


def jpeg(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    def saved(pixels: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return saved


def one_pixel(pixels: np.ndarray) -> np.ndarray:
    changed = pixels.copy()
    changed[3, 4] = 255 - changed[3, 4]
    return changed


def half_size(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2)))


DISGUISES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG 75": jpeg(75),
    "JPEG 40": jpeg(40),
    "one pixel": one_pixel,
    "mirrored": lambda pixels: pixels[:, ::-1],
    "floats": lambda pixels: pixels.astype(np.float64) / 127.5 - 1,
    "half size": half_size,
}


def show_pictures(name: str, evaluate: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> None:
    began = time.process_time()
    mine, theirs = ([sketch(image) for image in images] for images in (evaluate, others))
    sketched = time.process_time()
    wrong = int((similar_images(mine, theirs) >= 0).sum())
    cost = 1000 * np.array([sketched - began, time.process_time() - sketched]) / (len(mine) + len(theirs))
    print(f"\n{name}: {len(mine):,} beside {len(theirs):,} others: {wrong} warned of", end="; ")
    print(f"closest of different ones {closest(mine, theirs):.3f}, bound {bound_of(mine):.4f}")
    print("  found: " + ", ".join(f"{kind} {share(evaluate, mine, kind):.0%}" for kind in DISGUISES))
    print("  cost: {:.2f} s per 1,000 pictures for sketches, {:.2f} for the search".format(*cost))


def closest(mine: list[Sketch], theirs: list[Sketch]) -> float:
    """The highest correlation of two thumbnails, or of one with the mirror image of the other."""
    one, other = (np.array([one.look for one in sketches]) for sketches in (mine, theirs))
    flat = other.reshape(len(other), -1).T
    return max(float((looks.reshape(len(looks), -1) @ flat).max()) for looks in (one, one[:, :, ::-1]))


def share(evaluate: Sequence[np.ndarray], mine: list[Sketch], kind: str) -> float:
    """Of copies in that disguise, how many are found as what they are."""
    copies = [sketch(DISGUISES[kind](image)) for image in evaluate[:EXAMPLES]]
    twins = similar_images(mine, copies)[: len(copies)]
    return float((twins == np.arange(len(copies))).mean())


def main() -> None:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_real()
    data = parser.parse_args().real / "data"
    show_texts(data)
    show_text_cost(data)
    for name, evaluate, others in picture_sets(data):
        show_pictures(name, evaluate, others)


if __name__ == "__main__":
    run(main)
