"""Activation-difference lens: the mean difference on the first tokens, read as next tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from sae_crossdiff.activations import ActivationBatch, TokenSequence
from sae_crossdiff.diffing import MeanDifference, mean_difference
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.reporting.contexts import TokenTexts
from sae_crossdiff.reporting.lens import logit_lens

POSITIONS = (1, 2, 3, 4, 5)


class DifferenceLens(NamedTuple):
    """`table`: a row per position; `difference`: the directions behind it."""

    table: pd.DataFrame
    difference: MeanDifference


def difference_lens(
    pair: HookedModelPair,
    batches: Iterable[ActivationBatch],
    positions: Sequence[int] = POSITIONS,
    n_tokens: int = 10,
) -> DifferenceLens:
    """Mean chat - base over pieces of text per position (0 is BOS), read through the chat model's
    final norm and unembedding (arXiv:2510.13900).

    Columns: `pieces`, `norm` (noise taken off), `noise`, `agreement` of two halves of the
    documents (cosine), `residual_norm`, `tokens`.

    Raises:
        CrossdiffError: other than two models of equal width, fewer than two pieces of that length,
            a model without an unembedding.
    """
    check_comparable(pair)
    found = mean_difference(batches, positions)
    texts = TokenTexts(pair.tokenizer)
    top = logit_lens(pair.models["chat"], found.mean.to(pair.device), n_tokens)
    table = pd.DataFrame(
        {
            "pieces": found.pieces.long().numpy(),
            "norm": found.norm.numpy(),
            "noise": found.noise.numpy(),
            "agreement": found.agreement.numpy(),
            "residual_norm": found.residual_norm.numpy(),
            "tokens": [[texts[i] for i in row.tolist()] for row in top.ids],
        },
        index=pd.Index(found.positions, name="position"),
    )
    return DifferenceLens(table, found)


def lens_rows(table: pd.DataFrame, title: str) -> Table:
    """The lens in a terminal; norms in percent of the residual stream's."""
    out = Table(title=title, title_justify="left")
    for name in ("position", "pieces", "norm %", "noise %", "agreement"):
        out.add_column(name, justify="right")
    out.add_column("next tokens it raises", ratio=1)
    for position, row in zip(table.index, table.to_dict("records"), strict=True):
        share = [f"{100 * row[name] / row['residual_norm']:.1f}" for name in ("norm", "noise")]
        tokens = " ".join(repr(token) for token in row["tokens"])
        out.add_row(
            str(position),
            str(row["pieces"]),
            *share,
            f"{row['agreement']:.2f}",
            Text(tokens),
        )
    return out


def check_comparable(pair: HookedModelPair) -> None:
    """Raises `CrossdiffError` unless a difference of the two models' activations exists."""
    if len(set(pair.d_ins)) != 1 or len(pair.d_ins) != 2:
        raise CrossdiffError(f"a difference needs two models of equal width, not {pair.d_ins}")


def first_tokens(sequences: Iterable[TokenSequence], n: int, chat: bool) -> Iterator[TokenSequence]:
    """The first `n` tokens of each dialogue (or, with `chat` False, of each plain document): all
    that the lens has to run. Further pieces of a long document are left out."""
    seen: set[int] = set()
    for sequence in sequences:
        wanted = chat == bool(sequence.masks.get("chat", np.zeros(1)).any())
        if wanted and sequence.document not in seen:
            seen.add(sequence.document)
            masks = {name: mask[:n] for name, mask in sequence.masks.items()}
            yield dataclasses.replace(sequence, ids=sequence.ids[:n], masks=masks)
