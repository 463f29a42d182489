"""The best few entries of each of many groups, from a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Payload = Callable[[NDArray[np.int64]], Mapping[str, NDArray[np.generic]]]


class TopPerGroup:
    """Keeps the `n` entries with the highest scores in every group, each with a payload.

    Within a group no two kept entries share a key; of those that do, the best stays. Of equal
    scores the earlier stays. Memory is fixed from the start: n_groups * n slots.

    Args:
        empty: payload name -> array of what an empty slot holds (its shape and dtype count).
    """

    def __init__(self, n_groups: int, n: int, empty: Mapping[str, NDArray[np.generic]]):
        self.n = n
        self.scores = np.full((n_groups, n), -np.inf)
        self.keys = np.full((n_groups, n), -1, dtype=np.int64)
        self.payload = {
            name: np.broadcast_to(value, (n_groups, n, *value.shape)).copy()
            for name, value in empty.items()
        }

    def offer(
        self,
        groups: NDArray[np.int64],
        scores: NDArray[np.float64],
        keys: NDArray[np.int64],
        payload: Payload,
    ) -> None:
        """Offer entries (group, score, key); `payload(indices)` makes that of the accepted ones."""
        offered = np.flatnonzero(scores > self.scores[groups, -1])
        if not len(offered):
            return
        affected, place = np.unique(groups[offered], return_inverse=True)
        # Candidates: first the slots of the affected groups, then what is offered.
        n_slots = len(affected) * self.n
        place = np.concatenate([np.repeat(np.arange(len(affected)), self.n), place])
        score = np.concatenate([self.scores[affected].ravel(), scores[offered]])
        key = np.concatenate([self.keys[affected].ravel(), keys[offered]])
        chosen = _best_of_each_key(place, score, key)
        rank = np.arange(len(chosen)) - np.searchsorted(place[chosen], place[chosen])
        chosen, rank = chosen[rank < self.n], rank[rank < self.n]
        to = place[chosen], rank
        new = chosen >= n_slots
        made = payload(offered[chosen[new] - n_slots])
        old = np.divmod(chosen[~new], self.n)
        for name, slots in self.payload.items():
            block = slots[affected]
            before = block[old]
            block[to[0][~new], to[1][~new]] = before
            block[to[0][new], to[1][new]] = made[name]
            slots[affected] = block
        for values, slots, nothing in ((score, self.scores, -np.inf), (key, self.keys, -1)):
            block = np.full((len(affected), self.n), nothing, dtype=slots.dtype)
            block[to] = values[chosen]
            slots[affected] = block

    @property
    def filled(self) -> NDArray[np.bool_]:
        """Which slots hold an entry, [n_groups, n]; the others' payload means nothing."""
        return np.isfinite(self.scores)


def _best_of_each_key(
    place: NDArray[np.int64], score: NDArray[np.float64], key: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Indices sorted by place, then by falling score, without the lesser ones of a key."""
    order = np.lexsort((-score, key, place))
    repeated = (np.diff(place[order]) == 0) & (np.diff(key[order]) == 0)
    order = order[np.concatenate([[True], ~repeated])]
    order = order[np.isfinite(score[order])]
    return order[np.lexsort((-score[order], place[order]))]
