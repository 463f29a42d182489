"""Examples and histograms on disk: parquet beside the latent table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from sae_crossdiff.diffing import save_table
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.reporting.examples import ExampleCollector

EXAMPLES, HISTOGRAMS = "activating_examples.parquet", "activation_histograms.parquet"


def save_examples(
    collector: ExampleCollector, table: pd.DataFrame, folder: str | Path
) -> tuple[Path, Path]:
    """Write a collector's examples and histograms, with the provenance of their latent table.

    Any parquet reader reads them; token lists are list columns.
    """
    paths = Path(folder) / EXAMPLES, Path(folder) / HISTOGRAMS
    for path, frame in zip(paths, (collector.examples(), collector.histograms()), strict=True):
        frame.attrs = {
            "provenance": table.attrs["provenance"],
            "n_tokens": table.attrs["quality"]["tokens"],
        }
        save_table(frame, path)
    return paths


def load_examples(
    folder: str | Path,
    latents: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    name: str = EXAMPLES,
) -> pd.DataFrame:
    """Examples (or, with `name=HISTOGRAMS`, histograms) of all or some latents, some columns.

    Raises:
        CrossdiffError: none there.
    """
    path = Path(folder) / name
    if not path.exists():
        raise CrossdiffError(
            f"no activating examples {path}: build the table again with `crossdiff table`"
        )
    filters = None if latents is None else [("latent", "in", [int(j) for j in latents])]
    chosen = None if columns is None else list(columns)
    arrow = pq.read_table(path, columns=chosen, filters=filters)
    frame = arrow.to_pandas()
    metadata = pq.read_schema(path).metadata or {}
    frame.attrs = json.loads(metadata.get(b"sae_crossdiff", b"{}"))
    return frame
