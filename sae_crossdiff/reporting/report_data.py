"""The data of a report, packed into one text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.diffing import VERDICTS
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.reporting import figures
from sae_crossdiff.reporting.columns import (
    CATEGORIES,
    INTRODUCED,
    by_relevance,
    fires_on,
    table_arrays,
)
from sae_crossdiff.reporting.contexts import TokenTexts
from sae_crossdiff.reporting.details import TokenTable, latent_details
from sae_crossdiff.reporting.example_files import HISTOGRAMS, load_examples
from sae_crossdiff.reporting.lens import TopTokens, decoder_lenses
from sae_crossdiff.reporting.neighbours import nearest_latents
from sae_crossdiff.reporting.overview import causal_rows, overview, split_singles
from sae_crossdiff.reporting.packing import pack

_FIRES_ON_COLUMNS = ["latent", "text", "group", "activation", "token"]


@dataclass(frozen=True)
class ReportConfig:
    """What goes into the file.

    Args:
        n_detailed: latents with examples, histograms, neighbours and lens: those in which the
            models differ by verdict, then the highest verdict scores. Numbers are there for all.
        latents: further ones.
        n_tokens: per logit lens.
        n_neighbours: per latent.
    """

    n_detailed: int = 1000
    latents: tuple[int, ...] = ()
    n_tokens: int = 10
    n_neighbours: int = 8

    def __post_init__(self) -> None:
        if min(self.n_detailed, self.n_tokens, self.n_neighbours) < 1:
            raise CrossdiffError(
                f"n_detailed={self.n_detailed}, n_tokens={self.n_tokens} and "
                f"n_neighbours={self.n_neighbours} must be at least 1"
            )


class ReportSources(NamedTuple):
    """What a report is made of. `examples` is a folder with the files of `save_examples`; `pair`
    may be None (no logit lens), then `tokenizer` must be the pair's; `kl`: see `causal_results`."""

    table: pd.DataFrame
    crosscoder: Crosscoder
    examples: Path
    tokenizer: Any
    pair: HookedModelPair | None = None
    kl: pd.DataFrame | None = None


def report_payload(sources: ReportSources, config: ReportConfig) -> str:
    """All data of the report in one packed text, see `packing.pack`."""
    table, tokens = sources.table, TokenTable(TokenTexts(sources.tokenizer))
    order = by_relevance(table)
    latents = detailed_latents(table, order, config)
    everything: Any = load_examples(sources.examples, columns=_FIRES_ON_COLUMNS)
    histograms: Any = load_examples(sources.examples, name=HISTOGRAMS)
    samples = everything[everything["group"] == "sample"]
    peaks = fires_on(samples, histograms, len(table))
    arrays = {
        **table_arrays(table),
        "relevance": np.array(order, dtype=np.int32),
        "fires_on": np.vectorize(tokens.number, otypes=[np.int32])(peaks),
    }
    sets, alone = (None, {}) if sources.kl is None else split_singles(sources.kl)
    details = latent_details(
        latents,
        table,
        load_examples(sources.examples, latents),
        histograms[histograms["latent"].isin(latents)],
        nearest_latents(sources.crosscoder, latents, config.n_neighbours),
        _lenses(sources, latents, config.n_tokens),
        tokens,
    )
    for latent, scores in alone.items():
        if str(latent) in details:
            details[str(latent)]["kl"] = causal_rows(scores)[-1]
    content = {
        "overview": overview(table, sources.crosscoder),
        "categories": CATEGORIES,
        "colours": {verdict: figures.COLOURS[verdict] for verdict in VERDICTS},
        "figures": _figures(sources, histograms, order[0], sets),
        "details": details,
        "kl": None if sets is None else causal_rows(sets),
        "tokens": tokens.texts,
    }
    return pack(content, arrays)


def detailed_latents(table: pd.DataFrame, order: list[int], config: ReportConfig) -> list[int]:
    """The latents with examples: first those in which the models differ by verdict, then the rest
    of `order`, `n_detailed` in all; and those asked for."""
    beyond = [j for j in config.latents if not 0 <= j < len(order)]
    if beyond:
        raise CrossdiffError(f"no latent {beyond[0]}: they are numbered 0 to {len(order) - 1}")
    differs = set(table.index[table["verdict"].isin(INTRODUCED)])
    first = sorted(order, key=lambda j: j not in differs)  # stable: keeps the order otherwise
    return list(dict.fromkeys([*first[: config.n_detailed], *config.latents]))


def _lenses(sources: ReportSources, latents: list[int], n: int) -> dict[str, TopTokens]:
    if sources.pair is None:
        return {}
    return decoder_lenses(sources.pair, sources.crosscoder, latents, n)


def _figures(
    sources: ReportSources, histograms: pd.DataFrame, latent: int, kl: pd.DataFrame | None
) -> dict[str, dict[str, Any]]:
    limits = sources.table.attrs["thresholds"]
    found = {
        f"nu_{target}": figures.delta_against_nu(
            {"All": sources.table}, target, limits[f"nu_{target}"], colour_by="verdict"
        )
        for target in ("error", "reconstruction")
    }
    found["histogram"] = figures.activation_histogram(histograms, latent)
    if kl is not None:
        found["kl"] = figures.kl_by_condition(kl)
    return {name: figures.on_any_background(figure) for name, figure in found.items()}
