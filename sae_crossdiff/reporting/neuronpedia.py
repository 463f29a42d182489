"""Latents as the JSON that SAEDashboard writes and Neuronpedia imports: a format export.

Field names and meanings follow SAEDashboard 0.8 (`NeuronpediaDashboardBatch`), whose own classes
read our file. That package cannot be installed beside current versions of ours (it pins
transformer-lens < 3); no file of ours has been imported into a running Neuronpedia.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.reporting.contexts import TokenTexts
from sae_crossdiff.reporting.example_files import HISTOGRAMS, load_examples
from sae_crossdiff.reporting.lens import logit_lens
from sae_crossdiff.reporting.report_data import ReportSources

N_LOGITS = 10
N_INTERVALS, N_BARS = 5, 50  # SAEDashboard's defaults
_TOP = -1.0  # bin_min and bin_contains of the strongest examples: Neuronpedia heads them "Top"
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
    (raw units), `pos_str` and `neg_str` are its logit lens (empty without a pair; SAEDashboard
    leaves the final norm out, so its values have another scale). `activations` holds the examples
    of both kinds of text: the strongest (`bin_min` -1), and sampled ones under the fifth of
    [0, strongest] that they fall into, with its share of all tokens. These shares and the
    histogram's 50 bars are interpolated from counts in half octaves. Fields about neurons, heads
    and correlations, which are not measured, are empty; numbers of the audit have no place in the
    format and stay in the latent table.

    Neuronpedia's converter reads the files of a folder that are called `batch-*.json`.

    Raises:
        CrossdiffError: no latents, ones that do not exist, or a hook point without a layer.
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
    if not parts:
        raise CrossdiffError(f"Neuronpedia files latents under a layer, and {hook!r} names none")
    return int(parts[0])


def _features(sources: ReportSources, latents: list[int]) -> list[dict[str, Any]]:
    texts = _StorableTexts(sources.tokenizer)
    examples = dict(iter(load_examples(sources.examples, latents).groupby("latent")))
    histograms = dict(
        iter(load_examples(sources.examples, latents, name=HISTOGRAMS).groupby("latent"))
    )
    logits = _logits(sources, latents, texts)
    n_tokens = sources.table.attrs["quality"]["tokens"]
    features = []
    for i, latent in enumerate(latents):
        row = sources.table.loc[latent]
        counts = _Counts.of(histograms.get(latent), examples.get(latent), n_tokens)
        features.append(
            {
                "feature_index": latent,
                **{f"neuron_alignment_{n}": [] for n in ("indices", "values", "l1")},
                **{f"correlated_{n}": [] for n in _CORRELATIONS},
                **logits[i],
                "frac_nonzero": float(row["active_tokens"] / n_tokens),
                **counts.histogram(),
                "logits_hist_data_bar_heights": [],
                "logits_hist_data_bar_values": [],
                "n_prompts_total": 0,
                "n_tokens_in_prompt": 0,
                "dataset": str(sources.table.attrs["provenance"].get("text", "")),
                "decoder_weights_dist": [],
                "activations": _activations(examples.get(latent), counts, texts),
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


class _StorableTexts(TokenTexts):
    """Without NUL and halves of characters, which Neuronpedia's database does not store."""

    def __getitem__(self, token: int) -> str:
        text = super().__getitem__(token).replace("\0", "\ufffd")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _Counts(NamedTuple):
    """How many active tokens lie below each of `edges`; between them it is interpolated."""

    edges: NDArray[np.float64]
    below: NDArray[np.float64]
    strongest: float
    n_tokens: int

    @classmethod
    def of(
        cls, histogram: pd.DataFrame | None, examples: pd.DataFrame | None, n_tokens: int
    ) -> _Counts:
        if histogram is None or examples is None:
            return cls(np.zeros(1), np.zeros(1), 0.0, n_tokens)
        both: Any = histogram.groupby(["low", "high"])["tokens"].sum()
        both = both.reset_index()
        strongest = float(examples["activation"].max())
        # Bins without tokens are not in the frame; the last one reaches beyond the strongest.
        edges = np.stack([both["low"], both["high"].clip(upper=strongest)], 1).ravel()
        cumulated = both["tokens"].cumsum()
        below = np.stack([cumulated - both["tokens"], cumulated], 1).ravel()
        return cls(edges, below.astype(float), strongest, n_tokens)

    def within(self, ends: NDArray[np.float64]) -> NDArray[np.float64]:
        """Active tokens between consecutive ends."""
        return np.diff(np.interp(ends, self.edges, self.below))

    def histogram(self) -> dict[str, list[float]]:
        names = ("freq_hist_data_bar_values", "freq_hist_data_bar_heights")
        if not self.strongest:
            return {name: [] for name in names}
        ends = np.linspace(self.edges[0], self.strongest, N_BARS + 1)
        return {
            names[0]: ((ends[:-1] + ends[1:]) / 2).tolist(),
            names[1]: self.within(ends).round(1).tolist(),
        }

    def intervals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of the fifths of [0, strongest] and their shares of all tokens, silent ones too."""
        ends = np.linspace(0, self.strongest, N_INTERVALS + 1)
        tokens = self.within(ends)
        tokens[0] += self.n_tokens - tokens.sum()
        return ends, tokens / self.n_tokens


def _activations(
    examples: pd.DataFrame | None, counts: _Counts, texts: Mapping[int, str]
) -> list[dict[str, Any]]:
    if examples is None:
        return []
    ends, shares = counts.intervals()
    fifths = np.searchsorted(ends[1:-1], examples["activation"], side="right")
    return [
        {
            **(
                {"bin_min": _TOP, "bin_max": counts.strongest, "bin_contains": _TOP}
                if example["bin"] < 0
                else {
                    "bin_min": float(ends[fifth]),
                    "bin_max": float(ends[fifth + 1]),
                    "bin_contains": float(shares[fifth]),
                }
            ),
            "tokens": [texts[int(t)] for t in example["tokens"]],
            "values": [float(v) for v in example["activations"]],
            "qualifying_token_index": int(example["peak"]),
        }
        for example, fifth in zip(examples.to_dict("records"), fifths, strict=True)
    ]


def _chat_rows(crosscoder: Crosscoder) -> Tensor:
    return crosscoder.W_dec_per_model[crosscoder.index_of("chat")].detach()
