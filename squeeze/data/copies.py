"""Documents that say nothing new: copies of earlier ones, with few words changed or none, and those of a few words."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import numpy as np

from squeeze.algorithms.minhash import first_alike, signature
from squeeze.data.grams import Joined
from squeeze.data.select import Select
from squeeze.data.words import words

RUN = 5  # words
ALIKE = 0.8  # share of the runs of two documents that both have
FEWEST_WORDS = 20


def document_reasons(documents: Iterable[str], options: Select) -> np.ndarray:
    """``[n]``: why each document is left out; "": it is not. 512 bytes a document, and one document in memory."""
    reasons: list[str] = []
    digests: set[bytes] = set()
    signatures: list[np.ndarray] = []  # of those that are not left out
    for document in documents:
        spelled = words(document)
        digest = hashlib.blake2b(" ".join(spelled).encode(), digest_size=16).digest()
        reason = ""
        if options.quality != "any" and len(spelled) < FEWEST_WORDS:
            reason = "short"
        elif options.duplicates != "keep" and digest in digests:
            reason = "exact copies"
        digests.add(digest)
        if not reason and options.duplicates == "near":
            signatures.append(signature(_runs(spelled)))
        reasons.append(reason)
    left_out = np.array(reasons, dtype=object)
    if signatures:
        alike = first_alike(np.stack(signatures), ALIKE)
        left_out[np.nonzero(left_out == "")[0][alike != np.arange(len(alike))]] = "near copies"
    return left_out


def _runs(spelled: list[str]) -> np.ndarray:
    """uint64: a hash of each run of five words; of all words, where they are fewer. The same in every process."""
    codes = np.array([zlib.crc32(word.encode()) for word in spelled or [""]], dtype=np.int64)
    *_, runs = Joined([codes]).runs(min(RUN, len(codes)))
    return runs
