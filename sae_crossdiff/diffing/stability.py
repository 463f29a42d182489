"""Do verdicts replicate? Latents of one run matched to those of another."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError

MIN_COSINE = 0.7


class Matches(NamedTuple):
    """`partner` [chosen]: index in the other run; `cosine` [chosen] of the joined decoder rows."""

    partner: NDArray[np.int64]
    cosine: NDArray[np.float64]


class AuditedRun(NamedTuple):
    """A crosscoder and its latent table."""

    crosscoder: Crosscoder
    table: pd.DataFrame


def match_latents(
    chosen: Float[Tensor, "chosen d_in"], others: Float[Tensor, "latents d_in"]
) -> Matches:
    """One partner for each chosen row, no partner twice, with the largest sum of cosines.

    Rows are decoder rows of all models side by side, in training units, so that a chat-only latent
    matches a chat-only one. Hungarian algorithm (scipy).

    Raises:
        CrossdiffError: different widths, or more chosen rows than others.
    """
    if chosen.shape[1] != others.shape[1] or len(chosen) > len(others):
        raise CrossdiffError(
            f"cannot match {len(chosen)} latents of width {chosen.shape[1]} to {len(others)} of "
            f"width {others.shape[1]}: compare crosscoders of one pair and site"
        )
    normal = [torch.nn.functional.normalize(r.detach().float(), dim=-1) for r in (chosen, others)]
    cosines = (normal[0] @ normal[1].T).cpu().numpy()
    rows, partner = linear_sum_assignment(cosines, maximize=True)
    return Matches(partner.astype(np.int64), cosines[rows, partner].astype(np.float64))


def verdict_matches(first: AuditedRun, second: AuditedRun, verdict: str) -> pd.DataFrame:
    """Every latent of `first` with `verdict`, and its partner in `second`.

    Columns: latent, partner, cosine, partner_verdict, nu_error and nu_reconstruction of both.
    """
    chosen = np.flatnonzero((first.table["verdict"] == verdict).to_numpy(dtype=bool))
    decoders = [run.crosscoder.in_training_units().W_dec for run in (first, second)]
    matches = match_latents(decoders[0][chosen], decoders[1])
    theirs = second.table.iloc[matches.partner]
    content = {
        "latent": chosen,
        "partner": matches.partner,
        "cosine": matches.cosine,
        "partner_verdict": theirs["verdict"].to_numpy(),
    }
    for name in ("nu_error", "nu_reconstruction"):
        content[name] = first.table[name].to_numpy()[chosen]
        content[f"partner_{name}"] = theirs[name].to_numpy()
    return pd.DataFrame(content)


def compare_runs(
    runs: Mapping[str, AuditedRun], verdict: str, min_cosine: float = MIN_COSINE
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary per ordered pair of runs, all matches).

    Summary: how many latents have the verdict, how many of them have a partner (cosine at least
    `min_cosine`), how many partners have the same verdict ("replicated"), and how many would by
    chance: latents of the other run drawn at random have it in that share of cases.

    Raises:
        CrossdiffError: fewer than two runs, or runs of different pairs.
    """
    if len(runs) < 2:
        raise CrossdiffError(f"{len(runs)} run: stability compares at least two")
    rows, details = [], []
    for (a, first), (b, second) in permutations(runs.items(), 2):
        found = verdict_matches(first, second, verdict)
        matched = found["cosine"] >= min_cosine
        same = matched & (found["partner_verdict"] == verdict).to_numpy(dtype=bool)
        details.append(found.assign(run=a, other_run=b, replicated=same))
        rows.append(
            {
                "run": a,
                "other_run": b,
                "latents": len(found),
                "matched": int(matched.sum()),
                "replicated": int(same.sum()),
                "by_chance": float((second.table["verdict"] == verdict).mean() * len(found)),
                "median_cosine": float(found["cosine"].median()) if len(found) else float("nan"),
            }
        )
    return pd.DataFrame(rows), pd.concat(details, ignore_index=True)
