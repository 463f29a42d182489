from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from sae_crossdiff import (
    Crosscoder,
    CrosscoderRunnerConfig,
    HookedModelPair,
    PairConfig,
    TextConfig,
    TextSource,
    TrainingConfig,
    harvest,
    latent_table,
    load_table,
    save_table,
)
from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.cli import app
from sae_crossdiff.interventions import Steer, chat_prompt, generate
from sae_crossdiff.testbeds.dialogues import load_dialogues
from sae_crossdiff.testbeds.tiny_pair import tiny_pair
from tests.interventions.conftest import SITE

RUNNER = CliRunner(env={"COLUMNS": "200", "HF_HUB_OFFLINE": "1"})


@pytest.fixture(scope="module")
def run(
    pair: HookedModelPair,
    crosscoder: Crosscoder,
    sequences: list[TokenSequence],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run folder as `crossdiff demo` leaves it, with a random crosscoder."""
    folder = tmp_path_factory.mktemp("run")
    base, chat = tiny_pair()
    rows = [d.messages for d in load_dialogues("analysis")[:4]]
    CrosscoderRunnerConfig(
        pair=PairConfig(str(base), str(chat), SITE, dtype="float32"),
        text=TextConfig([TextSource(rows, kind="chat")]),
        training=TrainingConfig(total_tokens=4096, lr_warm_up_steps=0),
        output_path=str(folder),
    ).save(folder / "runner_cfg.json")
    crosscoder.save_model(folder / "batchtopk")
    table = latent_table(crosscoder, harvest(pair, sequences))
    save_table(table, folder / "latent_table.parquet")
    (folder / "outliers.json").write_text(json.dumps({"median_norms": [1e3, 1e3]}))
    return folder


def test_kl(run: Path) -> None:
    arguments = ["kl", str(run), "--dialogues", "heldout", "--size", "3", "--draws", "2"]
    result = RUNNER.invoke(app, [*arguments, "--n-tokens", "300"])
    assert result.exit_code == 0, result.output
    assert "template only" in result.output
    assert "matched 3" in result.output
    scores = pd.read_parquet(run / "batchtopk" / "kl.parquet")
    assert (scores.loc[scores["condition"] == "identity", "kl"] < 1e-5).all()
    assert {"random 3 #0", "random 3 #1"} < set(scores["condition"])


def test_kl_without_text(run: Path) -> None:
    result = RUNNER.invoke(app, ["kl", str(run)])
    assert result.exit_code == 1
    assert "pass --text or --dialogues" in " ".join(result.stderr.split())


def test_steer(run: Path, pair: HookedModelPair, crosscoder: Crosscoder) -> None:
    question = "What is a computer?"
    result = RUNNER.invoke(
        app, ["steer", question, "--latent", "3", "--alpha", "40", "--run", str(run)]
    )
    assert result.exit_code == 0, result.output
    prompt = chat_prompt(question, pair.tokenizer)
    table = load_table(run / "latent_table.parquet")
    for edits in ([], [Steer(3, 40 * float(table["max_activation"][3]))]):
        (ids,) = generate(pair, [prompt], edits, crosscoder)
        assert pair.tokenizer.decode(ids) in result.output
    for arguments, message in (
        (["--latent", "999"], "numbered 0 to 39"),
        (["--latent", "3", "--at", "nowhere"], "first:N"),
        (["--latent", "3", "--max-new-tokens", "0"], "generate nothing"),
    ):
        result = RUNNER.invoke(app, ["steer", question, "--run", str(run), *arguments])
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split())
    result = RUNNER.invoke(app, ["steer", question, "--latent", "3", "--run", "nowhere"])
    assert "no config file" in result.stderr


def test_explain(run: Path, pair: HookedModelPair) -> None:
    result = RUNNER.invoke(app, ["explain", "Who are you?", "--run", str(run), "--top", "3"])
    assert result.exit_code == 0, result.output
    assert "<start_of_turn>" in result.output
    assert "Latents that carry the next token" in result.output
    plain = RUNNER.invoke(app, ["explain", "The ship", "--run", str(run), "--plain"])
    assert plain.exit_code == 0, plain.output
    assert "<start_of_turn>" not in plain.output


def test_help_teaches() -> None:
    for command in ("kl", "steer", "explain"):
        shown = RUNNER.invoke(app, [command, "--help"])
        assert shown.exit_code == 0
        assert len(shown.output) > 600
