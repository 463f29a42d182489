from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sae_crossdiff import CrossdiffError, HookedModelPair
from sae_crossdiff.reporting import load_examples
from sae_crossdiff.reporting.example_files import HISTOGRAMS
from sae_crossdiff.reporting.lens import logit_lens
from sae_crossdiff.reporting.neuronpedia import to_neuronpedia
from sae_crossdiff.reporting.report_data import ReportSources
from tests.reporting.synthetic import synthetic_sources

FEATURE_FIELDS = {
    "feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson",
    "neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights", "logits_hist_data_bar_heights", "logits_hist_data_bar_values",
    "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations", "decoder_weights_dist",
    "vector",
}  # fmt: skip
UNSTORABLE = {0: "\ufffd", 0xD83D: "\ufffd"}  # NUL, half a character: not for a database
ACTIVATION_FIELDS = {
    "bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index",
}  # fmt: skip


def test_fields_and_values(sources: ReportSources, tmp_path: Path) -> None:
    path = to_neuronpedia(sources, [3, 50], tmp_path / "deep" / "batch-0.json")
    batch = json.loads(path.read_text())
    assert set(batch) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
    assert (batch["model_id"], batch["layer"]) == ("some/chat", 1)
    first = batch["features"][0]
    assert set(first) == FEATURE_FIELDS
    assert first["feature_index"] == 3
    examples = load_examples(sources.examples, [3])
    assert len(first["activations"]) == len(examples)
    bins: dict[str, set[tuple[float, float, float]]] = {"top": set(), "sample": set()}
    for told, row in zip(first["activations"], examples.to_dict("records"), strict=True):
        assert set(told) == ACTIVATION_FIELDS
        assert told["values"][told["qualifying_token_index"]] == pytest.approx(row["activation"])
        assert told["bin_min"] <= row["activation"] <= told["bin_max"]
        decoded = [sources.tokenizer.decode([t]) for t in row["tokens"]]
        assert told["tokens"] == [t.translate(UNSTORABLE) for t in decoded]
        bins[row["group"]].add((told["bin_min"], told["bin_max"], told["bin_contains"]))
    # One heading for the strongest, one per interval for the others: Neuronpedia groups by bin_max.
    strongest = float(examples["activation"].max())
    assert bins["top"] == {(-1.0, strongest, -1.0)}
    assert len(bins["sample"]) <= 5
    assert 0 < sum(share for *_, share in bins["sample"]) <= 1 + 1e-9
    counted = load_examples(sources.examples, [3], name=HISTOGRAMS)["tokens"].sum()
    assert sum(first["freq_hist_data_bar_heights"]) == pytest.approx(counted, rel=0.01)
    steps = np.diff(first["freq_hist_data_bar_values"])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)  # Plotly's bars need equal steps
    assert first["decoder_weights_dist"] == []
    chat = sources.crosscoder.W_dec_per_model[1].detach()
    np.testing.assert_allclose(batch["features"][1]["vector"], chat[50], rtol=1e-6)


def test_logits_are_those_of_the_chat_decoder(pair: HookedModelPair, tmp_path: Path) -> None:
    sources = synthetic_sources(tmp_path, 20, d=pair.d_ins[0])
    sources = sources._replace(pair=pair, tokenizer=pair.tokenizer)
    # Synthetic ids reach beyond the tiny vocabulary; only the lens is looked at.
    path = to_neuronpedia(sources._replace(tokenizer=_Numbers()), [4], tmp_path / "b.json")
    feature = json.loads(path.read_text())["features"][0]
    rows = sources.crosscoder.W_dec_per_model[1].detach()[[4]]
    lens = logit_lens(pair.models["chat"], rows)
    assert feature["pos_str"] == [str(t) for t in lens.ids[0]]
    everything = logit_lens(pair.models["chat"], rows, n=10_000)
    lowest = everything.ids[0][::-1][:10]
    assert feature["neg_str"] == [str(t) for t in lowest]
    np.testing.assert_allclose(feature["neg_values"], everything.logits[0][::-1][:10], rtol=1e-4)


class _Numbers:
    """Tokens as their ids."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [0]

    def decode(self, ids: list[int], **_: bool) -> str:
        return "a" if len(ids) == 1 else f"a{ids[-1]}"


def test_latents_that_do_not_exist(sources: ReportSources, tmp_path: Path) -> None:
    for latents in ([300], [-1], []):
        with pytest.raises(CrossdiffError, match="numbered 0 to 299"):
            to_neuronpedia(sources, latents, tmp_path / "batch.json")
