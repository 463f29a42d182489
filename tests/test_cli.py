from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sae_crossdiff import load_table
from sae_crossdiff.cli import app
from sae_crossdiff.testbeds.dialogues import load_dialogues, plain_text
from sae_crossdiff.testbeds.tiny_pair import tiny_pair

RUNNER = CliRunner(env={"COLUMNS": "160", "HF_HUB_OFFLINE": "1"})


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("text")
    plain, chat = root / "plain.jsonl", root / "chat.jsonl"
    plain.write_text("\n".join(json.dumps({"text": t}) for t in plain_text(60)))
    rows = [{"messages": d.messages} for d in load_dialogues("analysis")[:150]]
    chat.write_text("\n".join(json.dumps(row) for row in rows))
    return plain, chat


def flags(corpora: tuple[Path, Path], output: Path) -> list[str]:
    base, chat = tiny_pair()
    return [
        "train", "--base", str(base), "--chat", str(chat), "--hook", "blocks.1.hook_resid_post",
        "--text", str(corpora[0]), "--dialogues", str(corpora[1]), "--d-sae", "128", "--k", "8",
        "--total-tokens", "40960", "--batch-size", "512", "--warm-up-steps", "5", "--lr", "2e-3",
        "--threshold-from-step", "30", "--dtype", "float32", "--output", str(output),
    ]  # fmt: skip


def test_train_then_table(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    trained = RUNNER.invoke(app, flags(corpora, tmp_path))
    assert trained.exit_code == 0, trained.output
    assert "Next: crossdiff table" in trained.output
    audited = RUNNER.invoke(app, ["table", str(tmp_path), "--n-tokens", "8000"])
    assert audited.exit_code == 0, audited.output
    assert "FVE base" in audited.output
    table = load_table(tmp_path / "batchtopk" / "latent_table.parquet")
    assert len(table) == 128
    assert table.attrs["provenance"]["hook_name"] == "blocks.1.hook_resid_post"


def test_help_teaches() -> None:
    for command in ("train", "table", "demo"):
        shown = RUNNER.invoke(app, [command, "--help"])
        assert shown.exit_code == 0
        assert len(shown.output) > 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--hook", "blocks.7.hook_resid_post"], "has no hook point"),
        (["--k", "1000"], "raise d_sae"),
        (["--text", "missing.jsonl"], "cannot read the data set"),
        (["--base", "./nowhere"], "no config.json"),
        (["--threshold-from-step", "1000"], "beyond this run's 80 steps"),
        (["--dtype", "float16"], "float16 overflows"),
        (["--config", "nothing.yaml"], "beside --config"),
        (["--device", "cuda:99"], "sees no CUDA GPU" if not torch.cuda.is_available() else ""),
        (["--device", "gpu"], "is unknown"),
        (["--total-tokens", "10"], "less than one batch"),
        (["--dialogues-column", "talk"], "no column 'talk'"),
    ],
)
def test_bad_input_ends_in_one_line(
    corpora: tuple[Path, Path], tmp_path: Path, change: list[str], message: str
) -> None:
    arguments = flags(corpora, tmp_path)
    if change[0] == "--text":
        at = arguments.index("--text")
        arguments[at : at + 2] = change
    else:
        arguments += change
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert message in " ".join(result.stderr.split())


def test_missing_flags_and_missing_run(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["train", "--base", "x"])
    assert result.exit_code == 1
    assert "missing --chat, --hook, --text" in result.stderr
    result = RUNNER.invoke(app, ["table", str(tmp_path)])
    assert result.exit_code == 1
    assert "no config file" in result.stderr


def test_bench_prints_and_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    small = ["--d-model", "16", "--d-sae", "64", "--k", "4", "--batch-size", "128", "--rounds", "2"]
    result = RUNNER.invoke(app, ["bench", *small, "--no-memory", "--output", str(file)])
    assert result.exit_code == 0, result.output
    assert "F = 64" in result.output
    figures = json.loads(file.read_text())
    (shape,) = figures["shapes"]
    assert all(seconds > 0 for seconds in shape["seconds"].values())
    rates = figures["harvest_tokens_per_second"]
    assert rates["harvest, masks and shuffling"] > 0


def test_bench_refuses_an_impossible_shape() -> None:
    result = RUNNER.invoke(app, ["bench", "--d-sae", "16", "--k", "64", "--no-memory"])
    assert result.exit_code == 1
    assert "k at most d_sae" in result.output
