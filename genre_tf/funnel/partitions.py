"""Articles parted into blocks of neighbours, for a search that looks into few of them.

Partitions come from k-means. A large one is cut along its widest direction, again and again, so that every
block has room for equally many articles: a search then gathers blocks of one size, in one operation.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_CHUNK_ROWS = 16_384  # compared with all centres at a time: some 100 MB of distances
_POWER_STEPS = 6  # towards the widest direction; a cut need not be the best one


@dataclass(frozen=True, kw_only=True)
class PartitionSettings:
    """How a pool is parted.

    Attributes:
        block: articles a block.
        blocks_a_partition: blocks that a partition of usual size fills.
        sample_a_partition: articles that its centre is found from.
        rounds: of k-means.
        seed: of the sample and the first centres.
    """

    block: int = 128  # 64 kB of 128 numbers: long enough to be read at full speed
    blocks_a_partition: int = 4  # the last block of each is half empty: an eighth of the memory
    sample_a_partition: int = 40  # more hardly moves the centres (FAISS asks for 39)
    rounds: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Searched:
    """What a search chooses from.

    Attributes:
        blocks: rows of each.
        probes: of them, how many it looks into: those whose means are nearest to a reader.
    """

    blocks: list[Rows]
    probes: int


def part_into_blocks(vectors: Vectors, settings: PartitionSettings) -> list[Rows]:
    """Part rows so that neighbours come into one block.

    Args:
        vectors: float32 [N, D].
        settings: sizes.

    Returns:
        Rows of each block, at most `settings.block` each; every row is in one block.
    """
    if not len(vectors):
        return []
    count = max(1, len(vectors) // (settings.block * settings.blocks_a_partition))
    nearest = _nearest(vectors, k_means(vectors, count, settings))
    order = np.argsort(nearest, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(nearest, minlength=count))
    partitions = np.split(order, ends[:-1])
    return [block for rows in partitions for block in _cut(rows, vectors, settings.block)]


def k_means(vectors: Vectors, count: int, settings: PartitionSettings) -> Vectors:
    """Centres of a sample of the vectors, by Lloyd's method: float32 [count, D]."""
    random = np.random.default_rng(settings.seed)
    size = min(len(vectors), count * settings.sample_a_partition)
    sample = vectors[np.sort(random.choice(len(vectors), size, replace=False))]
    centres = sample[random.choice(size, count, replace=False)]
    for _ in range(settings.rounds):
        nearest = _nearest(sample, centres)
        order = np.argsort(nearest, kind="stable")
        used, first = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(sample[order], first, axis=0)
        sizes = np.diff(np.append(first, size))
        # A centre without articles moves to the article of a random other one: two then share that region.
        centres = sample[random.choice(size, count, replace=False)]
        centres[used] = sums / sizes[:, None]
    return centres


def _nearest(vectors: Vectors, centres: Vectors) -> Rows:
    """The centre that is nearest to each vector, int64 [N]."""
    halves = (centres**2).sum(axis=1) / 2
    nearest = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        chunk = vectors[start : start + _CHUNK_ROWS]
        nearest[start : start + len(chunk)] = np.argmax(chunk @ centres.T - halves, axis=1)
    return nearest


def _cut(rows: Rows, vectors: Vectors, block: int) -> list[Rows]:
    if len(rows) <= block:
        return [rows] if len(rows) else []
    place = _along_widest_direction(vectors[rows])
    blocks = -(-len(rows) // block)
    # The first part is full blocks, so that only the last block of a partition has room left.
    order = rows[np.argsort(place, kind="stable")]
    middle = blocks // 2 * block
    return [*_cut(order[:middle], vectors, block), *_cut(order[middle:], vectors, block)]


def _along_widest_direction(vectors: Vectors) -> Vectors:
    """Places along the direction in which vectors differ most, by power iteration: float32 [N]."""
    centred = vectors - vectors.mean(axis=0)
    direction = centred[np.argmax((centred**2).sum(axis=1))]
    for _ in range(_POWER_STEPS):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if length == 0:  # all are equal
            break
        direction = direction / length
    return centred @ direction
