"""Texts as vectors by the words that they are of: no model is asked.

Hashed counts of words and of pairs of words, weighted by how rare each is, brought to 64 numbers by the directions in
which a sample of them differs most (Deerwester et al., 1990, https://doi.org/10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

WIDTH = 64
HASHED = 2**14  # words and pairs share so many places
SAMPLE = 4096  # texts that weights and directions are learnt from
TOGETHER = 512  # texts in memory


def text_vectors(count: int, texts: Callable[[np.ndarray], list[str]], seed: int) -> np.ndarray:
    """float32 ``[count, width]`` of length 1; ``width`` is 64, or less where there are fewer texts.

    Args:
        texts: Those with the numbers that it is given.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    counts = HashingVectorizer(ngram_range=(1, 2), n_features=HASHED, alternate_sign=False, norm=None)
    width = min(WIDTH, count - 1)
    if width < 1:
        return np.ones((count, 1), np.float32)
    steps = make_pipeline(
        counts, TfidfTransformer(sublinear_tf=True), TruncatedSVD(width, random_state=seed), Normalizer()
    )
    sample = np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLE])
    with threadpool_limits(1):  # the same sums everywhere
        steps.fit(texts(sample))
        parts = [np.arange(count)[start : start + TOGETHER] for start in range(0, count, TOGETHER)]
        return np.concatenate([steps.transform(texts(part)).astype(np.float32) for part in parts])
