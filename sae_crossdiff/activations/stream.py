"""Streaming: harvest in the background, shuffle in a bounded buffer, never touch the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sae_lens.training.mixing_buffer import mixing_buffer
from sae_lens.training.prefetch import PrefetchingIterator
from torch import Tensor

from sae_crossdiff.activations.batches import ActivationBatch
from sae_crossdiff.errors import CrossdiffError


def shuffled_stream(
    start: Callable[[], Iterable[ActivationBatch]],
    batch_size: int,
    buffer_size: int = 65_536,
    prefetch: int = 4,
) -> PrefetchingIterator[Tensor]:
    """Shuffled batches [batch_size, d_in], for ever: `start()` is called again at each epoch's end.

    Tokens mix in a buffer of `buffer_size` tokens, half of which stays at each refill; `prefetch`
    batches are made ahead in a thread. Call `close()` when done. Memory: about twice
    buffer_size * d_in * bytes per value.

    Raises:
        CrossdiffError: the buffer is smaller than two batches, or an epoch yields no full batch.
    """
    if buffer_size < 2 * batch_size:
        raise CrossdiffError(
            f"buffer_size={buffer_size} must be at least twice batch_size={batch_size} to mix"
        )
    return PrefetchingIterator(_epochs(start, batch_size, buffer_size), prefetch=prefetch)


def _epochs(
    start: Callable[[], Iterable[ActivationBatch]], batch_size: int, buffer_size: int
) -> Iterator[Tensor]:
    while True:
        served = 0
        for acts in mixing_buffer(buffer_size, batch_size, (b.acts for b in start())):
            served += 1
            yield acts
        if not served:
            raise CrossdiffError(
                f"the text gave fewer than {batch_size} tokens: the data set is empty or too "
                "small for one batch"
            )
