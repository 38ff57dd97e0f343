"""Which masks are evaluated before anything is known: single layers, pairs, and random ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

Masks = npt.NDArray[np.bool_]


def one_layer_masks(layers: int) -> Masks:
    """[layers, layers]: mask i has layer i only."""
    return np.eye(layers, dtype=bool)


def two_layer_masks(layers: int, most: int | None = None, seed: int = 0) -> Masks:
    """All pairs in order, or `most` of them by chance."""
    pairs = np.array(list(combinations(range(layers), 2)), np.intp).reshape(-1, 2)
    if most is not None and len(pairs) > most:
        pairs = pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), most, replace=False))]
    one = one_layer_masks(layers)
    return one[pairs[:, 0]] | one[pairs[:, 1]]


def random_masks(layers: int, count: int, seed: int = 0) -> Masks:
    """`count` different masks of three layers and more, every number of layers equally likely; fewer if there are."""
    random = np.random.default_rng(seed)
    lowest = min(3, layers)
    known: dict[bytes, npt.NDArray[np.bool_]] = {}
    for _ in range(50 * count):
        if len(known) == count:
            break
        mask = np.zeros(layers, bool)
        mask[random.permutation(layers)[: random.integers(lowest, layers + 1)]] = True
        known.setdefault(mask.tobytes(), mask)
    return np.stack(list(known.values())) if known else np.empty((0, layers), bool)


def start_masks(layers: int, pairs: int | None, samples: int, seed: int = 0) -> Masks:
    """Nothing, everything, single layers, pairs (all if None) and `samples` random masks, each once."""
    ends = np.stack([np.zeros(layers, bool), np.ones(layers, bool)])
    parts = (ends, one_layer_masks(layers), two_layer_masks(layers, pairs, seed), random_masks(layers, samples, seed))
    return np.unique(np.concatenate(parts), axis=0)
