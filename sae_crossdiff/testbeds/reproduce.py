"""The paper's central claims (arXiv:2504.02922) where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from scipy.stats import spearmanr

from sae_crossdiff.crosscoders import (
    BatchTopKCrosscoderConfig,
    L1CrosscoderConfig,
    SharedL1CrosscoderConfig,
)
from sae_crossdiff.diffing import save_table
from sae_crossdiff.reporting.claims import claim_table, coverage_table, score_table
from sae_crossdiff.reporting.figures import delta_against_nu
from sae_crossdiff.testbeds.coverage import measure_coverage
from sae_crossdiff.testbeds.planted import PlantedConfig, PlantedPair
from sae_crossdiff.testbeds.planted_training import PlantedRun, audit_planted, train_planted
from sae_crossdiff.testbeds.scores import flag_scores
from sae_crossdiff.testbeds.shrinkage import shrinkage_claim
from sae_crossdiff.testbeds.strict_json import write_json

FAILURES = {
    "shared": 120,
    "weaker": 40,
    "rotated": 10,
    "less-often": 10,
    "composed": 8,
    "part": 16,
    "child": 8,
    "co-firing": 8,
    "chat-only": 20,
    "base-only": 20,
}


SHARED_MU = 3
"""At the mu of L1, latents with a fifth of its weight would be nearly dense (L0 near 50)."""


class Setting(NamedTuple):
    """A planted pair and the width of the crosscoders trained on it."""

    pair: PlantedConfig
    d_sae: int


def settings(seed: int) -> dict[str, Setting]:
    """The pairs: standard, hostile (mean and sinks), failures, rare, and two with nothing new."""
    return {
        "standard": Setting(PlantedConfig(seed=seed), 256),
        "hostile": Setting(PlantedConfig(mean_norm=10.0, sink_probability=0.005, seed=seed), 256),
        "failures": Setting(
            PlantedConfig(n_per_kind=FAILURES, weakness_spread=0.15, seed=seed), 320
        ),
        "rare": Setting(PlantedConfig(min_probability=0.001, seed=seed), 256),
        "nothing new": Setting(PlantedConfig(n_per_kind={"shared": 220}, seed=seed), 256),
        "nothing new, noisy": Setting(
            PlantedConfig(n_per_kind={"shared": 220}, noise=0.2, seed=seed), 256
        ),
    }


class ReproduceConfig(NamedTuple):
    """What to run: `seeds` draw the dictionaries, the text and the crosscoders' start."""

    seeds: tuple[int, ...] = (0, 1)
    steps: int = 1500
    mu: float = 0.8
    k: float = 4
    pairs: tuple[str, ...] = tuple(settings(0))
    coverage_runs: int = 60


def run_reproduce(output: Path, console: Console, config: ReproduceConfig | None = None) -> Path:
    """Train, audit, score; print; write reproduce.json, tables and figures. Returns the JSON."""
    config = config or ReproduceConfig()
    output.mkdir(parents=True, exist_ok=True)
    scores, claims = [], []
    for seed in config.seeds:
        for name in config.pairs:
            with console.status(f"pair '{name}', seed {seed}"):
                found, claim = _one_pair(name, seed, config, output)
            scores.append(found.assign(pair=name, seed=seed))
            claims.append({"pair": name, "seed": seed, **claim})
    content: dict[str, Any] = {"config": config._asdict(), "claims": claims}
    content["scores"] = pd.concat(scores).to_dict("records")
    console.print(score_table(pd.DataFrame(content["scores"])))
    console.print(claim_table(claims))
    if config.coverage_runs:
        with console.status("coverage of the intervals"):
            coverage = measure_coverage(config.coverage_runs)
        console.print(coverage_table(coverage))
        flat = coverage.copy()
        flat.columns = [" ".join(pair).strip() for pair in coverage.columns]
        content["coverage"] = flat.reset_index().to_dict("records")
    path = output / "reproduce.json"
    write_json(path, content)
    console.print(f"Tables, figures and {path.name} in {output}", soft_wrap=True, markup=False)
    return path


def _one_pair(
    name: str, seed: int, config: ReproduceConfig, output: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    setting = settings(seed)[name]
    planted = PlantedPair(setting.pair)
    runs = {
        architecture: audit_planted(planted, crosscoder)
        for architecture, crosscoder in train_planted(
            planted, crosscoder_configs(setting, config), config.steps, seed
        ).items()
    }
    found = []
    folder = output / f"{name}-{seed}".replace(",", "").replace(" ", "-")
    for architecture, run in runs.items():
        scores = flag_scores(planted, run).reset_index()
        found.append(scores.assign(architecture=architecture))
        labelled = run.table.assign(
            planted_kind=planted.kinds[run.feature],
            planted_correlation=run.correlation,
            planted_base_share=run.base_share,
        )
        save_table(labelled, folder / f"{architecture}.parquet")
    tables = {architecture: runs[architecture].table for architecture in ("L1", "BatchTopK")}
    for target, threshold in (("error", 0.2), ("reconstruction", 0.5)):
        figure = delta_against_nu(tables, target, threshold)
        figure.write_html(folder / f"delta_against_nu_{target}.html", include_plotlyjs=True)
    return pd.concat(found), claims_of(planted, runs, config.mu)


def crosscoder_configs(setting: Setting, config: ReproduceConfig) -> dict[str, Any]:
    """L1, L1 with half of its latents designated shared, BatchTopK, each with about the same number
    of active latents per token, and a BatchTopK SAE on the activation difference (of which fewer
    features take part)."""
    d_model, d_sae = setting.pair.d_model, setting.d_sae
    l1: dict[str, Any] = {
        "d_in": 2 * d_model,
        "d_sae": d_sae,
        "l1_warm_up_steps": config.steps // 10,
    }

    def batchtopk(d_ins: list[int], names: list[str], k: float) -> BatchTopKCrosscoderConfig:
        return BatchTopKCrosscoderConfig(
            d_in=sum(d_ins),
            d_ins=d_ins,
            model_names=names,
            d_sae=d_sae,
            k=k,
            topk_threshold_start_step=2 * config.steps // 3,
            topk_threshold_lr=0.01,
        )

    return {
        "L1": L1CrosscoderConfig(**l1, l1_coefficient=config.mu),
        "L1 shared": SharedL1CrosscoderConfig(
            **l1,
            l1_coefficient=SHARED_MU * config.mu,
            n_shared=d_sae // 2,
            shared_weight=0.2,
        ),
        "BatchTopK": batchtopk([d_model, d_model], ["base", "chat"], config.k),
        "difference SAE": batchtopk([d_model], ["difference"], config.k / 2),
    }


def claims_of(planted: PlantedPair, runs: dict[str, PlantedRun], mu: float) -> dict[str, Any]:
    """One number or group of numbers per claim of the paper."""
    claims: dict[str, Any] = {}
    for name, run in runs.items():
        table, quality = run.table, run.table.attrs["quality"]
        follows = ((table["active_tokens"] >= 30) & (run.correlation > 0.5)).to_numpy()
        chat_only = follows & (table["delta"] > 0.9).to_numpy()
        in_base = chat_only & ~(run.base_share < 0.2)
        accepted = (table["verdict"] == "chat-specific").to_numpy(dtype=bool)
        chat_side: Any = table[follows & (table["delta"] >= 0.4).to_numpy()]
        claims[name] = {
            "l0": quality["l0"],
            "fve_chat": quality["fve"]["chat"],
            "latents_scored": int(follows.sum()),
            "chat_only_by_delta": int(chat_only.sum()),
            "of_these_in_base": int(in_base.sum()),
            "of_these_rejected_by_verdict": int((in_base & ~accepted).sum()),
            "chat_specific": int(accepted.sum()),
            "made_up_by_point": table.attrs["nulls"]["permuted"]["by_point"],
            "made_up_by_interval": table.attrs["nulls"]["permuted"]["by_interval"],
            **{
                f"spearman_delta_nu_{target}": _spearman(chat_side, target)
                for target in ("error", "reconstruction")
            },
        }
    tokens, _ = planted.sample(30_000, seed=55)
    if planted.config.sink_probability == 0:  # the condition would be about the sinks
        claims["shrinkage"] = shrinkage_claim(planted, runs["L1"], runs["BatchTopK"], mu, tokens)
    return claims


def _spearman(table: pd.DataFrame, target: str) -> float:
    pair = table[["delta", f"nu_{target}"]].dropna()
    result: Any = spearmanr(pair.iloc[:, 0], pair.iloc[:, 1])
    return float(result.statistic)
