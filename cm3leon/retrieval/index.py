"""Approximate search of a bank's vectors by faiss: an inverted file, of whole vectors or of codes.

"ivf" keeps every vector in its list: as much memory as the vectors. "ivfpq" keeps a code of some
bytes (product quantisation, Jegou et al. 2011) and looks at the vectors of `REFINED` candidates a
result again, on disk: scores are exact, which the strategy's threshold needs. Lists are learned
from a sample; a vector's list and code depend on nothing else, so that indexes of parts, merged in
order, are the index of the whole.

Axes: Q queries, N documents, D width of a vector, K results, C candidates.
"""

from __future__ import annotations

import math
import mmap

import numpy as np

from cm3leon import seeds
from cm3leon.errors import UserError

KINDS = ("exact", "ivf", "ivfpq")
CODE_BYTES = 64  # of a vector of ivfpq, at most
TAUGHT = 64  # vectors of the sample for each list
CODED = 2**16  # vectors of the sample, at least, where there are codes
CENTROIDS = 256  # of a part of a code: a byte
REFINED = 8  # candidates a result whose vectors are looked at again
AT_ONCE = 2**15  # vectors held at once
RECALL_QUERIES, RECALL_AT, RECALL_WANTED = 1000, 10, 0.95
WORTH = 0.005  # recall that twice as many lists must add


def lists_of(count: int) -> int:
    """About 4 sqrt(N) lists, of 40 documents at least."""
    return max(1, min(int(4 * count**0.5), count // 40))


def sample(count: int, kind: str) -> np.ndarray:
    """Rows that an index of `count` documents is learned from, int64, in order."""
    taught = max(TAUGHT * lists_of(count), CODED if kind == "ivfpq" else 0)
    return np.sort(seeds.generator(0, "inverted-file", count).permutation(count)[:taught])


def train(vectors_ND: np.ndarray, count: int, kind: str, code_bytes: int = CODE_BYTES):
    """An empty index for `count` documents, learned from the vectors of a `sample`.

    Raises UserError for codes of fewer than CENTROIDS documents.
    """
    import faiss

    width, lists = vectors_ND.shape[1], lists_of(count)
    coarse, metric = faiss.IndexFlatIP(width), faiss.METRIC_INNER_PRODUCT
    if kind == "ivf":
        index = faiss.IndexIVFFlat(coarse, width, lists, metric)
    else:
        if len(vectors_ND) < CENTROIDS:
            raise UserError(
                f"ivfpq learns {CENTROIDS} centroids and needs as many documents, got {count}; "
                "take --index exact"
            )
        parts = max(one for one in range(1, code_bytes + 1) if width % one == 0)
        index = faiss.IndexIVFPQ(coarse, width, lists, parts, int(math.log2(CENTROIDS)), metric)
        index.pq.cp.min_points_per_centroid = index.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(vectors_ND))
    return index


def add(index, vectors_ND: np.ndarray) -> None:
    """Put documents behind those that an index has."""
    for start in range(0, len(vectors_ND), AT_ONCE):
        index.add(block(vectors_ND, start, start + AT_ONCE))


def coded(index) -> bool:
    """Whether an index keeps codes instead of vectors."""
    import faiss

    return isinstance(faiss.downcast_index(index), faiss.IndexIVFPQ)


def search(
    index, vectors_ND: np.ndarray, queries_QD: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32, rows int64) [Q, count], best first; row -1 where the index ran out."""
    if not coded(index):
        return index.search(queries_QD, count)
    candidates = min(REFINED * count, len(vectors_ND))
    step = max(1, AT_ONCE // candidates)
    found = []
    for start in range(0, len(queries_QD), step):
        asked_QD = queries_QD[start : start + step]
        _, rows_QC = index.search(asked_QD, candidates)
        found.append(_refined(vectors_ND, asked_QD, rows_QC, count))
    scores, rows = zip(*found, strict=True) if found else ([np.empty((0, count), np.float32)], [])
    return np.concatenate(scores), np.concatenate(rows or [np.empty((0, count), np.int64)])


def _refined(
    vectors_ND: np.ndarray, queries_QD: np.ndarray, rows_QC: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best of some candidates by their vectors: (scores, rows) [Q, count]."""
    near_QCD = gather(vectors_ND, np.maximum(rows_QC, 0).ravel()).reshape(*rows_QC.shape, -1)
    scores_QC = np.einsum("qd,qcd->qc", queries_QD, near_QCD)
    scores_QC[rows_QC < 0] = -np.finfo(np.float32).max  # as faiss tells of what is not there
    best_QK = np.argsort(-scores_QC, axis=1, kind="stable")[:, :count]
    return tuple(np.take_along_axis(one, best_QK, 1) for one in (scores_QC, rows_QC))


def tune(index, vectors_ND: np.ndarray, wanted: float = RECALL_WANTED) -> float:
    """Have as many lists searched as the wanted recall at 10 needs, and return what it is.

    Measured on documents of the bank against exact search of all. Of codes, doubling ends where it
    adds less than WORTH: what a code lost no list brings back.
    """
    drawn = seeds.generator(0, "recall", len(vectors_ND)).permutation(len(vectors_ND))
    queries_QD = gather(vectors_ND, np.sort(drawn[:RECALL_QUERIES]))
    count = min(RECALL_AT, len(vectors_ND))
    truth = exact(vectors_ND, queries_QD, count)[1]

    def measured() -> float:
        return recall(search(index, vectors_ND, queries_QD, count)[1], truth)

    index.nprobe = min(8, index.nlist)
    found, before = measured(), -1.0
    while found < wanted and index.nprobe < index.nlist:
        if coded(index) and found - before < WORTH:
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)
        before, found = found, measured()
    return found


def exact(
    vectors_ND: np.ndarray, queries_QD: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, rows) [Q, count] by comparing all vectors; those on disk are read block by block."""
    import faiss

    metric = faiss.METRIC_INNER_PRODUCT
    if not _on_disk(vectors_ND):
        return faiss.knn(queries_QD, vectors_ND, count, metric=metric)
    heap = faiss.ResultHeap(len(queries_QD), count, keep_max=True)
    for start in range(0, len(vectors_ND), 4 * AT_ONCE):
        some = block(vectors_ND, start, start + 4 * AT_ONCE)
        scores, rows = faiss.knn(queries_QD, some, min(count, len(some)), metric=metric)
        heap.add_result(scores, rows + start)
    heap.finalize()
    return heap.D, heap.I


def recall(found_QK: np.ndarray, truth_QK: np.ndarray) -> float:
    """Share of the true neighbours that were found."""
    pairs = zip(found_QK, truth_QK, strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in pairs]))


def gather(vectors_ND: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows; of vectors on disk they are read, as pages of a mapping stay in memory."""
    if not _on_disk(vectors_ND):
        return vectors_ND[rows]
    found = np.empty((len(rows), vectors_ND.shape[1]), vectors_ND.dtype)
    size = found.dtype.itemsize * found.shape[1]
    with open(vectors_ND.filename, "rb", buffering=0) as file:
        for at, row in enumerate(rows.tolist()):
            file.seek(vectors_ND.offset + row * size)
            file.readinto(found[at])
    return found


def block(vectors_ND: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows start .. stop, contiguous; read as by `gather`."""
    stop = min(stop, len(vectors_ND))
    if not _on_disk(vectors_ND):
        return np.ascontiguousarray(vectors_ND[start:stop])
    width = vectors_ND.shape[1]
    offset = vectors_ND.offset + start * width * vectors_ND.dtype.itemsize
    with open(vectors_ND.filename, "rb") as file:
        file.seek(offset)
        return np.fromfile(file, vectors_ND.dtype, (stop - start) * width).reshape(-1, width)


def _on_disk(vectors_ND: np.ndarray) -> bool:
    """Whether an array is a file's, from its first row on."""
    return isinstance(vectors_ND, np.memmap) and isinstance(vectors_ND.base, mmap.mmap)
