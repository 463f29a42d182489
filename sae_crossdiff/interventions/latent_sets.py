"""Sets of latents to intervene on: by verdict, by ranking, and random controls of equal size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sae_crossdiff.errors import CrossdiffError

_NEIGHBOURS = 20


def latent_sets(
    table: pd.DataFrame,
    size: int | None = None,
    draws: int = 5,
    min_active: int = 30,
    seed: int = 0,
) -> dict[str, list[int]]:
    """The sets whose patches are compared, from a latent table.

    verdict                 latents judged chat-specific
    top by Delta, by nu     the `size` first of each ranking (size: as many as chat-specific ones)
    best / worst half by    halves of the latents with at least `min_active` active tokens
    random #i               `size` of those latents, uniformly
    matched #i              for each chat-specific latent (for each of "top by nu", if there are
                            not `size` of them) one that fires about as often

    The ranking by nu is that of arXiv:2504.02922: the sum of the ranks of |nu_error| and
    |nu_reconstruction|, smallest first.

    Raises:
        CrossdiffError: fewer live latents than twice `size`, or no chat-specific latent and no
            `size`.
    """
    live: Any = table[table["active_tokens"] >= min_active]
    specific = live.index[live["verdict"] == "chat-specific"].tolist()
    size = len(specific) if size is None else size
    if size < 1:
        raise CrossdiffError("no latent is judged chat-specific: pass a size for the rankings")
    if len(live) < 2 * size:
        raise CrossdiffError(
            f"{len(live)} latents fire on {min_active} tokens or more, too few for sets of {size}"
        )
    by_delta, by_nu = rank_by_delta(live), rank_by_nu(live)
    sets = {"verdict": specific} if specific else {}
    sets |= {f"top {size} by Δ": by_delta[:size], f"top {size} by ν": by_nu[:size]}
    for name, order in (("Δ", by_delta), ("ν", by_nu)):
        half = len(order) // 2
        sets |= {f"best half by {name}": order[:half], f"worst half by {name}": order[half:]}
    # The controls match what they are compared with: the verdict's latents, if there are `size`.
    alike = specific if len(specific) == size else by_nu[:size]
    chosen = {*specific, *by_nu[:size]}
    for i in range(draws):
        rng = np.random.default_rng([seed, i])
        pool = [j for j in live.index if j not in chosen]
        sets[f"random {size} #{i}"] = rng.choice(pool, size, replace=False).tolist()
        sets[f"matched {size} #{i}"] = matched(live, alike, chosen, rng)
    return sets


def single_latents(table: pd.DataFrame, n: int, min_active: int = 30) -> dict[str, list[int]]:
    """One set ("latent 17") for each of the `n` latents with the highest verdict scores.

    Raises:
        CrossdiffError: a negative `n`.
    """
    if n < 0:
        raise CrossdiffError(f"{n} latents patched one by one: give none (0) or more")
    live: Any = table.loc[table["active_tokens"] >= min_active, "specificity"].dropna()
    order = live.sort_values(ascending=False, kind="stable").index[:n]
    return {f"latent {j}": [int(j)] for j in order}


def rank_by_delta(table: pd.DataFrame) -> list[int]:
    """Latents by relative decoder norm, most chat-sided first."""
    return table["delta"].sort_values(ascending=False, kind="stable").index.tolist()


def rank_by_nu(table: pd.DataFrame) -> list[int]:
    """Latents by the sum of the ranks of |nu_error| and |nu_reconstruction|, smallest first."""
    nus = table[["nu_error", "nu_reconstruction"]].abs()
    ranks = nus.rank(na_option="bottom").sum(axis=1)
    return ranks.sort_values(kind="stable").index.tolist()


def matched(
    table: pd.DataFrame, latents: Sequence[int], excluded: set[int], rng: np.random.Generator
) -> list[int]:
    """For each latent a random one among the twenty nearest in number of active tokens."""
    taken = set(excluded)
    partners = []
    for latent in latents:
        free: Any = table.loc[~table.index.isin(taken), "active_tokens"]
        distance = (free - table.loc[latent, "active_tokens"]).abs()
        nearest = distance.sort_values(kind="stable").index[:_NEIGHBOURS]
        partner = int(rng.choice(nearest))
        taken.add(partner)
        partners.append(partner)
    return partners
