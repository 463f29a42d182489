"""Null hypotheses: calibrated where they hold, rejected where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_crossdiff import latent_table
from sae_crossdiff.activations import in_order
from sae_crossdiff.diffing.blocks import DocumentBlocks
from sae_crossdiff.diffing.intervals import p_below
from sae_crossdiff.diffing.latent_scaling import LatentScaling
from sae_crossdiff.diffing.nulls import (
    empirical_p,
    least_beta,
    null_directions,
    p_against_nulls,
    q_values,
)
from sae_crossdiff.testbeds.planted import PlantedPair
from sae_crossdiff.testbeds.planted_documents import planted_crosscoder, sample_documents

PLANTED = PlantedPair()
CROSSCODER = planted_crosscoder(PLANTED)


@pytest.fixture(scope="module")
def scaling() -> LatentScaling:
    """The planted crosscoder on 800 documents, with a second set of made-up latents."""
    again = {f"second {n}": rows for n, rows in null_directions(CROSSCODER, seed=5).items()}
    nulls = {**null_directions(CROSSCODER), **again}
    scaling, blocks = LatentScaling(CROSSCODER, n_blocks=32, nulls=nulls), DocumentBlocks(32)
    for piece in in_order(sample_documents(PLANTED, 800, seed=11)[0], 4096):
        code = CROSSCODER.encode_sparse(piece.acts)
        scaling.update(piece.acts, code, CROSSCODER.decode_sparse(code), blocks.assign(piece))
    return scaling


def test_made_up_directions_keep_norms_and_belong_to_another_latent() -> None:
    chat = PLANTED.chat
    nulls = null_directions(CROSSCODER)
    torch.testing.assert_close(nulls["random"].norm(dim=-1), chat.norm(dim=-1))
    torch.testing.assert_close(nulls["permuted"].sort(dim=0).values, chat.sort(dim=0).values)
    nonzero = chat.norm(dim=-1) > 0
    assert not (nulls["permuted"] == chat)[nonzero].all(dim=-1).any()
    cosine = torch.nn.functional.cosine_similarity(nulls["random"], chat)[nonzero]
    assert float(cosine.abs().mean()) < 0.15  # sqrt(2 / (pi * 64)) = 0.1


def test_p_null_is_uniform_for_made_up_latents_and_small_for_real_ones(
    scaling: LatentScaling,
) -> None:
    for kind in ("random", "permuted"):
        held_out, null = (least_beta(scaling, name) for name in (f"second {kind}", kind))
        p = empirical_p(held_out, null)
        p = p[~np.isnan(p)]
        assert len(p) > 150
        for level in (0.1, 0.5, 0.9):  # 3 standard deviations of a share of 200 and of the null
            assert np.mean(p <= level) == pytest.approx(level, abs=0.12)
    real = p_against_nulls(scaling)
    assert np.isnan(real).sum() == (PLANTED.kinds == "base-only").sum()  # no chat direction
    q = q_values(real)[PLANTED.kinds != "base-only"]
    assert np.mean(q < 0.05) > 0.95


def test_p_specific_is_uniform_at_the_threshold() -> None:
    """Where nu is exactly the threshold, 5 % of the latents have p < 0.05."""
    runs = []
    for seed in range(8):
        scaling, blocks = LatentScaling(CROSSCODER, n_blocks=32), DocumentBlocks(32)
        for piece in in_order(sample_documents(PLANTED, 400, seed)[0], 4096):
            code = CROSSCODER.encode_sparse(piece.acts)
            scaling.update(piece.acts, code, CROSSCODER.decode_sparse(code), blocks.assign(piece))
        runs.append(scaling.nu_terms("reconstruction"))
    truth = sum(other.sum(0) for other, _ in runs) / sum(own.sum(0) for _, own in runs)
    tested = PLANTED.kinds != "base-only"
    p = np.concatenate([p_below(o - truth * own, own, 0.0)[tested] for o, own in runs])
    for level, slack in ((0.05, 0.02), (0.5, 0.05)):
        assert np.mean(p < level) == pytest.approx(level, abs=slack)


def test_the_table_says_what_chance_would_have_passed() -> None:
    tokens, _ = sample_documents(PLANTED, 800, seed=11)
    table = latent_table(CROSSCODER, in_order(tokens, 4096))
    chat_only = PLANTED.kinds == "chat-only"
    specific = (table["verdict"] == "chat-specific").to_numpy()
    assert specific[chat_only].mean() > 0.25  # the rest is undecided on so few documents
    assert set(table.loc[chat_only, "verdict"]) == {"chat-specific", "undecided"}
    assert not specific[~chat_only].any()
    assert (table.loc[specific, "p_specific"] < 0.025).all()
    assert not (table["q_specific"] < table["p_specific"]).any()
    assert (table.loc[~chat_only & (PLANTED.kinds != "base-only"), "p_specific"] > 0.5).mean() > 0.9
    for name in ("random", "permuted"):
        counts = table.attrs["nulls"][name]
        assert counts["tested"] == (table["active_tokens"] >= 30).sum()
        assert counts["by_interval"] <= 0.02 * counts["tested"]
        assert counts["by_interval"] <= counts["by_point"]


def test_q_values_leave_out_latents_without_a_test() -> None:
    q = q_values(np.array([0.01, np.nan, 0.02, 0.9]))
    assert np.isnan(q[1])
    np.testing.assert_allclose(q[[0, 2, 3]], [0.03, 0.03, 0.9])
    assert np.isnan(q_values(np.full(3, np.nan))).all()
    assert empirical_p(np.array([2.0, np.nan, -9.0]), np.array([1.0, 3.0, np.nan])).tolist()[
        ::2
    ] == [2 / 3, 1.0]
