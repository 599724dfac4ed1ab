"""The sequences of a text on a disk, each with the reason why it is left out, if there is one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from squeeze.data.cut import Cut, CutSequence, decoder
from squeeze.data.token_dataset import TokenDataset


class Candidates:
    """Tokens lie in a file, 8 bytes each; what is in memory takes 24 bytes a sequence.

    Args:
        documents: Why each document is left out; "": it is not.
        file: Where tokens are written.

    ``reasons`` ``[n]`` says the same of each sequence.
    """

    def __init__(self, cut: Cut, documents: np.ndarray, file: Path) -> None:
        self.cut = cut
        begins: list[int] = []
        sizes: list[int] = []
        reasons: list[str] = []
        with file.open("wb") as stream:
            for one in cut:
                stream.write(one.tokens.tobytes())
                begins.append(int(one.documents[0]))
                sizes.append(one.size_bytes)
                reasons.append(_reason(one, documents))
        self.documents, self.sizes = np.array(begins), np.array(sizes)
        self.reasons = np.array(reasons, dtype=object)
        shape = (len(begins), cut.length)
        self.tokens = np.memmap(file, np.int64, "r", shape=shape) if len(begins) else np.empty(shape, np.int64)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def passing(self) -> np.ndarray:
        """Numbers of those that are not left out."""
        return np.nonzero(self.reasons == "")[0]

    def leave_out(self, which: np.ndarray, reason: str) -> None:
        self.reasons[which] = reason

    def texts(self, which: np.ndarray) -> list[str]:
        return decoder(self.cut.tokenizer)(list(self.tokens[which]))

    def dataset(self, which: np.ndarray, name: str) -> TokenDataset:
        """These numbers; their tokens stay where they are."""
        sizes = self.sizes[which] if self.cut.sized else None
        tokens = self.tokens if len(which) == len(self) else self.tokens[which]
        return TokenDataset(name, tokens, self.documents[which], decoder(self.cut.tokenizer), sizes)

    def counts(self) -> dict[str, int]:
        """How many are left out for each reason."""
        return {reason: count for reason, count in Counter(self.reasons.tolist()).items() if reason}


def _reason(sequence: CutSequence, documents: np.ndarray) -> str:
    """That of most of its tokens."""
    ((reason, _),) = Counter(documents[sequence.documents].tolist()).most_common(1)
    return str(reason)
