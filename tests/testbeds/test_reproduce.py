"""Scores against hand-made truth, and the whole experiment in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_crossdiff import Crosscoder, CrosscoderConfig, CrossdiffError, load_table
from sae_crossdiff.cli import app
from sae_crossdiff.crosscoders.difference import difference_as_crosscoder
from sae_crossdiff.diffing import ratio_interval
from sae_crossdiff.testbeds.coverage import PAIR, measure_coverage
from sae_crossdiff.testbeds.other_intervals import bootstrap_interval, jackknife_interval
from sae_crossdiff.testbeds.planted import PlantedConfig, PlantedPair
from sae_crossdiff.testbeds.planted_documents import planted_crosscoder
from sae_crossdiff.testbeds.planted_training import audit_planted
from sae_crossdiff.testbeds.scores import flag_scores
from sae_crossdiff.testbeds.shrinkage import shrinkage_ratios
from sae_crossdiff.testbeds.strict_json import write_json

PLANTED = PlantedPair()


def test_a_crosscoder_that_is_the_dictionary_scores_perfectly_by_delta() -> None:
    run = audit_planted(PLANTED, planted_crosscoder(PLANTED), n_tokens=20_000)
    assert (run.feature == np.arange(len(PLANTED.kinds))).mean() > 0.95
    scores = flag_scores(PLANTED, run)
    assert scores.loc["Δ > 0.9", ["precision", "recall", "auroc"]].tolist() == [1.0, 1.0, 1.0]
    # Whoever calls the weaker features (Delta 0.8) chat-only too loses precision.
    run.table["delta"] = (run.table["delta"] > 0.75) * 1.0
    spoilt = flag_scores(PLANTED, run).loc["Δ > 0.9"]
    assert spoilt["precision"] == pytest.approx(20 / 30, abs=0.04)
    assert spoilt["recall"] == 1.0
    assert scores.loc["verdict", "precision"] == 1.0
    assert scores.loc["mean difference", "flagged"] == 0  # it ranks, it has no threshold
    assert 0.5 < scores.loc["mean difference", "auroc"] < 1


def test_refitted_norms_of_absent_decoders_have_honest_intervals() -> None:
    planted = PlantedPair(PAIR)
    chat_only = planted.kinds == "chat-only"
    table = measure_coverage(25, planted=planted, tested=chat_only)
    # Of first order only, without what the refit itself moves by, these were .65 and .37.
    common = table["refitted_ratio"].loc[["120 to 299", "300 to 799"]]
    assert (common["coverage"] > 0.85).all()
    assert (common["width"] < 0.5).all()  # and are no wider than that: .25 and .3 were seen


def test_intervals_agree_where_the_ratio_is_a_mean() -> None:
    torch.manual_seed(0)
    values, ones = torch.randn(32, 6, dtype=torch.float64) + 3, torch.ones(32, 6)
    ours = ratio_interval(values, ones)
    jackknife = jackknife_interval(values, ones.double())
    bootstrap = bootstrap_interval(values, ones.double())
    for end in ("low", "high"):
        np.testing.assert_allclose(getattr(jackknife, end), getattr(ours, end), rtol=1e-9)
        np.testing.assert_allclose(getattr(bootstrap, end), getattr(ours, end), atol=0.06)


def test_attention_sinks_do_not_spoil_the_matching() -> None:
    hostile = PlantedPair(PlantedConfig(mean_norm=10.0, sink_probability=0.005))
    run = audit_planted(hostile, planted_crosscoder(hostile), n_tokens=20_000)
    assert run.table.attrs["quality"]["tokens"] < 20_000
    assert (run.feature == np.arange(len(hostile.kinds))).mean() > 0.98
    assert run.correlation.min() > 0.5


def test_shrinkage_ratio_equals_a_naive_loop() -> None:
    crosscoder = planted_crosscoder(PLANTED)
    x, _ = PLANTED.sample(600, seed=3)
    ratios = shrinkage_ratios(crosscoder, x.split(100))
    f = crosscoder.encode(x).detach().double()
    d = PLANTED.config.d_model
    for latent in f.sum(0).topk(5).indices.tolist():
        without = f.clone()
        without[:, latent] = 0
        y = x[:, :d] - (without @ crosscoder.W_dec.double() + crosscoder.b_dec)[:, :d]
        expected = (f[:, latent] @ y).norm() / f[:, latent].sum()
        assert ratios[latent] == pytest.approx(float(expected), rel=1e-5)
    assert np.isnan(ratios[(f.sum(0) == 0).numpy()]).all()


def test_difference_sae_has_the_same_code_on_joined_activations() -> None:
    config = CrosscoderConfig(d_in=6, d_ins=[6], d_sae=9, model_names=["difference"])
    sae = Crosscoder(config)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        parameter = getattr(sae, name)
        parameter.data = torch.randn_like(parameter)
    sae.threshold.data = torch.rand(9)
    joined, x = difference_as_crosscoder(sae), torch.randn(40, 12)
    difference = x[:, 6:] - x[:, :6]
    torch.testing.assert_close(joined.encode(x), sae.encode(difference))
    torch.testing.assert_close(joined(x)[:, 6:], sae(difference))
    assert not joined(x)[:, :6].any()
    with pytest.raises(CrossdiffError, match="one difference, this crosscoder 2 models"):
        difference_as_crosscoder(joined)


def test_json_has_no_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    content = {"a": [np.float64(1.5), float("nan")], "b": (np.int64(2), float("inf"), "text")}
    write_json(tmp_path / "x.json", content)
    read = json.loads((tmp_path / "x.json").read_text())
    assert read == {"a": [1.5, None], "b": [2, None, "text"]}


def test_reproduce_in_miniature(tmp_path: Path) -> None:
    torch.manual_seed(0)
    runner = CliRunner(env={"COLUMNS": "180"})
    arguments = ["reproduce", "--seed", "0", "--steps", "150", "--pair", "failures"]
    result = runner.invoke(app, [*arguments, "--coverage-runs", "2", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "reproduce.json").read_text())
    assert {row["architecture"] for row in content["scores"]} == {
        "L1", "L1 shared", "BatchTopK", "difference SAE",
    }  # fmt: skip
    assert len(content["scores"]) == 28
    assert 0.8 < content["claims"][0]["shrinkage"]["condition_agreement"] <= 1
    assert len(content["coverage"]) == 7
    table = load_table(tmp_path / "failures-0" / "L1.parquet")
    assert {"planted_kind", "planted_base_share", "nu_error_low"} <= set(table.columns)
    figure = (tmp_path / "failures-0" / "delta_against_nu_error.html").read_text()
    assert "made-up latents" in figure
    wrong = runner.invoke(app, ["reproduce", "--pair", "unheard"])
    assert wrong.exit_code == 1
    assert "the pairs are standard, hostile" in " ".join(wrong.stderr.split())
