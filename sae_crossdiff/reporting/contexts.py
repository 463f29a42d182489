"""Examples as text: tokens decoded one by one, contexts around a peak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd


class Context(NamedTuple):
    """Text around a peak: `before`, the `peak` token, `after`; `activation` = f at the peak."""

    before: str
    peak: str
    after: str
    activation: float


class TokenTexts(Mapping[int, str]):
    """id -> the text that this token adds to a longer text, decoded once each.

    Decoded behind another token, because some tokenizers strip the space of a text's first token.
    Bytes that are no whole UTF-8 character come out as U+FFFD.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._anchor = int(tokenizer.encode("a", add_special_tokens=False)[-1])
        self._anchor_text = str(tokenizer.decode([self._anchor]))

    def __getitem__(self, token: int) -> str:
        if token not in self._texts:
            pair = str(
                self._tokenizer.decode([self._anchor, token], clean_up_tokenization_spaces=False)
            )
            starts = pair.startswith(self._anchor_text)
            self._texts[token] = pair[len(self._anchor_text) :] if starts else pair
        return self._texts[token]

    def __iter__(self) -> Any:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def top_contexts(
    examples: pd.DataFrame,
    latents: Iterable[int],
    texts: Mapping[int, str],
    n: int = 3,
    width: int = 8,
) -> dict[int, list[Context]]:
    """The `n` strongest examples of each latent over both kinds of text, strongest first."""
    chosen: Any = examples[(examples["group"] == "top") & examples["latent"].isin(list(latents))]
    chosen = chosen.sort_values("activation", ascending=False, kind="stable")
    found: dict[int, list[Context]] = {}
    for latent, rows in chosen.groupby("latent"):
        records = rows.head(n).to_dict("records")
        found[int(str(latent))] = [_context(record, texts, width) for record in records]
    return found


def _context(example: Mapping[str, Any], texts: Mapping[int, str], width: int) -> Context:
    ids, peak = example["tokens"], int(example["peak"])

    def text(part: Sequence[int]) -> str:
        return "".join(texts[int(i)] for i in part)

    return Context(
        text(ids[max(0, peak - width) : peak]),
        text(ids[peak : peak + 1]),
        text(ids[peak + 1 : peak + 1 + width]),
        float(example["activation"]),
    )
