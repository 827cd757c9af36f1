"""Pseudo-random permutations whose items are computed one by one.

`permuted(i, n, key)` is item i of a permutation of 0 … n-1. It takes the same time and no memory
for any n, so the order of a text of any size needs no array, and can be entered at any place.
"""

import numpy as np

ROUNDS = 6
FEWEST_BITS = 6  # the cipher mixes fewer bits badly
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Constants of the output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable
# pseudorandom number generators", 2014).
MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hashed(*parts):
    """Hashes integers to one of 64 bits.

    Args:
        *parts: integers or integer arrays, which are broadcast.

    Returns:
        uint64, of the broadcast shape; `[1]` for integers.
    """
    result = np.zeros(1, np.uint64)  # NumPy warns of overflow in scalars, not in arrays
    for part in parts:
        part = np.atleast_1d(np.asarray(part, np.int64)).astype(np.uint64)
        result = _mixed((result ^ part) + GOLDEN)
    return result


def permuted(index, size, key):
    """Items of permutations.

    An item is encrypted within the next power of two, again and again until it is below `size`.
    A round of the cipher multiplies by an odd number and adds the upper bits to the lower ones:
    both can be undone, so different items stay different.

    Args:
        index: integers `[N]`, each at least 0 and below its size.
        size: integers `[N]`, the lengths of the permutations, at most 2⁶².
        key: uint64 `[N]`: which permutation.

    Returns:
        int64 `[N]`, each below its size.
    """
    index, size, key = np.broadcast_arrays(
        np.asarray(index, np.int64), np.asarray(size, np.int64), key
    )
    # The exponent of float64 may be one too large near 2⁵³: then more values are tried again.
    bits = np.frexp(np.maximum(size - 1, 1).astype(np.float64))[1]
    bits = np.maximum(FEWEST_BITS, bits).astype(np.uint64)
    masks = (np.uint64(1) << bits) - np.uint64(1)
    shifts = (bits + np.uint64(1)) >> np.uint64(1)
    result = index.astype(np.uint64)
    left = np.arange(result.size)
    while left.size:
        result[left] = _encrypted(result[left], masks[left], shifts[left], key[left])
        left = left[result[left] >= size[left].astype(np.uint64)]
    return result.astype(np.int64)


def _encrypted(values, masks, shifts, keys):
    for _ in range(ROUNDS):
        keys = _mixed(keys + GOLDEN)
        values = ((values ^ (keys >> np.uint64(7))) & masks) * (keys | np.uint64(1)) & masks
        values ^= values >> shifts
    return values


def _mixed(values):
    values = (values ^ (values >> np.uint64(30))) * MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * MULTIPLIERS[1]
    return values ^ (values >> np.uint64(31))
