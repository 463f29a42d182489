from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from sae_crossdiff import CrossdiffError, TextSource, token_sequences
from tests.tiny_models import word_tokenizer

TOKENIZER = word_tokenizer()
CHAT = [{"role": "user", "content": "w1 w2 w3"}, {"role": "assistant", "content": "w4"}]


def words(n: int, start: int = 0) -> str:
    return " ".join(f"w{(start + i) % 100}" for i in range(n))


def test_long_documents_are_cut_and_every_piece_begins_with_bos() -> None:
    [*pieces] = token_sequences([TextSource([words(20)])], TOKENIZER, context_size=8)
    assert [len(piece) for piece in pieces] == [8, 8, 7]
    assert all(piece.ids[0] == TOKENIZER.bos_token_id for piece in pieces)
    content = np.concatenate([piece.ids[~piece.masks["special"]] for piece in pieces])
    assert content.tolist() == TOKENIZER(words(20), add_special_tokens=False)["input_ids"]
    assert {piece.document for piece in pieces} == {0}


def test_mixing_keeps_the_ratio_in_tokens() -> None:
    plain = TextSource([words(10, i) for i in range(400)], weight=3.0)
    chat = TextSource([CHAT] * 400, kind="chat", weight=1.0)
    sequences = list(token_sequences([plain, chat], TOKENIZER, n_tokens=2000))
    total = sum(len(s) for s in sequences)
    in_chat = sum(int(s.masks["chat"].sum()) for s in sequences)
    assert 2000 <= total < 2000 + 20
    assert in_chat / total == pytest.approx(0.25, abs=0.01)
    assert len({s.document for s in sequences}) == len(sequences)


@pytest.mark.parametrize("kind", ["jsonl", "txt", "dataset", "dicts"])
def test_sources(kind: str, tmp_path: Path) -> None:
    texts = [words(3), words(4, 10)]
    data: Any = [{"text": t} for t in texts]
    if kind == "dataset":
        data = datasets.Dataset.from_list(data)
    if kind == "jsonl":
        path = tmp_path / "t.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in data))
        data = str(path)
    if kind == "txt":
        path = tmp_path / "t.txt"
        path.write_text("\n\n".join(texts))
        data = str(path)
    sequences = list(token_sequences([TextSource(data)], TOKENIZER))
    assert [TOKENIZER.decode(s.ids[1:]) for s in sequences] == texts


def test_special_tokens_are_not_template_tokens() -> None:
    [sequence] = token_sequences([TextSource([CHAT], kind="chat")], TOKENIZER)
    assert sequence.masks["special"].tolist() == [True] + [False] * (len(sequence) - 1)
    assert not (sequence.masks["special"] & sequence.masks["template"]).any()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no text source"),
        ([TextSource([])], "is empty"),
        ([TextSource(["", "  "])], "is empty"),
        ([TextSource([{"body": "x"}])], "no column 'text', only \\['body'\\]"),
        ([TextSource([CHAT])], "kind='chat'"),
        ([TextSource("nowhere.jsonl")], "cannot read the data set"),
    ],
)
def test_bad_text(sources: list[TextSource], message: str) -> None:
    with pytest.raises(CrossdiffError, match=message):
        list(token_sequences(sources, TOKENIZER))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0 bytes"),
        ('{"text": "w1"}\n{"text": ', "cannot read the data set"),
        ('{"text": null}\n', "expected text, got NoneType"),
    ],
)
def test_broken_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    with pytest.raises(CrossdiffError, match=message):
        list(token_sequences([TextSource(path)], TOKENIZER))


def test_bad_settings() -> None:
    with pytest.raises(CrossdiffError, match="weight"):
        TextSource(["a"], weight=0)
    with pytest.raises(CrossdiffError, match="'plain' or 'chat'"):
        TextSource(["a"], kind="prose")  # type: ignore[arg-type]
    with pytest.raises(CrossdiffError, match="context_size"):
        list(token_sequences([TextSource(["w1"])], TOKENIZER, context_size=1))
