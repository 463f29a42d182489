"""How well each flag for "chat-specific" tells the truth on a planted pair."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_crossdiff.diffing import VerdictThresholds, auroc
from sae_crossdiff.testbeds.planted import CHAT_SPECIFIC, PlantedPair
from sae_crossdiff.testbeds.planted_training import PlantedRun

MIN_CORRELATION = 0.5


def flag_scores(planted: PlantedPair, run: PlantedRun) -> pd.DataFrame:
    """Precision, recall and AUROC per flag (rows), over latents that follow a feature.

    A latent is truly chat-specific if, where it fires, the base has less of its feature than the
    threshold of nu_error (`PlantedRun.base_share`). Recall is over planted chat-specific features:
    a feature counts as found if a flagged latent follows it, so one that no latent learnt is lost.
    Latents on fewer than `min_active` tokens, or without a feature that they follow (correlation
    above 0.5), are left out.
    """
    thresholds = VerdictThresholds()
    firing = (run.table["active_tokens"] >= thresholds.min_active).to_numpy()
    scored = firing & (run.correlation > MIN_CORRELATION)
    truth = run.base_share < thresholds.nu_error
    wanted = np.flatnonzero(np.isin(planted.kinds, CHAT_SPECIFIC))
    rows = {}
    nothing = np.zeros(len(run.table), dtype=bool)  # the mean difference ranks, it has no threshold
    raised = {**flags(run.table, thresholds), "mean difference": (run.drift, nothing)}
    for name, (score, flagged) in raised.items():
        flagged = flagged & scored
        found = np.intersect1d(run.feature[flagged & truth], wanted)
        rows[name] = {
            "flagged": int(flagged.sum()),
            "precision": float(truth[flagged].mean()) if flagged.any() else float("nan"),
            "recall": len(found) / len(wanted) if len(wanted) else float("nan"),
            "auroc": auroc(score[scored].astype(np.float32), truth[scored]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("flag")


def flags(
    table: pd.DataFrame, thresholds: VerdictThresholds
) -> Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Flag -> (score, larger is more specific; whether it is raised), each [latents]."""
    limits = {"error": thresholds.nu_error, "reconstruction": thresholds.nu_reconstruction}
    point, worst = {}, {}
    for target, limit in limits.items():
        name = f"nu_{target}"
        farther = np.maximum(*(_column(table, f"{name}_{e}", np.abs) for e in ("low", "high")))
        point[target] = 1 - _column(table, name, np.abs) / limit
        worst[target] = 1 - farther / limit
    delta = table["delta"].fillna(0).to_numpy()
    both = np.minimum(point["error"], point["reconstruction"])
    bounds = np.minimum(worst["error"], worst["reconstruction"])
    specific = (table["verdict"] == "chat-specific").to_numpy(dtype=bool)
    return {
        "Δ > 0.9": (delta, delta > 0.9),
        "ν_error": (point["error"], point["error"] > 0),
        "ν_reconstruction": (point["reconstruction"], point["reconstruction"] > 0),
        "both ν": (both, both > 0),
        "both ν, intervals": (bounds, bounds > 0),
        "verdict": (1 - _column(table, "p_specific"), specific),
    }


def _column(table: pd.DataFrame, name: str, function=np.asarray) -> NDArray[np.float64]:
    """A column through `function`; latents without a value rank last."""
    worst = 1.0 if name.startswith("p_") else 1e6
    return np.minimum(np.nan_to_num(function(table[name].to_numpy()), nan=worst), 1e6)
