"""Latent tables on disk: parquet, with provenance in the file's own metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sae_crossdiff.errors import CrossdiffError

_KEY = b"sae_crossdiff"


def save_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a latent table; any parquet reader reads it, `load_table` also its `attrs`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    bare = table.copy(deep=False)
    bare.attrs = {}
    arrow = pa.Table.from_pandas(bare)
    extra = {_KEY: json.dumps(table.attrs).encode()}
    pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **extra}), path)
    return path


def load_table(path: str | Path) -> pd.DataFrame:
    """Read a latent table; `attrs` holds provenance, thresholds and quality.

    Raises:
        CrossdiffError: no such file, or a parquet file that is no latent table.
    """
    path = Path(path)
    if not path.exists():
        raise CrossdiffError(f"no latent table {path}: make one with `crossdiff table`")
    try:
        arrow = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise CrossdiffError(f"{path} is not a parquet file: {error}") from error
    extra = (arrow.schema.metadata or {}).get(_KEY)
    if extra is None:
        raise CrossdiffError(f"{path} is a parquet file, but no latent table of this package")
    table = arrow.to_pandas()
    table.attrs = json.loads(extra)
    return table
