"""A finished run, loaded back: models, crosscoder, latent table, and what training left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sae_crossdiff.crosscoders import Crosscoder, load_crosscoder
from sae_crossdiff.diffing import load_table
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions import Exclusions
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.training import CrosscoderRunnerConfig


class LoadedRun(NamedTuple):
    """`folder`: of the crosscoder; `exclusions`: tokens that training left out."""

    folder: Path
    config: CrosscoderRunnerConfig
    pair: HookedModelPair
    crosscoder: Crosscoder
    table: pd.DataFrame
    exclusions: Exclusions


def load_run(run: Path, crosscoder: str = "", device: str = "", dtype: str = "") -> LoadedRun:
    """Load what `crossdiff train` and `crossdiff table` (or `crossdiff demo`) left in `run`.

    Args:
        crosscoder: which of the run's crosscoders; may be left out if there is one only.
        device, dtype: other than the run's own.

    Raises:
        CrossdiffError: no run there, no such crosscoder, no latent table yet.
    """
    config = CrosscoderRunnerConfig.from_file(run / "runner_cfg.json")
    if dtype:
        config = dataclasses.replace(config, pair=dataclasses.replace(config.pair, dtype=dtype))
    name = chosen_crosscoder(config, crosscoder)
    table = load_table(table_path(run, config, name))
    loaded = load_crosscoder(run / name, device or config.pair.device)
    policy = config.activations.outliers
    exclusions = Exclusions.of_run(run, policy, loaded.cfg.model_names)
    pair = config.load_pair(device)
    return LoadedRun(run / name, config, pair, loaded, table, exclusions)


def chosen_crosscoder(config: CrosscoderRunnerConfig, name: str = "") -> str:
    """The run's only crosscoder, or the one that was named."""
    names = list(config.crosscoders)
    name = name or (names[0] if len(names) == 1 else "")
    if name not in names:
        raise CrossdiffError(f"crosscoder {name!r}: this run has {', '.join(names)}; pass one")
    return name


def table_path(run: Path, config: CrosscoderRunnerConfig, name: str) -> Path:
    """Beside the crosscoder, or, as `crossdiff demo` leaves it, in the run folder."""
    beside, above = run / name / "latent_table.parquet", run / "latent_table.parquet"
    alone = len(config.crosscoders) == 1
    return above if alone and not beside.exists() and above.exists() else beside
