from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sae_crossdiff import BatchTopKCrosscoderConfig, CrossdiffError
from sae_crossdiff.testbeds.planted import PlantedConfig, PlantedPair, match_features
from sae_crossdiff.testbeds.planted_training import audit_planted, train_planted


def test_dictionaries_are_what_the_kinds_say() -> None:
    planted = PlantedPair()
    base, chat = planted.base.norm(dim=-1), planted.chat.norm(dim=-1)
    cosine = torch.nn.functional.cosine_similarity(planted.base, planted.chat)
    config = planted.config
    for kind, expected in (
        ("shared", (1.0, 1.0, 1.0)),
        ("rotated", (1.0, 1.0, np.cos(np.deg2rad(config.rotation)))),
        ("weaker", (config.weakness, 1.0, 1.0)),
        ("base-only", (1.0, 0.0, 0.0)),
        ("chat-only", (0.0, 1.0, 0.0)),
    ):
        mask = torch.from_numpy(planted.kinds == kind)
        assert int(mask.sum()) == config.n_per_kind[kind]
        for values, value in zip((base, chat, cosine), expected, strict=True):
            np.testing.assert_allclose(values[mask], value, atol=1e-5)


def test_samples_follow_the_dictionary_and_the_seed() -> None:
    quiet = PlantedPair(PlantedConfig(noise=0.0, mean_norm=30.0))
    x, code = quiet.sample(500, seed=4)
    expected = torch.cat([code @ quiet.base, code @ quiet.chat], dim=-1) + quiet.means.flatten()
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(quiet.sample(500, seed=4)[0], x)
    assert not torch.equal(quiet.sample(500, seed=5)[0], x)
    hostile = PlantedPair(PlantedConfig(sink_probability=0.1))
    norms = hostile.sample(2000, seed=0)[0].norm(dim=-1)
    assert float((norms > 50).float().mean()) == pytest.approx(0.1, abs=0.03)
    with pytest.raises(CrossdiffError, match="may plant"):
        PlantedConfig(n_per_kind={"inverted": 3})


def test_matching_finds_permuted_features() -> None:
    code = torch.rand(300, 5) * (torch.rand(300, 5) < 0.3)
    order = [3, 0, 4, 1, 2]
    index, correlation = match_features(code, code[:, order] * 2.5)
    assert index.tolist() == order
    np.testing.assert_allclose(correlation, 1.0)


@pytest.mark.parametrize("hostile", [False, True])
def test_verdict_finds_planted_chat_only_features(hostile: bool) -> None:
    """The standard planted pair: precision of chat-specific >= 0.95 at recall >= 0.9."""
    config = PlantedConfig()
    if hostile:  # a mean vector several times the spread, and attention sinks, as in Gemma
        config = dataclasses.replace(config, mean_norm=10.0, sink_probability=0.005)
    planted = PlantedPair(config)
    crosscoder_config = BatchTopKCrosscoderConfig(
        d_in=2 * config.d_model,
        d_sae=256,
        k=4,
        topk_threshold_start_step=1000,
        topk_threshold_lr=0.01,
    )
    crosscoder = train_planted(planted, {"batchtopk": crosscoder_config})["batchtopk"]
    run = audit_planted(planted, crosscoder)
    table, feature = run.table, run.feature
    flagged = (table["verdict"] == "chat-specific").to_numpy()
    truth = planted.kinds[feature] == "chat-only"
    precision = truth[flagged].mean()
    recall = len(set(feature[flagged & truth])) / (planted.kinds == "chat-only").sum()
    kept = table.attrs["quality"]["tokens"]
    assert kept < 50_000 if hostile else kept == 50_000  # sinks are left out
    assert precision >= 0.95
    assert recall >= 0.9
