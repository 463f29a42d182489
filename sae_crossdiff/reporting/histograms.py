"""How strongly latents fire: histograms in half octaves, per latent and kind of text."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LOWEST, HIGHEST = -16, 24  # powers of two; what lies beyond counts into the last bin there
N_BINS = 2 * (HIGHEST - LOWEST)
TEXTS = ("plain", "chat")


class ActivationHistograms:
    """Counts active tokens per latent and text in bins [2^(i/2), 2^((i+1)/2)).

    Memory: 2 * F * 80 * 4 bytes (F = 73,728: 47 MB).
    """

    def __init__(self, n_latents: int):
        self._counts = np.zeros(len(TEXTS) * n_latents * N_BINS, dtype=np.int32)

    def add(self, groups: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """`groups` [active] = 2 * latent + (0 plain, 1 chat); `values` [active] > 0."""
        bins = np.floor(2 * np.log2(values.astype(np.float64))).astype(np.int64) - 2 * LOWEST
        np.add.at(self._counts, groups * N_BINS + bins.clip(0, N_BINS - 1), 1)

    def frame(self) -> pd.DataFrame:
        """One row per bin that is not empty: `latent`, `text`, `low`, `high`, `tokens`."""
        groups, bins = np.divmod(np.flatnonzero(self._counts), N_BINS)
        ends = 2.0 ** ((np.arange(N_BINS + 1) + 2 * LOWEST) / 2)
        return pd.DataFrame(
            {
                "latent": (groups // len(TEXTS)).astype(np.int32),
                "text": pd.Categorical.from_codes(groups % len(TEXTS), list(TEXTS)),
                "low": ends[bins],
                "high": ends[bins + 1],
                "tokens": self._counts[groups * N_BINS + bins],
            }
        )
