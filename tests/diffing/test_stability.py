from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from sae_crossdiff import Crosscoder, CrosscoderConfig, CrossdiffError, save_table
from sae_crossdiff.cli import app
from sae_crossdiff.diffing.stability import AuditedRun, compare_runs, match_latents

F, D_IN = 12, 16


def run_of(W_dec: torch.Tensor, specific: list[int]) -> AuditedRun:
    crosscoder = Crosscoder(CrosscoderConfig(d_in=D_IN, d_sae=F))
    crosscoder.W_dec.data = W_dec.clone()
    verdicts = ["chat-specific" if i in specific else "shared" for i in range(F)]
    nus = {"nu_error": torch.rand(F).numpy(), "nu_reconstruction": torch.rand(F).numpy()}
    return AuditedRun(crosscoder, pd.DataFrame({"verdict": verdicts, **nus}))


def test_matching_maximises_the_sum_of_cosines() -> None:
    chosen, others = torch.randn(4, 6), torch.randn(6, 6)
    cosines = torch.nn.functional.cosine_similarity(chosen[:, None], others[None], dim=-1)
    best = max(
        sum(float(cosines[i, j]) for i, j in enumerate(order))
        for order in permutations(range(6), 4)
    )
    matches = match_latents(chosen, others)
    assert len(set(matches.partner.tolist())) == 4
    assert matches.cosine.sum() == pytest.approx(best, abs=1e-5)
    for i, (j, cosine) in enumerate(zip(matches.partner, matches.cosine, strict=True)):
        assert cosine == pytest.approx(float(cosines[i, j]), abs=1e-5)
    with pytest.raises(CrossdiffError, match="cannot match 6 latents"):
        match_latents(others, chosen)


def test_permuted_rescaled_run_replicates_what_has_the_same_verdict() -> None:
    W_dec = torch.randn(F, D_IN)
    order = torch.randperm(F)
    first = run_of(W_dec, specific=[0, 1, 2])
    there = [int((order == i).nonzero()) for i in range(F)]  # where latent i went
    second = run_of(W_dec[order] * 3.0, specific=[there[0], there[1], there[7]])
    summary, matches = compare_runs({"a": first, "b": second}, "chat-specific")
    forth = summary.iloc[0]
    assert (forth["latents"], forth["matched"], forth["replicated"]) == (3, 3, 2)
    assert forth["by_chance"] == pytest.approx(3 * 3 / F)
    assert forth["median_cosine"] == pytest.approx(1.0)
    assert matches[matches["run"] == "a"]["partner"].tolist() == [there[0], there[1], there[2]]
    unrelated = run_of(torch.randn(F, D_IN), specific=[0])
    assert compare_runs({"a": first, "c": unrelated}, "chat-specific", 0.9)[0]["matched"].max() == 0
    with pytest.raises(CrossdiffError, match="at least two"):
        compare_runs({"a": first}, "chat-specific")


def test_command_compares_folders(tmp_path: Path) -> None:
    W_dec = torch.randn(F, D_IN)
    for name in ("a", "b"):
        run = run_of(W_dec, specific=[3])
        run.crosscoder.save_model(tmp_path / name)
        save_table(run.table, tmp_path / name / "latent_table.parquet")
    runner = CliRunner(env={"COLUMNS": "160"})
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    shown = runner.invoke(app, ["stability", *folders, "--output", str(tmp_path / "m.parquet")])
    assert shown.exit_code == 0, shown.output
    assert pd.read_parquet(tmp_path / "m.parquet")["replicated"].tolist() == [True, True]
    wrong = runner.invoke(app, ["stability", *folders, "--verdict", "new"])
    assert wrong.exit_code == 1
    assert "no verdict 'new'" in wrong.stderr
