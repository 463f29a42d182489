"""Chosen latents and sets of latents, where it is known what each of them marks."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from sae_crossdiff import Crosscoder, CrosscoderConfig
from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.testbeds.behaviour_latents import REPORTED, behaviour_latents, behaviour_sets
from sae_crossdiff.testbeds.dialogues import BEHAVIOURS

N = 400
SPAN = torch.arange(N) % 10 < 2  # two tokens in ten, one span per document


def reader() -> Crosscoder:
    """Latent j is coordinate j of the chat model."""
    crosscoder = Crosscoder(CrosscoderConfig(d_in=8, d_sae=4))
    with torch.no_grad():
        crosscoder.W_enc.copy_(torch.cat([torch.zeros(4, 4), torch.eye(4)]))
        for parameter in (crosscoder.b_enc, crosscoder.threshold, crosscoder.b_dec):
            parameter.zero_()
    return crosscoder


def tokens(span: torch.Tensor) -> ActivationBatch:
    """Latents 0 and 1 fire on every other span each, latent 2 on all of them, latent 3 on none."""
    index, odd = torch.arange(N), torch.arange(N) // 10 % 2 == 1
    f = torch.stack([span & odd, span & ~odd, span, ~span], dim=-1).float()
    f = f * torch.tensor([1.0, 50, 1, 1])
    f[index % 10 == 5, 1] = 5.0  # weak for latent 1, but more than latent 0 ever has
    acts = torch.cat([torch.zeros(N, 4), f], dim=-1)
    masks = {str(behaviour): span for behaviour in BEHAVIOURS}
    return ActivationBatch(acts, index, index % 10, index // 10, masks)


def test_a_set_covers_what_its_latents_cover_together() -> None:
    table = pd.DataFrame(
        {
            "verdict": ["chat-specific", "chat-specific", "shared", "chat-specific"],
            "specificity": [0.1, 0.9, -1.0, 0.5],
            "max_activation": [1.0, 50, 1, 1],
            **dict.fromkeys(REPORTED, 0.0),
        }
    )
    batch = tokens(SPAN)
    rows = behaviour_latents(table, reader(), batch, batch)
    shown = [(row["best_of"], row["latent"], row["rank"], row["auroc"]) for row in rows[:2]]
    assert shown == [("all", 2, 4, 1.0), ("chat-specific", 0, 3, pytest.approx(0.75))]
    sets = behaviour_sets(table, reader(), batch, batch)
    assert [row["behaviour"] for row in sets] == list(BEHAVIOURS)
    assert all(row["latents"] == [0, 1] and row["auroc"] == 1.0 for row in sets)
    assert behaviour_sets(table.assign(verdict="shared"), reader(), batch, batch) == []
