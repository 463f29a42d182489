"""The latent table as columns of a report: what it shows, and in which type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_crossdiff.diffing import VERDICTS
from sae_crossdiff.diffing.norms import BUCKETS
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.reporting.packing import rounded

CATEGORIES = {"verdict": VERDICTS, "bucket": BUCKETS}
COUNTS = ("active_tokens", "twin")
WITH_INTERVAL = (
    "nu_error", "nu_reconstruction", "base_nu_error", "base_nu_reconstruction", "refitted_delta",
)  # fmt: skip
NUMBERS = (
    "delta", "cosine", "norm_base", "norm_chat", "q_specific", "q_null", "mean_activation",
    "max_activation", "template_share", "assistant_share", "chat_share", "twin_cosine",
    "specificity",
)  # fmt: skip
INTRODUCED = ("chat-specific", "base-specific", "shrunk", "decoupled", "base-only")
N_FIRES_ON = 3


def table_arrays(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """The table's columns as float32 (12 bits of mantissa), int32, and uint8 category codes."""
    if not np.array_equal(table.index, np.arange(len(table))):
        raise CrossdiffError("a report needs the whole latent table, one row per latent in order")
    missing = [f"{n}_{e}" for n in WITH_INTERVAL for e in ("low", "high")]
    missing = [n for n in (*missing, *NUMBERS, *COUNTS) if n not in table]
    if missing:
        raise CrossdiffError(
            f"this latent table has no column {missing[0]}: it was made by an older version. Make "
            "it again with `crossdiff table`"
        )
    ends = [f"{name}{end}" for name in WITH_INTERVAL for end in ("", "_low", "_high")]
    return {
        **{
            name: pd.Categorical(table[name], list(kinds)).codes.astype(np.uint8)
            for name, kinds in CATEGORIES.items()
        },
        **{name: table[name].to_numpy(np.int32) for name in COUNTS},
        **{name: rounded(table[name].to_numpy(np.float64)) for name in (*ends, *NUMBERS)},
    }


def by_relevance(table: pd.DataFrame) -> list[int]:
    """Chat-specific latents first, then by verdict score, then by active tokens."""
    keys = pd.DataFrame(
        {
            "introduced": table["verdict"] == "chat-specific",
            "specificity": table["specificity"].fillna(-np.inf),
            "active": table["active_tokens"],
        }
    )
    order = keys.sort_values(list(keys), ascending=False, kind="stable").index
    return [int(j) for j in order]


def fires_on(samples: pd.DataFrame, histograms: pd.DataFrame, n_latents: int) -> NDArray[np.int64]:
    """Ids of the tokens with most of the latent's activation, [latents, 3], -1 where fewer.

    Estimated from the uniform samples of both kinds of text: a sampled token stands for
    (active tokens of that text / sampled ones) tokens of its own activation.
    """
    keys = ["latent", "text"]
    active: Any = histograms.groupby(keys, observed=True)["tokens"].sum()
    drawn: Any = samples.groupby(keys, observed=True).size()
    weight = (active / drawn).rename("weight").reset_index()
    mass = samples.merge(weight, on=keys)
    mass["mass"] = mass["weight"] * mass["activation"]
    total: Any = mass.groupby(["latent", "token"], as_index=False)["mass"].sum()
    total = total.sort_values(["latent", "mass"], ascending=[True, False], kind="stable")
    rank = total.groupby("latent").cumcount()
    found = np.full((n_latents, N_FIRES_ON), -1, dtype=np.int64)
    kept = rank < N_FIRES_ON
    found[total.loc[kept, "latent"], rank[kept]] = total.loc[kept, "token"]
    return found
