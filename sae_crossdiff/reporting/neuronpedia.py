"""Latents as the JSON that SAEDashboard writes and Neuronpedia imports: a format export.

Field names follow SAEDashboard 0.8 (`NeuronpediaDashboardBatch`). That package cannot be
installed beside current versions of ours, so nothing here is checked against its importer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.reporting.contexts import TokenTexts
from sae_crossdiff.reporting.example_files import HISTOGRAMS, load_examples
from sae_crossdiff.reporting.lens import logit_lens
from sae_crossdiff.reporting.report_data import ReportSources

N_LOGITS = 10
_CORRELATIONS = [
    f"{what}_{measure}"
    for what in ("neurons", "features")
    for measure in ("indices", "l1", "pearson")
]


def to_neuronpedia(
    sources: ReportSources, latents: Sequence[int], path: str | Path, sae_set: str = "crossdiff"
) -> Path:
    """Write one batch file for a set of latents.

    The format knows one model, so a feature is the chat side: `vector` is the chat decoder row
    (raw units), `pos_str` and `neg_str` are its logit lens (empty without a pair). `activations`
    holds the examples of both kinds of text; `bin_min` and `bin_max` are the ends of the quartile
    that an example was sampled from (its own activation for the strongest), `bin_contains` the
    quartile's share of the latent's active tokens in that kind of text. Histogram bins are half
    octaves: `freq_hist_data_bar_values`, their geometric middles, are not equally far apart.
    `decoder_weights_dist` has the shares of base and chat in the total decoder norm. Fields about
    neurons and correlations, which are not measured, are empty; numbers of the audit have no
    place in the format and stay in the latent table.

    Raises:
        CrossdiffError: no latents, or ones that do not exist.
    """
    latents = [int(j) for j in latents]
    beyond = [j for j in latents if not 0 <= j < len(sources.table)]
    if not latents or beyond:
        raise CrossdiffError(
            f"no latent {beyond[0] if beyond else ''} to export: they are numbered 0 to "
            f"{len(sources.table) - 1}"
        )
    provenance = sources.table.attrs["provenance"]
    hook = provenance.get("hook_name") or str(sources.crosscoder.cfg.metadata.hook_name)
    content = {
        "model_id": str((provenance.get("models") or {}).get("chat", "")),
        "layer": _layer(hook),
        "sae_set": sae_set,
        "sae_id_suffix": None,
        "features": _features(sources, latents),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False), "utf-8")
    return path


def _layer(hook: str) -> int:
    parts = [part for part in hook.split(".") if part.isdigit()]
    return int(parts[0]) if parts else -1


def _features(sources: ReportSources, latents: list[int]) -> list[dict[str, Any]]:
    texts = TokenTexts(sources.tokenizer)
    examples = dict(iter(load_examples(sources.examples, latents).groupby("latent")))
    histograms = dict(
        iter(load_examples(sources.examples, latents, name=HISTOGRAMS).groupby("latent"))
    )
    logits = _logits(sources, latents, texts)
    n_tokens = sources.table.attrs["quality"]["tokens"]
    features = []
    for i, latent in enumerate(latents):
        row = sources.table.loc[latent]
        features.append(
            {
                "feature_index": latent,
                **{f"neuron_alignment_{n}": [] for n in ("indices", "values", "l1")},
                **{f"correlated_{n}": [] for n in _CORRELATIONS},
                **logits[i],
                "frac_nonzero": float(row["active_tokens"] / n_tokens),
                **_histogram(histograms.get(latent)),
                "logits_hist_data_bar_heights": [],
                "logits_hist_data_bar_values": [],
                "n_prompts_total": 0,
                "n_tokens_in_prompt": 0,
                "dataset": str(sources.table.attrs["provenance"].get("text", "")),
                "decoder_weights_dist": _norm_shares(row),
                "activations": _activations(examples.get(latent), texts),
                "vector": _chat_rows(sources.crosscoder)[latent].float().tolist(),
            }
        )
    return features


def _logits(
    sources: ReportSources, latents: list[int], texts: TokenTexts
) -> list[dict[str, list[Any]]]:
    names = ("pos_str", "pos_values", "neg_str", "neg_values")
    if sources.pair is None:
        return [{name: [] for name in names} for _ in latents]
    model, rows = sources.pair.models["chat"], _chat_rows(sources.crosscoder)[latents]
    raised, lowered = (logit_lens(model, sign * rows, N_LOGITS) for sign in (1, -1))
    return [
        {
            "pos_str": [texts[int(t)] for t in raised.ids[i]],
            "pos_values": raised.logits[i].tolist(),
            "neg_str": [texts[int(t)] for t in lowered.ids[i]],
            "neg_values": (-lowered.logits[i]).tolist(),
        }
        for i in range(len(latents))
    ]


def _histogram(histogram: pd.DataFrame | None) -> dict[str, list[float]]:
    names = ("freq_hist_data_bar_values", "freq_hist_data_bar_heights")
    if histogram is None:
        return {name: [] for name in names}
    both: Any = histogram.groupby(["low", "high"])["tokens"].sum()
    both = both.reset_index()
    middles = np.sqrt(both["low"] * both["high"])
    return {names[0]: middles.tolist(), names[1]: both["tokens"].astype(float).tolist()}


def _norm_shares(row: pd.Series) -> list[float]:
    total = row["norm_base"] + row["norm_chat"]
    return [float(row["norm_base"] / total), float(row["norm_chat"] / total)]


def _activations(examples: pd.DataFrame | None, texts: Mapping[int, str]) -> list[dict[str, Any]]:
    if examples is None:
        return []
    quartiles = examples.groupby(["text", "bin"], observed=True)["activation"]
    lows, highs = quartiles.transform("min"), quartiles.transform("max")
    sampled = examples["bin"] >= 0
    ends = zip(
        lows.where(sampled, examples["activation"]),
        highs.where(sampled, examples["activation"]),
        strict=True,
    )
    return [
        {
            "bin_min": float(low),
            "bin_max": float(high),
            "bin_contains": 0.25 if example["bin"] >= 0 else 0.0,
            "tokens": [texts[int(t)] for t in example["tokens"]],
            "values": [float(v) for v in example["activations"]],
            "qualifying_token_index": int(example["peak"]),
        }
        for example, (low, high) in zip(examples.to_dict("records"), ends, strict=True)
    ]


def _chat_rows(crosscoder: Crosscoder) -> Tensor:
    return crosscoder.W_dec_per_model[crosscoder.index_of("chat")].detach()
