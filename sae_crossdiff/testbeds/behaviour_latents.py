"""Which latents mark the behaviours of a pair whose text is labelled.

They are chosen on training documents and scored on held-out ones: choosing and scoring on the same
tokens would flatter them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.diffing import (
    latent_activations,
    most_chat_specific,
    span_aurocs,
    window_aurocs,
)
from sae_crossdiff.testbeds.dialogues import BEHAVIOURS

REPORTED = (
    "nu_error",
    "nu_error_low",
    "nu_error_high",
    "nu_reconstruction",
    "nu_reconstruction_low",
    "nu_reconstruction_high",
    "q_specific",
)
N_UNLABELLED = 2000
MARKS = 0.55
"""A latent belongs to a behaviour's set if its AUROC on training documents is larger."""


def behaviour_latents(
    table: pd.DataFrame,
    crosscoder: Crosscoder,
    training: ActivationBatch,
    held_out: ActivationBatch,
) -> list[dict[str, Any]]:
    """For each behaviour the best of all latents with a verdict score, and the best of those judged
    chat-specific; `rank` is by that score."""
    ranked: list[int] = most_chat_specific(table, len(table)).index.tolist()
    if not ranked:
        return []
    chosen = span_aurocs(crosscoder, training, ranked, BEHAVIOURS, n_unlabelled=N_UNLABELLED)
    specific = table["verdict"] == "chat-specific"
    choices = {"all": chosen, "chat-specific": chosen[specific[chosen.index]]}
    rows = [
        {"behaviour": behaviour, "best_of": name, "latent": int(aurocs[behaviour].idxmax())}
        for behaviour in BEHAVIOURS
        for name, aurocs in choices.items()
        if len(aurocs)
    ]
    latents = [row["latent"] for row in rows]
    scored = span_aurocs(crosscoder, held_out, latents, BEHAVIOURS)
    for i, row in enumerate(rows):
        numbers = table.loc[row["latent"], list(REPORTED)].astype(float).to_dict()
        row |= {
            "rank": ranked.index(row["latent"]) + 1,
            "verdict": str(table.loc[row["latent"], "verdict"]),
            **numbers,
            "auroc": float(scored[row["behaviour"]].iloc[i]),
        }
    return rows


def behaviour_sets(
    table: pd.DataFrame,
    crosscoder: Crosscoder,
    training: ActivationBatch,
    held_out: ActivationBatch,
) -> list[dict[str, Any]]:
    """For each behaviour the chat-specific latents that mark it, and their AUROC together.

    A span's score is the largest f of the set in it, each f over the latent's largest: several
    narrow latents may cover what none of them covers alone. Behaviours without a set are left out.
    """
    specific = table.index[table["verdict"] == "chat-specific"].tolist()
    if not specific:
        return []
    chosen = span_aurocs(crosscoder, training, specific, BEHAVIOURS, n_unlabelled=N_UNLABELLED)
    largest = table.loc[specific, "max_activation"].to_numpy(dtype=np.float32)
    relative = latent_activations(crosscoder, held_out, specific) / largest
    rows = []
    for behaviour in BEHAVIOURS:
        marks = (chosen[behaviour] > MARKS).to_numpy()
        if marks.any():
            together = relative[:, marks].max(axis=1, keepdims=True)
            auroc = float(window_aurocs(together, held_out, [behaviour])[0, 0])
            latents = [j for j, m in zip(specific, marks, strict=True) if m]
            rows.append({"behaviour": behaviour, "latents": latents, "auroc": auroc})
    return rows
