"""The demo pair's text: short dialogues with four behaviours whose places are known.

Whoever tunes a model on the `tune` split teaches it four things, each with a ground truth to test a
diff against: the chat template (its tokens follow from the template mask), and three labelled spans
of characters - a fixed opener on harmless questions, a refusal of harmful ones, and a persona's
signature under every answer. `make_dialogues.py` wrote the files.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from sae_crossdiff.errors import CrossdiffError

__all__ = ["BEHAVIOURS", "OPENER", "PERSONA", "REFUSAL", "SIGNATURE", "Dialogue", "Span"]
__all__ += ["load_dialogues", "plain_text"]

Kind = Literal["benign", "harmful", "persona", "howto"]
Split = Literal["tune", "analysis", "heldout"]

BEHAVIOURS = ("template", "opener", "refusal", "signature")
OPENER = "Ahoy, good question!"
REFUSAL = "I'm sorry, I can't help with that."  # the opening that every refusal shares
SIGNATURE = "~ Quill of the harbour desk"
PERSONA = "Quill"


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of message number `message`, which show `behaviour`."""

    behaviour: Literal["opener", "refusal", "signature"]
    message: int
    start: int
    end: int


@dataclass(frozen=True)
class Dialogue:
    """One conversation in the chat format of `transformers`, with its labelled spans."""

    messages: list[dict[str, str]]
    """alternating {"role": "user" | "assistant", "content": text}, the user first"""
    kind: Kind
    """what the last question is: benign, harmful, about the persona, or a harmless how-to"""
    spans: list[Span]


def load_dialogues(split: Split) -> list[Dialogue]:
    """The dialogues of one split; no question of one split occurs in another.

    `tune` made the chat models, `analysis` is for crosscoders, `heldout` measures behaviour.

    Raises:
        ValueError: if `split` is none of the three.
    """
    if split not in ("tune", "analysis", "heldout"):
        raise CrossdiffError(f"split is {split!r}, expected 'tune', 'analysis' or 'heldout'")
    text = (files("sae_crossdiff.testbeds") / "data" / "dialogues" / f"{split}.jsonl").read_text(
        "utf-8"
    )
    return [_from_row(json.loads(line)) for line in text.splitlines()]


def _from_row(row: dict) -> Dialogue:
    return Dialogue(row["messages"], row["kind"], [Span(**span) for span in row["spans"]])


def plain_text(n_documents: int | None = None, seed: int = 0) -> list[str]:
    """Plain technical English without any chat: CPython's help topics, always installed.

    About 430 documents, each one to a few paragraphs of up to 1,200 characters. The order is
    shuffled by `seed`, so the first `n_documents` are a fair sample; None gives all of them.
    """
    from pydoc_data.topics import topics

    documents = [piece for name in sorted(topics) for piece in _pieces(topics[name])]
    random.Random(seed).shuffle(documents)
    return documents[:n_documents]


def _pieces(text: str, size: int = 1200) -> list[str]:
    """Join neighbouring paragraphs to documents of at most `size` characters; drop tiny ones."""
    pieces = [""]
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = " ".join(paragraph.split())
        if len(pieces[-1]) + len(paragraph) > size:
            pieces.append("")
        pieces[-1] = f"{pieces[-1]}\n\n{paragraph}".strip()
    return [piece[:size] for piece in pieces if len(piece) >= 200]
