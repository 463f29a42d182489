"""The activation-difference lens on the tiny pair, and its command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_crossdiff import HookedModelPair, token_sequences
from sae_crossdiff.activations import harvest
from sae_crossdiff.cli import app
from sae_crossdiff.reporting.difference_lens import difference_lens, first_tokens
from sae_crossdiff.testbeds.demo import demo_sources


@pytest.fixture(scope="module")
def sequences(pair: HookedModelPair) -> list:
    return list(token_sequences(demo_sources(), pair.tokenizer, n_tokens=6000))


def test_reads_the_mean_of_full_forwards(pair: HookedModelPair, sequences: list) -> None:
    heads = list(first_tokens(sequences, 3, chat=True))
    assert {len(head) for head in heads} == {3}
    found = difference_lens(pair, harvest(pair, heads), positions=(1, 2), n_tokens=4)
    rows = []
    for sequence in sequences:
        if sequence.masks.get("chat", np.zeros(1)).any():
            acts = pair.activations(torch.from_numpy(sequence.ids)[None].long())[0]
            base, chat = pair.split(acts).values()
            rows.append((chat - base)[2])
    mean = torch.stack(rows).mean(0)
    torch.testing.assert_close(found.difference.mean[1], mean, rtol=1e-4, atol=1e-5)
    assert found.table.loc[2, "pieces"] == len(rows)
    model = pair.models["chat"]
    logits = model.unembed(model.ln_final(torch.stack([mean, 0 * mean])[None]))[0]
    expected = (logits[0] - logits[1]).topk(4).indices.tolist()
    decoded = [pair.tokenizer.decode([i]) for i in expected]
    assert [t.strip() for t in found.table.loc[2, "tokens"]] == [t.strip() for t in decoded]


def test_plain_text_and_dialogues_are_kept_apart(sequences: list) -> None:
    documents: dict[bool, set[int]] = {True: set(), False: set()}
    for sequence in sequences:
        documents[bool(sequence.masks.get("chat", np.zeros(1)).any())].add(sequence.document)
    for chat, expected in documents.items():
        heads = list(first_tokens(sequences, 4, chat))
        assert [head.document for head in heads] == sorted(expected)  # one piece of each
    assert len(sequences) > sum(map(len, documents.values())) > len(documents[True]) > 0


def test_command(audited: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "100"})
    shown = runner.invoke(app, ["lens", str(audited), "--n-positions", "2", "--n-tokens", "3000"])
    assert shown.exit_code == 0, shown.output
    assert "plain text" in shown.output
    assert "dialogues" in shown.output
    wrong = runner.invoke(app, ["lens", str(audited), "--n-positions", "0"])
    assert wrong.exit_code == 1
    assert "give one or more" in wrong.stderr
