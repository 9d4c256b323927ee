"""Domains from texts: TF-IDF or sentence embeddings, then k-means. Every step is seeded, and linear in the texts.

The model of the texts is fitted on a seeded sample of at most FITTED of them; each text is then assigned on its own.
TF-IDF vectors are projected on their main components (latent semantic analysis: Deerwester et al. 1990).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from data_process.schema import DataError
from data_process.seeds import seed_for

if TYPE_CHECKING:
    import numpy as np

FITTED = 10_000  # texts
WORDS = 5_000  # most frequent words that count
COMPONENTS = 48
AT_ONCE = 2_000  # texts
ROUNDS = 30  # of k-means
TYPICAL = 3  # words in the name of a cluster
_WORD = re.compile(r"[^\W\d_]{2,}")  # numbers tell problems apart, not domains
Embed = Callable[[Sequence[str]], "np.ndarray"]  # texts -> (texts, dimensions)


def cluster(texts: Sequence[str], k: int, seed: int, embed: Embed | None = None) -> list[str]:
    """The domain of each text: the number of its cluster and its typical words, "3 triangle angle side".

    `embed` makes vectors of unit length; None: TF-IDF. DataError for fewer texts, or different texts, than clusters.
    """
    import numpy as np
    from scipy.cluster.vq import kmeans2

    if len(texts) < k:
        raise DataError(f"{len(texts)} texts cannot form {k} clusters; lower domain.clusters")
    sample = sorted(Random(seed_for(seed, "clusters", k)).sample(range(len(texts)), min(len(texts), FITTED)))
    fitted = [texts[i] for i in sample]
    embed = embed or tfidf(fitted, seed)
    vectors = np.vstack([embed(part) for part in _parts(fitted)])
    start = _spread_out(vectors, k, np.random.default_rng(seed_for(seed, "k-means", k)))
    centres, _ = kmeans2(vectors, start, iter=ROUNDS, minit="matrix", missing="warn")
    labels: list[int] = []
    for part in _parts(texts):
        # Squared distances without the texts' own norms, which do not change which centre is nearest.
        distances = (centres**2).sum(1) - 2 * embed(part) @ centres.T
        labels += distances.argmin(1).tolist()
    names = _names([labels[i] for i in sample], fitted)
    return [names.get(label, str(label)) for label in labels]


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE))


def _spread_out(vectors: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """First centres by k-means++ (Arthur and Vassilvitskii 2007): each far from the others, by squared distance."""
    import numpy as np

    chosen = [int(rng.integers(len(vectors)))]
    nearest = ((vectors - vectors[chosen[0]]) ** 2).sum(1)
    while len(chosen) < k:
        total = nearest.sum()
        if total <= 1e-9:
            raise DataError(f"the texts have only {len(chosen)} different forms; lower domain.clusters")
        chosen.append(min(int(np.searchsorted(np.cumsum(nearest), rng.random() * total)), len(vectors) - 1))
        nearest = np.minimum(nearest, ((vectors - vectors[chosen[-1]]) ** 2).sum(1))
    return vectors[chosen]


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def tfidf(texts: Sequence[str], seed: int) -> Embed:
    """Unit vectors of the words of a text, weighed by how rare they are in `texts`, in their main components."""
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    documents = Counter(word for text in texts for word in set(_words(text)))
    common = sorted(documents, key=lambda word: (-documents[word], word))[:WORDS]
    if not common:
        raise DataError("the questions have no words to cluster by; take another domain.of, or another policy")
    column = {word: k for k, word in enumerate(common)}
    idf = np.array([np.log((1 + len(texts)) / (1 + documents[word])) + 1 for word in common])

    def rows(part: Sequence[str]) -> Any:
        data: list[float] = []
        places: list[int] = []
        starts = [0]
        for text in part:
            counts = Counter(column[word] for word in _words(text) if word in column)
            places += counts
            data += [(1 + np.log(n)) * idf[place] for place, n in counts.items()]
            starts.append(len(places))
        shape = (len(part), len(common))
        return csr_array((np.array(data, dtype=float), np.array(places, dtype=int), np.array(starts)), shape=shape)

    matrix = rows(texts)
    components = min(COMPONENTS, min(matrix.shape) - 1)
    if components < 1:
        return lambda part: _unit(rows(part).toarray())
    start = np.random.default_rng(seed_for(seed, "components")).standard_normal(min(matrix.shape))
    directions = svds(matrix, k=components, v0=start)[2].T
    return lambda part: _unit(np.asarray(rows(part) @ directions))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one; zero rows stay."""
    import numpy as np

    norms = np.sqrt((vectors**2).sum(1))
    return np.asarray(vectors * np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 1e-12)[:, None])


def _names(labels: Sequence[int], texts: Sequence[str]) -> dict[int, str]:
    """A name for each cluster: the words that are more frequent in it than elsewhere."""
    inside: dict[int, Counter[str]] = {}
    everywhere: Counter[str] = Counter()
    for label, text in zip(labels, texts, strict=True):
        found = set(_words(text))
        inside.setdefault(label, Counter()).update(found)
        everywhere.update(found)
    sizes = Counter(labels)
    names = {}
    for label, counts in inside.items():
        # The share of the cluster that has the word, times the share of the word that is in the cluster.
        scores = {word: n * n / (sizes[label] * everywhere[word]) for word, n in counts.items()}
        typical = sorted(scores, key=lambda word: (-scores[word], word))[:TYPICAL]
        names[label] = " ".join((str(label), *typical))
    return names
