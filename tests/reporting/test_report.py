from __future__ import annotations

import base64
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_crossdiff import CrossdiffError, HookedModelPair, load_table
from sae_crossdiff.cli import app
from sae_crossdiff.interventions import single_latents
from sae_crossdiff.reporting import load_examples
from sae_crossdiff.reporting.columns import by_relevance, fires_on, table_arrays
from sae_crossdiff.reporting.example_files import HISTOGRAMS
from sae_crossdiff.reporting.figures import activation_histogram, bin_counts, delta_against_nu
from sae_crossdiff.reporting.lens import decoder_lenses, logit_lens
from sae_crossdiff.reporting.neighbours import nearest_latents
from sae_crossdiff.reporting.packing import pack, rounded
from sae_crossdiff.reporting.report import report_run, write_report
from sae_crossdiff.reporting.report_data import ReportConfig, ReportSources, detailed_latents
from sae_crossdiff.testbeds.tiny_pair import tiny_pair
from tests.interventions.conftest import random_crosscoder
from tests.reporting.conftest import RUNNER

DTYPES = {"Float32Array": "<f4", "Int32Array": "<i4", "Uint8Array": "u1"}


def unpacked(text: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """As payload.js reads it."""
    raw = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(raw[:4], "little")
    content = json.loads(raw[4 : 4 + length])
    arrays = {
        name: np.frombuffer(raw, DTYPES[kind], size, 4 + length + offset)
        for name, (kind, offset, size) in content.pop("arrays").items()
    }
    return content, arrays


def payload_of(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    html = file.read_text("utf-8")
    start = html.index('<script id="payload" type="text/plain">')
    return unpacked(html[html.index(">", start) + 1 : html.index("</script>", start)])


def test_pack_keeps_every_value() -> None:
    arrays = {
        "codes": np.array([1, 2, 3], dtype=np.uint8),
        "numbers": np.array([np.nan, -np.inf, 1.5], dtype=np.float32),
        "counts": np.array([[-1, 7], [2**31 - 1, 0]], dtype=np.int32),
    }
    content = {"text": "</script>\u2028\ud83d", "nested": [1, None]}
    text = pack(content, arrays)
    assert not set(text) & set("<>&'\"")
    found, loaded = unpacked(text)
    assert found == content
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array.ravel())
    with pytest.raises(KeyError):
        pack({}, {"wide": np.zeros(2)})


def test_rounding_error_is_bounded() -> None:
    values = np.random.default_rng(0).lognormal(sigma=10, size=10_000) * -1.0
    assert (np.abs(rounded(values) / values - 1) < 2**-13 + 1e-7).all()
    special = np.array([np.nan, np.inf, -np.inf, 0.0])
    np.testing.assert_array_equal(rounded(special), special.astype(np.float32))


def test_fires_on_against_a_loop(sources: ReportSources) -> None:
    samples = load_examples(sources.examples).query("group == 'sample'")
    histograms = load_examples(sources.examples, name=HISTOGRAMS)
    found = fires_on(samples, histograms, len(sources.table))
    for latent in (0, 3, 77):
        mass: dict[int, float] = {}
        for text in ("plain", "chat"):
            own = samples[(samples["latent"] == latent) & (samples["text"] == text)]
            counts = histograms[(histograms["latent"] == latent) & (histograms["text"] == text)]
            for token, f in zip(own["token"], own["activation"], strict=True):
                mass[token] = mass.get(token, 0) + f * counts["tokens"].sum() / len(own)
        best = sorted(mass, key=lambda t: -mass[t])[:3]
        assert found[latent].tolist() == best


def test_relevance_and_choice_of_details(sources: ReportSources) -> None:
    table = sources.table
    order = by_relevance(table)
    specific = (table["verdict"] == "chat-specific").sum()
    assert sorted(order) == list(range(len(table)))
    assert set(table.loc[order[:specific], "verdict"]) == {"chat-specific"}
    assert table.loc[order[specific:], "specificity"].dropna().is_monotonic_decreasing
    differs = table.index[table["verdict"].isin(["chat-specific", "shrunk", "decoupled"])]
    chosen = detailed_latents(table, order, ReportConfig(n_detailed=len(differs), latents=(9, 9)))
    assert set(chosen) == {*differs, 9}
    with pytest.raises(CrossdiffError, match="no latent 300"):
        detailed_latents(table, order, ReportConfig(latents=(300,)))
    with pytest.raises(CrossdiffError, match="n_detailed=0"):
        ReportConfig(n_detailed=0)


def test_a_table_that_lacks_columns_is_refused(sources: ReportSources) -> None:
    with pytest.raises(CrossdiffError, match="no column nu_error_low"):
        table_arrays(sources.table.drop(columns="nu_error_low"))
    with pytest.raises(CrossdiffError, match="whole latent table"):
        table_arrays(sources.table.iloc[1:])


def test_logit_lens_equals_a_hand_made_one(pair: HookedModelPair) -> None:
    """Gemma: RMS norm times (1 + weight), then the tied embedding; here in plain torch."""
    model = AutoModelForCausalLM.from_pretrained(tiny_pair().chat).float()
    d = torch.randn(3, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    normed = d / d.pow(2).mean(-1, keepdim=True).sqrt() * (1 + model.model.norm.weight.detach())
    logits = normed @ model.lm_head.weight.detach().T
    expected = (logits - logits.mean(-1, keepdim=True)).topk(5)
    found = logit_lens(pair.models["chat"], d, n=5)
    np.testing.assert_array_equal(found.ids, expected.indices)
    np.testing.assert_allclose(found.logits, expected.values, rtol=1e-3)
    with pytest.raises(CrossdiffError, match="--no-lens"):
        logit_lens(torch.nn.Linear(2, 2), d)


def test_lens_of_the_difference(pair: HookedModelPair) -> None:
    crosscoder = random_crosscoder(pair)
    base, chat = (part.detach() for part in crosscoder.W_dec_per_model)
    lenses = decoder_lenses(pair, crosscoder, [7, 2], n=4)
    direct = logit_lens(pair.models["chat"], (chat - base)[[7, 2]], n=4)
    np.testing.assert_array_equal(lenses["difference"].ids, direct.ids)
    direct = logit_lens(pair.models["base"], base[[7, 2]], n=4)
    np.testing.assert_array_equal(lenses["base"].ids, direct.ids)


def test_neighbours_against_a_loop(sources: ReportSources) -> None:
    rows = sources.crosscoder.W_dec.detach().double().numpy()
    found = nearest_latents(sources.crosscoder, [5, 100], n=3)
    for i, latent in enumerate((5, 100)):
        cosines = [
            float(rows[latent] @ row / np.linalg.norm(rows[latent]) / np.linalg.norm(row))
            for row in rows
        ]
        cosines[latent] = -2
        order = np.argsort(cosines)[::-1][:3]
        assert found.latents[i].tolist() == order.tolist()
        np.testing.assert_allclose(found.cosines[i], np.array(cosines)[order], rtol=1e-4)


def test_figures(sources: ReportSources) -> None:
    figure: Any = delta_against_nu({"a": sources.table}, colour_by="verdict")
    drawn = np.concatenate(
        [t.customdata for t in figure.data if getattr(t, "customdata", None) is not None]
    )
    shown = sources.table.query("active_tokens >= 30 and -1.5 <= nu_error <= 2")
    assert sorted(drawn) == sorted(shown.index)
    histograms = load_examples(sources.examples, name=HISTOGRAMS)
    histogram: Any = activation_histogram(histograms, 3)
    own = histograms[histograms["latent"] == 3]
    for trace in histogram.data:
        assert sum(trace.y) == own.loc[own["text"] == trace.name, "tokens"].sum()
    gap = pd.DataFrame({"text": ["plain", "chat"], "low": [1.0, 4.0], "tokens": [2, 3]})
    assert bin_counts(gap) == {
        "bins": ["1", "1.4", "2", "2.8", "4"], "plain": [2, 0, 0, 0, 0], "chat": [0, 0, 0, 0, 3],
    }  # fmt: skip


def test_the_file_holds_the_table_and_the_examples(
    sources: ReportSources, report_file: Path
) -> None:
    html = report_file.read_text("utf-8")
    assert "window.broken" not in html  # data is packed, never markup
    content, arrays = payload_of(report_file)
    table = sources.table
    np.testing.assert_allclose(arrays["nu_error_low"], table["nu_error_low"], rtol=2**-12)
    np.testing.assert_array_equal(arrays["active_tokens"], table["active_tokens"])
    names = np.array(content["categories"]["verdict"])
    np.testing.assert_array_equal(names[arrays["verdict"]], table["verdict"])
    examples = load_examples(sources.examples, [3])
    told = content["details"]["3"]["examples"]
    assert [e["f"] for e in told] == pytest.approx(examples["activation"].tolist(), rel=1e-2)
    first = examples.iloc[0]
    texts = [content["tokens"][t] for t in told[0]["tokens"]]
    assert texts == [sources.tokenizer.decode([t]) for t in first["tokens"]]
    assert len(content["details"]) == 40
    assert content["overview"]["verdicts"][0][1] == (table["verdict"] == "chat-specific").sum()


def test_sources_that_do_not_belong_together(sources: ReportSources, tmp_path: Path) -> None:
    other = sources.table.copy()
    provenance = {**sources.table.attrs["provenance"], "hook_name": "blocks.9.hook_out"}
    other.attrs = {**sources.table.attrs, "provenance": provenance}
    with pytest.raises(CrossdiffError, match="the latent table and the examples do not belong"):
        write_report(sources._replace(table=other), tmp_path / "report.html")
    short = sources.table.iloc[:200]
    short.attrs = sources.table.attrs
    with pytest.raises(CrossdiffError, match="200 latents and the crosscoder 300"):
        write_report(sources._replace(table=short), tmp_path / "report.html")


def test_report_command(audited: Path, pair: HookedModelPair) -> None:
    result = RUNNER.invoke(app, ["report", str(audited), "--n-detailed", "5", "--latent", "40"])
    assert result.exit_code == 0, result.output
    file = audited / "batchtopk" / "report.html"
    assert str(file) in result.output.replace("\n", "")
    content, _ = payload_of(file)
    assert 40 in map(int, content["details"])
    assert {row["condition"] for row in content["kl"]} >= {"none", "all", "identity"}
    assert not [row for row in content["kl"] if row["condition"].startswith("latent")]
    table = load_table(file.parent / "latent_table.parquet")
    scores = pd.read_parquet(file.parent / "kl.parquet")
    singles = single_latents(table, 3)
    for name, (latent,) in singles.items():
        means = scores[scores["group"] == "all"].groupby("condition")["kl"].mean()
        shown = content["details"][str(latent)]["kl"]["recovered"]
        assert shown == pytest.approx(1 - means[name] / means["none"])
    assert len(singles) == sum("kl" in found for found in content["details"].values()) == 3
    alive = by_relevance(table)[0]
    lens = content["details"][str(alive)]["lens"]
    assert len(lens["chat"]) == 10
    assert all(content["tokens"][t] for t, _ in lens["chat"])
    bare = audited / "bare.html"
    result = RUNNER.invoke(app, ["report", str(audited), "--no-lens", "--output", str(bare)])
    assert result.exit_code == 0, result.output
    assert payload_of(bare)[0]["details"][str(alive)]["lens"] == {}


def test_report_errors_end_in_one_line(audited: Path, tmp_path: Path) -> None:
    assert "no config file" in RUNNER.invoke(app, ["report", str(tmp_path)]).stderr
    copy = shutil.copytree(audited, tmp_path / "run")
    (copy / "batchtopk" / "activating_examples.parquet").unlink()
    shown = RUNNER.invoke(app, ["report", str(copy), "--no-lens"])
    assert shown.exit_code == 1
    assert "no activating examples" in " ".join(shown.stderr.split())
    pd.DataFrame({"a": [1]}).to_parquet(copy / "batchtopk" / "kl.parquet")
    with pytest.raises(CrossdiffError, match="no KL scores"):
        report_run(copy, lens=False)


def test_help_teaches() -> None:
    shown = RUNNER.invoke(app, ["report", "--help"])
    assert shown.exit_code == 0
    assert len(shown.output) > 600
