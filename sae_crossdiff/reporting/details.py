"""What the report knows of single latents: examples, histograms, lens, neighbours, betas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sae_crossdiff.diffing import TARGETS
from sae_crossdiff.reporting.figures import bin_counts
from sae_crossdiff.reporting.lens import TopTokens
from sae_crossdiff.reporting.neighbours import Neighbours


class TokenTable:
    """Texts that occur many times, stored once: `number(id)` is a token's place in `texts`."""

    def __init__(self, texts: Mapping[int, str]):
        self._all = texts
        self._numbers: dict[int, int] = {}
        self.texts: list[str] = []

    def number(self, token: int) -> int:
        """-1 stays -1: no token."""
        if token < 0:
            return -1
        if token not in self._numbers:
            self._numbers[token] = len(self.texts)
            self.texts.append(self._all[token])
        return self._numbers[token]


def latent_details(
    latents: Sequence[int],
    table: pd.DataFrame,
    examples: pd.DataFrame,
    histograms: pd.DataFrame,
    neighbours: Neighbours,
    lenses: Mapping[str, TopTokens],
    tokens: TokenTable,
) -> dict[str, Any]:
    """latent (as text) -> its details, JSON-able; tokens are numbers of `tokens`."""
    details: dict[str, Any] = {
        str(latent): {
            "examples": [],
            "neighbours": [
                [int(j), round(float(c), 3)]
                for j, c in zip(neighbours.latents[i], neighbours.cosines[i], strict=True)
            ],
            "lens": {name: _lens(lens, i, tokens) for name, lens in lenses.items()},
            "betas": _betas(table.loc[latent]),
        }
        for i, latent in enumerate(latents)
    }
    for example in examples.to_dict("records"):
        details[str(example["latent"])]["examples"].append(_example(example, tokens))
    by_latent: dict[Any, Any] = dict(iter(histograms.groupby("latent")))
    for latent in latents:
        histogram = by_latent.get(latent, histograms.iloc[:0])
        details[str(latent)]["histogram"] = bin_counts(histogram)
    return details


def _example(example: Mapping[str, Any], tokens: TokenTable) -> dict[str, Any]:
    return {
        "text": example["text"],
        "bin": int(example["bin"]),
        "f": _short(example["activation"]),
        "document": int(example["document"]),
        "position": int(example["position"]),
        "peak": int(example["peak"]),
        "tokens": [tokens.number(int(t)) for t in example["tokens"]],
        "acts": [_short(a) for a in example["activations"]],
    }


def _lens(lens: TopTokens, i: int, tokens: TokenTable) -> list[list[Any]]:
    pairs = zip(lens.ids[i], lens.logits[i], strict=True)
    # Logits of a zero direction are NaN for some norms; they say nothing.
    return [[tokens.number(int(t)), _short(x)] for t, x in pairs if np.isfinite(x)]


def _betas(row: pd.Series) -> list[list[Any]]:
    def value(name: str) -> float | None:
        number = float(row.to_dict()[name])
        return _short(number) if np.isfinite(number) else None

    return [[t, value(f"beta_{t}_base"), value(f"beta_{t}_chat")] for t in TARGETS]


def _short(value: float) -> float:
    """Three significant digits are what a reader sees; 0 stays the short 0."""
    return float(f"{value:.3g}") if value else 0
