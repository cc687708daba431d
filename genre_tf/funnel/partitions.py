"""Split articles into blocks of neighbours, for a search that examines only a few blocks.

Partitions come from k-means. Large ones are split repeatedly along their widest direction, so that all blocks
have the same size and a search can gather them in one operation.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_CHUNK_ROWS = 16_384  # rows compared with all centres at a time: some 100 MB of distances
_POWER_STEPS = 6  # steps towards the widest direction; an approximate one is enough


@dataclass(frozen=True, kw_only=True)
class PartitionSettings:
    """How a pool is split into partitions and blocks.

    Attributes:
        block: articles per block.
        blocks_a_partition: blocks in a partition of average size.
        sample_a_partition: articles per partition in the sample for k-means.
        rounds: rounds of k-means.
        seed: seed of the sample and the first centres.
    """

    block: int = 128  # 64 kB for vectors of 128 components: large enough to be read at full speed
    blocks_a_partition: int = 4  # the last block is half empty on average: an eighth of the memory
    sample_a_partition: int = 40  # a larger sample hardly moves the centres (FAISS asks for 39)
    rounds: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Searched:
    """The blocks that a search chooses from.

    Attributes:
        blocks: rows of each block.
        probes: number of blocks that a search examines: those whose means are nearest to the reader.
    """

    blocks: list[Rows]
    probes: int


def part_into_blocks(vectors: Vectors, settings: PartitionSettings) -> list[Rows]:
    """Split rows into blocks so that neighbours are in the same block.

    Args:
        vectors: float32 [N, D].
        settings: sizes.

    Returns:
        The rows of each block, at most `settings.block`; every row is in exactly one block.
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
        # A centre without articles moves to a random article, so two centres then share that region.
        centres = sample[random.choice(size, count, replace=False)]
        centres[used] = sums / sizes[:, None]
    return centres


def _nearest(vectors: Vectors, centres: Vectors) -> Rows:
    """The nearest centre of each vector, int64 [N]."""
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
    # The first half consists of full blocks, so that only the last block of a partition has unused space.
    order = rows[np.argsort(place, kind="stable")]
    middle = blocks // 2 * block
    return [*_cut(order[:middle], vectors, block), *_cut(order[middle:], vectors, block)]


def _along_widest_direction(vectors: Vectors) -> Vectors:
    """Coordinates along the direction of greatest variance, by power iteration: float32 [N]."""
    centred = vectors - vectors.mean(axis=0)
    direction = centred[np.argmax((centred**2).sum(axis=1))]
    for _ in range(_POWER_STEPS):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if length == 0:  # all vectors are equal
            break
        direction = direction / length
    return centred @ direction
