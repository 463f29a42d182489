"""How often the intervals hold the truth, measured on planted documents."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_crossdiff.activations import in_order
from sae_crossdiff.diffing import DocumentBlocks, Interval, LatentScaling, ratio_interval
from sae_crossdiff.diffing.blocks import N_BLOCKS
from sae_crossdiff.diffing.refit import RefittedDecoders
from sae_crossdiff.testbeds.other_intervals import bootstrap_interval, jackknife_interval
from sae_crossdiff.testbeds.planted import PlantedConfig, PlantedPair
from sae_crossdiff.testbeds.planted_documents import planted_crosscoder, sample_documents

COUNTS = (5, 15, 30, 60, 120, 300, 800, 100_000)
"""Edges of the bins of active tokens."""
COLUMNS: dict[str, tuple[str, Callable[..., Interval]]] = {
    "nu_error": ("nu_error", ratio_interval),
    "nu_reconstruction": ("nu_reconstruction", ratio_interval),
    "refitted_ratio": ("refitted_ratio", ratio_interval),
    "nu_error, jackknife": ("nu_error", jackknife_interval),
    "nu_error, bootstrap": ("nu_error", bootstrap_interval),
}
"""Column -> quantity and interval; the last two only for comparison."""
# Rates from one token in ten to one in two thousand: most features are rare.
PAIR = PlantedConfig(max_probability=0.1, min_probability=0.0005)


class _Run(NamedTuple):
    active: Tensor
    terms: dict[str, tuple[Tensor, Tensor]]


def measure_coverage(
    n_runs: int = 60,
    n_documents: int = 400,
    seed: int = 1000,
    planted: PlantedPair | None = None,
    tested: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """Coverage of 95 % intervals by number of active tokens: the share that holds the truth.

    `n_runs` data sets of documents of about 64 tokens go through one fixed crosscoder, the planted
    dictionary. The truth of a latent is its value on all of them together, `n_runs` times as much
    data as an interval was made from. Per quantity: "coverage", "bounded" (the share of finite
    intervals) and "width" (the median of those); "cells" counts latents times runs.
    `refitted_ratio` is the squared ratio of the refitted decoders, which `refitted_delta` is made
    of.

    Args:
        tested: [features]; base-only features are left out by default: they have no chat direction.
    """
    planted = planted or PlantedPair(PAIR)
    tested = planted.kinds != "base-only" if tested is None else tested
    runs = [_one_run(planted, n_documents, seed + i) for i in range(n_runs)]
    active = torch.stack([run.active for run in runs]).numpy()[:, tested]
    columns: dict[tuple[str, str], list[float]] = {}
    bins = [(active >= low) & (active < high) for low, high in pairwise(COUNTS)]
    for name, (quantity, interval) in COLUMNS.items():
        terms = [run.terms[quantity] for run in runs]
        # A latent that a data set lacks adds nothing to the truth (and has no interval there).
        sums = [torch.stack([t[i].sum(0).nan_to_num() for t in terms]).sum(0) for i in (0, 1)]
        truth = (sums[0] / sums[1])[torch.from_numpy(tested)].numpy()
        low, high = (
            np.stack(ends)[:, tested]
            for ends in zip(*(interval(a, b) for a, b in terms), strict=True)
        )
        inside = (low <= truth) & (truth <= high)
        finite, width = np.isfinite(high - low), high - low
        columns[name, "coverage"] = [_or_nan(np.mean, inside[b]) for b in bins]
        columns[name, "bounded"] = [_or_nan(np.mean, finite[b]) for b in bins]
        columns[name, "width"] = [_or_nan(np.median, width[b & finite]) for b in bins]
    index = [f"{low} to {high - 1}" for low, high in pairwise(COUNTS)]
    index[-1] = f"from {COUNTS[-2]}"
    table = pd.DataFrame(columns, index=pd.Index(index, name="active tokens"))
    table.insert(0, ("", "cells"), [int(b.sum()) for b in bins])
    return table


def _or_nan(statistic: Callable[..., Any], values: NDArray[Any]) -> float:
    return float(statistic(values)) if len(values) else float("nan")


def _one_run(planted: PlantedPair, n_documents: int, seed: int) -> _Run:
    crosscoder = planted_crosscoder(planted)
    scaling, blocks = LatentScaling(crosscoder, n_blocks=N_BLOCKS), DocumentBlocks()
    refitted = RefittedDecoders.zeros(crosscoder)
    active = torch.zeros(len(planted.kinds))
    for piece in in_order(sample_documents(planted, n_documents, seed)[0], 4096):
        code = crosscoder.encode_sparse(piece.acts)
        reconstruction = crosscoder.decode_sparse(code)
        block = blocks.assign(piece)
        scaling.update(piece.acts, code, reconstruction, block)
        refitted.update(crosscoder, code, piece.acts - reconstruction, block)
        active += torch.bincount(code.latents, minlength=len(active))
    base, chat = refitted.square_terms(crosscoder, scaling)
    terms = {
        "nu_error": scaling.nu_terms("error"),
        "nu_reconstruction": scaling.nu_terms("reconstruction"),
        "refitted_ratio": (base.detach(), chat.detach()),
    }
    return _Run(active, terms)
