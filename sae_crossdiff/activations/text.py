"""Text: from any `datasets` source to token sequences that know what each token is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import LabelledSpan, render_chat

_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
_TOKENIZE_AT_ONCE = 64


@dataclass(frozen=True)
class TextSource:
    """One corpus.

    Args:
        data: a hub id, a local file or folder, or rows in memory (strings, message lists, dicts,
            a `datasets.Dataset`).
        kind: "plain" documents, or "chat" dialogues to be rendered with the chat template.
        column: the column of a data set that holds the text, or the list of messages.
        weight: share of the tokens when several sources are mixed.
        split, config: as in `datasets.load_dataset`.
    """

    data: Any
    kind: Literal["plain", "chat"] = "plain"
    column: str = ""
    weight: float = 1.0
    split: str = "train"
    config: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.data, Path):
            object.__setattr__(self, "data", str(self.data))
        if self.kind not in ("plain", "chat"):
            raise CrossdiffError(f"a text source's kind is 'plain' or 'chat', not {self.kind!r}")
        if self.weight <= 0:
            raise CrossdiffError(f"weight={self.weight} of a text source must be positive")

    @property
    def name(self) -> str:
        return self.data if isinstance(self.data, str) else f"{self.kind} rows in memory"

    @property
    def is_on_a_hub(self) -> bool:
        """Whether `data` is a hub id: neither rows in memory nor a file or folder."""
        is_name = isinstance(self.data, str) and Path(self.data).suffix not in _BUILDERS
        return is_name and not Path(self.data).exists()

    def rows(self) -> Iterator[Any]:
        """Strings (plain) or message lists, or dicts with `messages` and `spans` (chat)."""
        column = self.column or ("text" if self.kind == "plain" else "messages")
        if not isinstance(self.data, str):
            yield from (self._cell(row, column) for row in self.data)
            return
        try:  # reading is lazy: a broken file may show up at any row
            for row in self._load():
                yield self._cell(row, column)
        except CrossdiffError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CrossdiffError(
                f"cannot read the data set {self.data!r}: {reason}. Pass a hub id you can reach, "
                f"or a sound file ending in {', '.join(_BUILDERS)}"
            ) from error

    def _load(self) -> Iterable[Any]:
        path = Path(self.data)
        if path.suffix in _BUILDERS and path.exists():
            if not path.stat().st_size:
                raise CrossdiffError(f"the data set {self.data!r} is empty: the file has 0 bytes")
            builder = _BUILDERS[path.suffix]
            options: dict[str, Any] = {"sample_by": "paragraph"} if builder == "text" else {}
            return datasets.load_dataset(
                builder, data_files=str(path), split="train", streaming=True, **options
            )
        return datasets.load_dataset(self.data, self.config, split=self.split, streaming=True)

    def _cell(self, row: Any, column: str) -> Any:
        if not isinstance(row, Mapping) or (self.kind == "chat" and "spans" in row):
            return row
        if column not in row:
            raise CrossdiffError(
                f"{self.name} has no column {column!r}, only {sorted(row)}: pass column="
            )
        return row[column]


@dataclass(frozen=True)
class TokenSequence:
    """One forward pass' worth of one document.

    `ids` [tokens]; `masks` [tokens] booleans: `special` (BOS, padding), `template` (chat markup),
    `assistant` (assistant content), `chat` (all tokens of a dialogue), and one per span label.
    """

    ids: NDArray[np.int64]
    document: int
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def token_sequences(
    sources: Sequence[TextSource],
    tokenizer: PreTrainedTokenizerBase,
    context_size: int = 256,
    n_tokens: int | None = None,
) -> Iterator[TokenSequence]:
    """Tokenise `sources`, mixed by `weight` in units of tokens, until one of them ends.

    Documents longer than `context_size` are cut into several sequences; BOS begins each of them
    where the tokenizer has one. The same ids go to every model.

    Raises:
        CrossdiffError: no source, an empty source, or a context of fewer than two tokens.
    """
    if not sources:
        raise CrossdiffError("no text source: pass at least one TextSource")
    if context_size < 2:
        raise CrossdiffError(f"context_size={context_size} must be at least 2")
    streams = [_sequences_of(source, tokenizer, context_size) for source in sources]
    served = [0.0] * len(sources)
    total, document_ids = 0, {}
    while n_tokens is None or total < n_tokens:
        turn = min(range(len(sources)), key=lambda i: served[i] / sources[i].weight)
        sequence = next(streams[turn], None)
        if sequence is None:
            if served[turn] == 0:
                raise CrossdiffError(f"the data set {sources[turn].name!r} is empty: no text in it")
            return
        served[turn] += len(sequence)
        total += len(sequence)
        document = document_ids.setdefault((turn, sequence.document), len(document_ids))
        yield TokenSequence(sequence.ids, document, sequence.masks)


def _sequences_of(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, context_size: int
) -> Iterator[TokenSequence]:
    documents = _plain_ids if source.kind == "plain" else _chat_ids
    special = _special_ids(tokenizer)
    for document, (ids, masks) in enumerate(documents(source, tokenizer)):
        for chunk in _chunks(len(ids), context_size, first_is_bos=_starts_with_bos(ids, tokenizer)):
            # Later pieces of a cut document begin with BOS again (index 0 of the document).
            chunk_ids = ids[chunk]
            chunk_masks = {name: mask[chunk] for name, mask in masks.items()}
            chunk_masks["special"] = np.isin(chunk_ids, special)
            chunk_masks["template"] = chunk_masks["template"] & ~chunk_masks["special"]
            yield TokenSequence(chunk_ids, document, chunk_masks)


def _plain_ids(source: TextSource, tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    rows = iter(source.rows())
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    while texts := list(islice(rows, _TOKENIZE_AT_ONCE)):
        wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
        if wrong:
            raise CrossdiffError(
                f"{source.name}: expected text, got {wrong[0]}; for dialogues pass "
                "kind='chat', else name the text's column"
            )
        texts = [text for text in texts if text.strip()]
        if not texts:
            continue
        with warnings.catch_warnings():  # "sequence longer than the model's maximum": cut below
            warnings.simplefilter("ignore")
            encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        for ids in encoded:
            array = np.array(bos + list(ids), dtype=np.int64)
            none = np.zeros(len(array), dtype=bool)
            yield array, {"template": none, "assistant": none, "chat": none}


def _chat_ids(source: TextSource, tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    for row in source.rows():
        messages, spans = (row["messages"], row["spans"]) if isinstance(row, Mapping) else (row, ())
        if not messages:  # like an empty document
            continue
        chat = render_chat(messages, tokenizer, [_span(span) for span in spans])
        yield chat.ids, {**chat.masks, "chat": np.ones(len(chat.ids), dtype=bool)}


def _span(span: Any) -> LabelledSpan:
    if isinstance(span, Mapping):
        return LabelledSpan(span["label"], span["message"], span["start"], span["end"])
    return LabelledSpan(*span)


def _chunks(n: int, size: int, first_is_bos: bool) -> Iterator[NDArray[np.int64]]:
    """Indices of consecutive pieces of at most `size`; each later piece repeats a leading BOS."""
    start = 0
    while start < n:
        repeat = first_is_bos and start > 0
        end = min(n, start + size - repeat)
        yield np.concatenate([np.zeros(int(repeat), dtype=np.int64), np.arange(start, end)])
        start = end


def _starts_with_bos(ids: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase) -> bool:
    return len(ids) > 0 and ids[0] == tokenizer.bos_token_id


def _special_ids(tokenizer: Any) -> list[int]:
    """BOS and padding. End-of-sequence stays: some templates end each turn with it."""
    ids = {tokenizer.bos_token_id, tokenizer.pad_token_id} - {None}
    if tokenizer.eos_token_id != tokenizer.bos_token_id:
        ids -= {tokenizer.eos_token_id}
    return sorted(ids)
