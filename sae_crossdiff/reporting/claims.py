"""What `crossdiff reproduce` measured, in a terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.table import Table

CLAIM_HEADINGS = {
    "l0": "L0",
    "chat_only_by_delta": "Δ > .9",
    "of_these_in_base": "in base",
    "of_these_rejected_by_verdict": "caught",
    "chat_specific": "verdict",
    "spearman_delta_nu_error": "ρ(Δ, ν_e)",
    "spearman_delta_nu_reconstruction": "ρ(Δ, ν_r)",
    "made_up_by_point": "null, point",
    "made_up_by_interval": "null, interval",
}


def coverage_table(coverage: pd.DataFrame) -> Table:
    """Coverage of the 95 % intervals, and in brackets the share of intervals that are finite."""
    table = Table(title="Coverage of 95 % intervals (finite)", title_justify="left")
    quantities = list(dict.fromkeys(name for name, _ in coverage.columns if name))
    for name in ("active tokens", "cells", *quantities):
        table.add_column(name)
    for bin_name, row in zip(coverage.index, coverage.to_dict("records"), strict=True):
        shown = [f"{row[q, 'coverage']:.3f} ({row[q, 'bounded']:.2f})" for q in quantities]
        table.add_row(str(bin_name), str(row["", "cells"]), *shown)
    return table


def score_table(scores: pd.DataFrame) -> Table:
    """Precision, recall and AUROC of each flag, mean over seeds."""
    table = Table(title="Flags for chat-specific, against planted truth", title_justify="left")
    for name in ("pair", "crosscoder", "flag", "flagged", "precision", "recall", "AUROC"):
        table.add_column(name)
    keys = ["pair", "architecture", "flag"]
    means: Any = scores.groupby(keys, sort=False)[
        ["flagged", "precision", "recall", "auroc"]
    ].mean()
    for key, row in zip(means.index, means.to_dict("records"), strict=True):
        numbers = (f"{row[n]:.2f}" for n in ("precision", "recall", "auroc"))
        table.add_row(*key, f"{row['flagged']:.1f}", *numbers)  # type: ignore[misc]
    return table


def claim_table(claims: list[dict[str, Any]]) -> Table:
    """The claims, one row per pair, seed and crosscoder."""
    table = Table(
        title="Claims (Δ and ρ: of latents that follow a planted feature)", title_justify="left"
    )
    for name in ("pair", "seed", "crosscoder", *CLAIM_HEADINGS.values(), "shrinkage"):
        table.add_column(name)
    names = list(CLAIM_HEADINGS)
    for claim in claims:
        for name, numbers in claim.items():
            if not isinstance(numbers, dict) or "l0" not in numbers:
                continue
            shown = [f"{v:.2f}" if isinstance(v := numbers[n], float) else str(v) for n in names]
            shrinkage = claim.get("shrinkage") if name == "L1" else None
            condition = "" if shrinkage is None else (
                f"{shrinkage['condition_agreement']:.2f} / "
                f"{shrinkage['auroc_from_batchtopk']:.2f}"
            )  # fmt: skip
            table.add_row(claim["pair"], str(claim["seed"]), name, *shown, condition)
    return table
