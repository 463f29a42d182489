from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sae_crossdiff import (
    ActivationBatch,
    Crosscoder,
    CrosscoderConfig,
    CrossdiffError,
    VerdictThresholds,
    evaluate,
    latent_table,
    load_table,
    most_chat_specific,
    save_table,
)
from sae_crossdiff.diffing import (
    COLUMNS,
    TARGETS,
    auroc,
    find_twins,
    latent_activations,
    span_aurocs,
    specificity,
    verdicts,
)
from sae_crossdiff.diffing.labels import labelled_windows
from sae_crossdiff.diffing.norms import norm_buckets, relative_decoder_norm
from sae_crossdiff.provenance import Provenance

D, F = 4, 7


def crosscoder_of(seed: int = 0) -> Crosscoder:
    torch.manual_seed(seed)
    crosscoder = Crosscoder(CrosscoderConfig(d_in=2 * D, d_sae=F))
    for name in ("W_enc", "W_dec", "b_dec"):
        parameter = getattr(crosscoder, name)
        parameter.data = torch.randn_like(parameter)
    crosscoder.b_enc.data[0] = -1e6  # a dead latent
    return crosscoder


def batch_of(n: int) -> ActivationBatch:
    index = torch.arange(n)
    masks = {"special": index == 0, "template": index % 3 == 0, "assistant": index % 2 == 0}
    return ActivationBatch(torch.randn(n, 2 * D), index, index, index // 10, masks)


def test_statistics_equal_dense_computation_and_do_not_depend_on_batching() -> None:
    crosscoder, batch = crosscoder_of(), batch_of(120)
    table = latent_table(crosscoder, [batch])
    pieces = latent_table(crosscoder, [batch.select(slice(i, i + 17)) for i in range(0, 120, 17)])
    pd.testing.assert_frame_equal(table, pieces, rtol=1e-5)
    f = crosscoder.encode(batch.acts).detach().double()
    fired = f > 0
    assert table["active_tokens"].tolist() == fired.sum(0).tolist()
    np.testing.assert_allclose(table["firing_rate"], fired.double().mean(0))
    np.testing.assert_allclose(table["max_activation"], f.max(0).values, rtol=1e-6)
    np.testing.assert_allclose(table["mean_activation"][1:], (f.sum(0) / fired.sum(0))[1:])
    template = fired[batch.masks["template"]].sum(0) / fired.sum(0)
    np.testing.assert_allclose(table["template_share"], template)
    assert table.loc[0, "verdict"] == "dead"
    assert table.loc[0].filter(regex="beta|nu_").isna().all()


def test_columns_are_all_documented() -> None:
    table = latent_table(crosscoder_of(), [batch_of(40)], beta_intervals=True)
    choices = {
        "target": TARGETS, "model": ("base", "chat"), "end": ("low", "high"), "side": ("", "base_"),
        "tested": ("error", "reconstruction"),
    }  # fmt: skip
    documented = {
        name.format(**dict(zip(choices, values, strict=True)))
        for name in COLUMNS
        for values in itertools.product(*choices.values())
    }
    assert set(table.columns) == documented
    bare = set(latent_table(crosscoder_of(), [batch_of(40)]).columns)
    extra = {
        name for name in documented if name.startswith("beta_") and name.endswith(("low", "high"))
    }
    assert bare == documented - extra


def test_chosen_columns_equal_the_whole_code() -> None:
    crosscoder = crosscoder_of()
    crosscoder.threshold.data = torch.rand(F)
    x = torch.randn(60, 2 * D)
    columns = latent_activations(crosscoder, ActivationBatch.of(x), [5, 0, 2], batch_size=16)
    np.testing.assert_allclose(
        columns, crosscoder.encode(x).detach()[:, [5, 0, 2]], rtol=1e-5, atol=1e-6
    )


def test_normalisation_does_not_change_the_audit() -> None:
    """The same crosscoder, once in its units and once folded to raw ones, gives one table."""
    units, folded = crosscoder_of(), crosscoder_of()
    mean, scale = torch.randn(2 * D) * 30, [0.1, 2.0]
    folded.fold_normalization(mean, scale)
    x = torch.randn(200, 2 * D)
    raw = x / torch.tensor(scale).repeat_interleave(D) + mean
    expected, table = latent_table(units, [x]), latent_table(folded, [raw])
    numeric = expected.select_dtypes("number").columns
    np.testing.assert_allclose(table[numeric], expected[numeric], rtol=2e-3, atol=2e-3)
    assert table["verdict"].tolist() == expected["verdict"].tolist()


def test_fve_is_over_the_whole_set_not_a_mean_of_batches() -> None:
    """METHOD trap 9."""
    crosscoder = crosscoder_of()
    x = torch.randn(90, 2 * D) * torch.linspace(0.1, 3, 90)[:, None] + 5
    quality = evaluate(crosscoder, x.split(8))
    error = (x - crosscoder(x)).double()
    for m, name in enumerate(("base", "chat")):
        part = slice(m * D, (m + 1) * D)
        centred = x[:, part].double() - x[:, part].double().mean(0)
        expected = 1 - error[:, part].pow(2).sum() / centred.pow(2).sum()
        assert quality["fve"][name] == pytest.approx(float(expected))
    assert quality["l0"] == pytest.approx(float((crosscoder.encode(x) > 0).sum(1).float().mean()))
    assert quality["dead_share"] == pytest.approx(1 / F)
    special = batch_of(90)
    without = evaluate(crosscoder, [special])["fve_without_special"]
    assert without == pytest.approx(evaluate(crosscoder, [special.acts[1:]])["fve"])


def test_delta_and_buckets() -> None:
    base = torch.tensor([1.0, 0.0, 1.0, 2.0, 0.1], dtype=torch.float64)
    chat = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    delta = relative_decoder_norm(base, chat)
    assert delta.tolist() == pytest.approx([0.5, 1.0, 0.0, 0.25, 0.95])
    assert norm_buckets(delta.numpy()).tolist() == [
        "shared", "chat-only", "base-only", "other", "chat-only",
    ]  # fmt: skip


def test_twins_are_found_both_ways() -> None:
    base, chat = torch.eye(4), torch.eye(4)
    chat[0] = torch.tensor([0.0, 1.0, 0.1, 0.0])  # latent 0 writes in chat what 1 writes in base
    buckets = np.array(["chat-only", "base-only", "base-only", "shared"], dtype=object)
    twins = find_twins(base, chat, buckets)
    assert twins.twin.tolist() == [1, 0, -1, -1]
    assert twins.cosine[0] == pytest.approx(1 / 1.01**0.5)
    assert np.isnan(twins.cosine[2])


def row(width: float = 0.01, **values: Any) -> dict[str, Any]:
    """A latent's numbers, with intervals of the half-width `width` around its nus and Delta."""
    ordinary = {
        "delta": 0.5, "refitted_delta": 0.5, "nu_error": 1.0, "nu_reconstruction": 1.0,
        "base_nu_error": 1.0, "base_nu_reconstruction": 1.0, "active_tokens": 1000,
    }  # fmt: skip
    numbers = {**ordinary, **values}
    with_interval = [n for n in ordinary if n not in ("delta", "active_tokens")]
    lows = {f"{name}_low": numbers[name] - width for name in with_interval}
    highs = {f"{name}_high": numbers[name] + width for name in with_interval}
    return {**lows, **highs, **numbers}


SPECIFIC = {"nu_error": 0.1, "nu_reconstruction": 0.1, "refitted_delta": 0.95}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({}, "shared"),
        ({"active_tokens": 0}, "dead"),
        ({"active_tokens": 5, **SPECIFIC}, "undecided"),
        ({"nu_error": np.nan, "base_nu_error": np.nan}, "undecided"),
        ({"nu_error": np.nan, "delta": 0.0, "refitted_delta": 0.0}, "base-only"),
        (SPECIFIC, "chat-specific"),  # although Delta is still 0.5
        ({**SPECIFIC, "delta": 0.99, "nu_error": 0.6}, "shrunk"),
        ({**SPECIFIC, "delta": 0.99, "nu_reconstruction": 0.8}, "decoupled"),
        ({**SPECIFIC, "refitted_delta": 0.5}, "shared"),  # rotated: present in both
        ({**SPECIFIC, "delta": 0.95, "refitted_delta": 0.5}, "shrunk"),
        (
            {"base_nu_error": 0.0, "base_nu_reconstruction": 0.0, "refitted_delta": 0.02},
            "base-specific",
        ),
        ({"delta": 0.05, "refitted_delta": 0.3}, "base-only"),
        ({**SPECIFIC, "nu_error": -1.0}, "shared"),  # the base decoder points the other way
        ({"nu_error": 0.1, "nu_reconstruction": 0.9, "refitted_delta": 0.9}, "undecided"),
        ({**SPECIFIC, "width": 0.09}, "chat-specific"),
        ({**SPECIFIC, "width": 0.11}, "undecided"),  # nu_error's interval straddles 0.2
        ({**SPECIFIC, "nu_reconstruction_high": 0.51}, "undecided"),
        ({**SPECIFIC, "nu_error_low": -0.21}, "undecided"),
        ({**SPECIFIC, "refitted_delta_low": 0.59}, "undecided"),
        ({**SPECIFIC, "nu_error_low": -np.inf, "nu_error_high": np.inf}, "undecided"),
        ({**SPECIFIC, "nu_error_low": np.nan, "nu_error_high": np.nan}, "undecided"),
        ({**SPECIFIC, "delta": 0.99, "nu_error": 0.3, "width": 0.11}, "undecided"),
        ({"width": 0.85}, "undecided"),
    ],
)
def test_verdicts(values: dict[str, Any], verdict: str) -> None:
    assert verdicts(pd.DataFrame([row(**values)]), VerdictThresholds()).tolist() == [verdict]


def test_a_table_without_intervals_is_refused() -> None:
    bare = pd.DataFrame([row()]).drop(columns="nu_error_low")
    with pytest.raises(CrossdiffError, match="no column nu_error_low.*crossdiff table"):
        verdicts(bare, VerdictThresholds())


def test_most_chat_specific_is_sorted_by_margin() -> None:
    settings = [(0.1, 0.0, 0.9), (0.02, 0.0, 0.9), (0.0, 0.4, 0.9), (0.9, 0.9, 0.9)]
    settings += [(0, 0, 0.58), (0, 0, 0.4)]  # fails by the refit alone; the larger base decoder
    table = pd.DataFrame(
        [row(nu_error=e, nu_reconstruction=r, refitted_delta=d) for e, r, d in settings]
    )
    table["specificity"] = specificity(table, VerdictThresholds())
    top = most_chat_specific(table, 6)
    assert top.index.tolist() == [1, 0, 2, 4, 3]
    assert top["specificity"].tolist() == pytest.approx([0.75, 0.5, 0.2, -0.05, -3.5])


def test_auroc_equals_pair_counting() -> None:
    scores = np.array([0.0, 0.0, 1.0, 2.0, 0.5, 0.0], dtype=np.float32)
    labels = np.array([False, True, True, True, False, False])
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[labels] for n in scores[~labels]
    ]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(scores, np.ones(6, dtype=bool)))


def test_span_aurocs_compare_spans_with_windows_of_the_same_lengths() -> None:
    crosscoder = crosscoder_of()
    index = torch.arange(60)
    label = (index % 20 >= 5) & (index % 20 < 5 + 2 + (index // 20))  # lengths 2, 3, 4
    batch = ActivationBatch(
        torch.randn(60, 2 * D), index, index % 20, index // 20, {"phrase": label}
    )
    positive, negative = labelled_windows(batch, "phrase")
    assert [(s.start, s.stop) for s in positive] == [(5, 7), (25, 28), (45, 49)]
    assert sorted({s.stop - s.start for s in negative}) == [2, 3, 4]
    inside = [i for s in (*positive, *negative) for i in range(s.start, s.stop)]
    assert len(inside) == len(set(inside))
    assert all(len(set((index // 20)[s].tolist())) == 1 for s in negative)
    f = crosscoder.encode(batch.acts).detach().numpy()
    maxima = [[f[s, 3].max() for s in windows] for windows in (positive, negative)]
    expected = np.mean([(p > n) + 0.5 * (p == n) for p in maxima[0] for n in maxima[1]])
    found = span_aurocs(crosscoder, batch, [1, 3], ["phrase"])
    assert found.loc[3, "phrase"] == pytest.approx(expected)
    ends = [maxima[1][0], maxima[1][-1]]  # two unlabelled windows only: the first and the last
    expected = np.mean([(p > n) + 0.5 * (p == n) for p in maxima[0] for n in ends])
    few = span_aurocs(crosscoder, batch, [1, 3], ["phrase"], latents_at_once=1, n_unlabelled=2)
    assert few.loc[3, "phrase"] == pytest.approx(expected)
    with pytest.raises(CrossdiffError, match="no token is labelled 'opener'"):
        span_aurocs(crosscoder, batch, [1], ["opener"])


def test_table_on_disk_keeps_provenance(tmp_path: Path) -> None:
    provenance = Provenance(models={"base": "a", "chat": "b"}, hook_name="blocks.1.hook_out")
    table = latent_table(crosscoder_of(), [batch_of(40)], provenance=provenance)
    path = save_table(table, tmp_path / "deep" / "table.parquet")
    loaded = load_table(path)
    pd.testing.assert_frame_equal(loaded, table)
    assert loaded.attrs == table.attrs
    assert loaded.attrs["provenance"]["models"] == {"base": "a", "chat": "b"}
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(CrossdiffError, match="no latent table of this package"):
        load_table(tmp_path / "other.parquet")
    with pytest.raises(CrossdiffError, match="crossdiff table"):
        load_table(tmp_path / "none.parquet")


def test_bad_input_is_refused() -> None:
    crosscoder = crosscoder_of()
    with pytest.raises(CrossdiffError, match="9 wide"):
        latent_table(crosscoder, [torch.randn(5, 9)])
    with pytest.raises(CrossdiffError, match="data set is empty"):
        latent_table(crosscoder, [])
    bad = torch.randn(5, 2 * D)
    bad[2, 1] = torch.nan
    with pytest.raises(CrossdiffError, match="1 of 5 tokens have NaN .*first at row 2"):
        latent_table(crosscoder, [bad])
    with pytest.raises(CrossdiffError, match="named base and chat"):
        latent_table(
            Crosscoder(CrosscoderConfig(d_in=8, d_sae=4, model_names=["v1", "v2"])),
            [torch.randn(5, 8)],
        )
    crosscoder.cfg.metadata.provenance = Provenance(hook_name="blocks.3.hook_out").to_dict()
    with pytest.raises(CrossdiffError, match="do not belong together: hook_name"):
        latent_table(crosscoder, [torch.randn(5, 2 * D)], provenance=Provenance(hook_name="x"))
