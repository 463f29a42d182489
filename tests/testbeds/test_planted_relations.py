"""Planted failures and documents: what the generators promise, counted in samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_crossdiff import CrossdiffError
from sae_crossdiff.testbeds.noop import against_itself
from sae_crossdiff.testbeds.planted import PlantedConfig, PlantedPair
from sae_crossdiff.testbeds.planted_documents import (
    DocumentsConfig,
    planted_crosscoder,
    sample_documents,
)
from sae_crossdiff.testbeds.planted_relations import (
    CHILD_RATE,
    CO_FIRING_RATE,
    LESS_OFTEN_RATE,
)
from sae_crossdiff.testbeds.planted_training import base_share

KINDS = {
    "shared": 20, "weaker": 4, "child": 3, "co-firing": 3, "composed": 3, "part": 6,
    "less-often": 3, "chat-only": 3, "base-only": 3, "rotated": 3,
}  # fmt: skip
PLANTED = PlantedPair(
    PlantedConfig(n_per_kind=KINDS, noise=0.0, min_probability=0.02, weakness_spread=0.15)
)


def of_kind(kind: str) -> list[int]:
    return np.flatnonzero(PLANTED.kinds == kind).tolist()


def test_dependent_features_fire_as_they_should() -> None:
    _, (base, chat) = PLANTED.sample_codes(40_000, seed=1)
    fires = chat > 0
    for feature, partner in PLANTED.relations.partner.items():
        together = float(fires[fires[:, partner], feature].float().mean())
        alone = float(fires[~fires[:, partner], feature].float().mean())
        if PLANTED.kinds[feature] == "child":
            assert together == pytest.approx(CHILD_RATE, abs=0.05)
            assert alone == 0
        else:
            assert together == pytest.approx(CO_FIRING_RATE, abs=0.06)
            assert 0 < alone < 0.1
    for composed, parts in PLANTED.relations.parts.items():
        assert fires[fires[:, composed]][:, parts].all()
        assert (fires[:, parts].sum(0) > 1.2 * fires[:, composed].sum()).all()
        written = (base[:, parts] @ PLANTED.base[parts])[fires[:, composed]]
        expected = chat[fires[:, composed], composed][:, None] * PLANTED.chat[composed]
        torch.testing.assert_close(written @ PLANTED.chat[composed], expected.norm(dim=-1))
    for feature in of_kind("less-often"):
        share = float((base[:, feature] > 0).sum() / fires[:, feature].sum())
        assert share == pytest.approx(LESS_OFTEN_RATE, abs=0.06)
    norms = PLANTED.base[of_kind("weaker")].norm(dim=-1)
    np.testing.assert_allclose(norms, [0.25, 0.35, 0.45, 0.55], atol=1e-5)


def test_truth_per_latent_is_what_the_base_has_where_it_fires() -> None:
    _, codes = PLANTED.sample_codes(20_000, seed=2)
    perfect = base_share(PLANTED, codes, codes[1], np.arange(len(PLANTED.kinds)))
    for kind, expected in (
        ("shared", 1.0), ("rotated", 1.0), ("chat-only", 0.0), ("child", 0.0), ("co-firing", 0.0),
    ):  # fmt: skip
        np.testing.assert_allclose(perfect[of_kind(kind)], expected, atol=1e-6)
    np.testing.assert_allclose(perfect[of_kind("composed")], 1.0, atol=0.05)
    np.testing.assert_allclose(perfect[of_kind("less-often")], LESS_OFTEN_RATE, atol=0.07)
    assert np.isnan(perfect[of_kind("base-only")]).all()
    rare = of_kind("less-often")[0]
    only_missing = (codes[1] * (codes[0][:, [rare]] == 0))[:, [rare]]
    assert base_share(PLANTED, codes, only_missing, np.array([rare]))[0] == 0.0


def test_tokens_of_a_document_are_alike() -> None:
    planted = PlantedPair()
    tokens, code = sample_documents(planted, 400, seed=0, config=DocumentsConfig(length=50))
    lengths = torch.bincount(tokens.documents)
    assert lengths.min() >= 25
    assert lengths.max() <= 75
    assert (tokens.positions[tokens.documents == 7] == torch.arange(lengths[7])).all()
    rates = (code > 0).float().mean(0)
    assert float((rates / planted.probabilities).mean()) == pytest.approx(1, abs=0.1)
    inside = torch.stack([(code[tokens.documents == d] > 0).float().mean(0) for d in range(400)])
    about = inside > 0
    assert float(inside[about].mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(
        sample_documents(planted, 5, seed=3)[0].acts[:9],
        sample_documents(planted, 5, 3)[0].acts[:9],
    )
    with pytest.raises(CrossdiffError, match="below the pair's largest rate"):
        sample_documents(planted, 5, 0, DocumentsConfig(within=0.01))


def test_planted_crosscoder_reads_a_lone_feature_exactly() -> None:
    planted = PlantedPair(PlantedConfig(noise=0.0, mean_norm=5.0))
    crosscoder = planted_crosscoder(planted)
    code = torch.eye(len(planted.kinds)) * 1.3
    x = torch.cat([code @ planted.base, code @ planted.chat], dim=-1) + planted.means.flatten()
    torch.testing.assert_close(crosscoder.encode(x).diagonal(), code.diagonal())


def test_base_against_itself_differs_by_the_noise_only() -> None:
    tokens, _ = sample_documents(PlantedPair(), 200, seed=0)
    base, noisy = against_itself(tokens, noise=0.3).acts.chunk(2, dim=-1)
    assert torch.equal(base, tokens.acts.chunk(2, dim=-1)[0])
    ratio = (noisy - base).std(dim=0) / base.std(dim=0)
    np.testing.assert_allclose(ratio, 0.3, rtol=0.05)
