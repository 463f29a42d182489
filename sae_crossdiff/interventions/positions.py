"""What each token of a batch is, and at which of them an edit acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.errors import CrossdiffError

CUT_TURN = 100_000  # the index given to a turn whose beginning lies in another sequence


@dataclass(frozen=True)
class TokenRoles:
    """Masks [batch, pos] of a batch of token sequences.

    `real` (not padding), `special` (BOS, padding), `template` (chat markup), `assistant` (inside
    an assistant message), `prompt` (before the last answer). `turn_index`: which prediction of its
    assistant turn a position makes: 0 where the turn's first token is predicted, -1 where no
    assistant token is.
    """

    real: Bool[Tensor, "batch pos"]
    special: Bool[Tensor, "batch pos"]
    template: Bool[Tensor, "batch pos"]
    assistant: Bool[Tensor, "batch pos"]
    prompt: Bool[Tensor, "batch pos"]
    turn_index: Int[Tensor, "batch pos"]

    @classmethod
    def of(cls, sequences: Sequence[TokenSequence], pad_left: bool = False) -> TokenRoles:
        """Roles of `sequences` padded to one length."""
        lengths = [len(s) for s in sequences]
        masks = {name: padded([_mask(s, name) for s in sequences], pad_left) for name in _MASKS}
        real = padded([np.ones(n, dtype=bool) for n in lengths], pad_left)
        index = padded([turn_index(_mask(s, "assistant")) for s in sequences], pad_left, fill=-1)
        prompt = padded([_before_last_answer(_mask(s, "assistant")) for s in sequences], pad_left)
        return cls(real, masks["special"], masks["template"], masks["assistant"], prompt, index)

    @classmethod
    def plain(cls, tokens: Int[Tensor, "batch pos"], special_ids: Sequence[int]) -> TokenRoles:
        """Roles of text without a chat: everything is prompt."""
        nothing = torch.zeros_like(tokens, dtype=torch.bool)
        special = torch.isin(tokens, torch.tensor(list(special_ids), device=tokens.device))
        index = torch.full_like(tokens, -1)
        return cls(~nothing, special, nothing, nothing, ~nothing, index)

    @property
    def shape(self) -> torch.Size:
        return self.real.shape

    @property
    def predicts(self) -> Bool[Tensor, "batch pos"]:
        """Positions that predict an assistant token."""
        return self.turn_index >= 0

    def to(self, device: torch.device | str) -> TokenRoles:
        return TokenRoles(**{name: mask.to(device) for name, mask in vars(self).items()})

    def at(self, columns: slice) -> TokenRoles:
        """The roles of some columns (positions) only."""
        return TokenRoles(**{name: mask[:, columns] for name, mask in vars(self).items()})


_MASKS = ("special", "template", "assistant")


def padded(rows: Sequence[np.ndarray], left: bool = False, fill: int = 0) -> Tensor:
    """Rows of different lengths as one tensor [rows, longest]."""
    width = max(map(len, rows))
    out = np.full((len(rows), width), fill, dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        start = width - len(row) if left else 0
        out[i, start : start + len(row)] = row
    return torch.from_numpy(out)


def turn_index(assistant: np.ndarray) -> np.ndarray:
    """For each position the number of the assistant token it predicts in its turn, else -1."""
    index = np.full(len(assistant), -1, dtype=np.int64)
    for position in np.flatnonzero(assistant[1:]):
        if position == 0:  # markup precedes a turn, so this one began in an earlier piece
            index[position] = CUT_TURN
        else:
            index[position] = index[position - 1] + 1 if assistant[position] else 0
    return index


def _before_last_answer(assistant: np.ndarray) -> np.ndarray:
    starts = np.flatnonzero(assistant & ~np.concatenate([[False], assistant[:-1]]))
    return np.arange(len(assistant)) < (starts[-1] if len(starts) else len(assistant))


def _mask(sequence: TokenSequence, name: str) -> np.ndarray:
    return sequence.masks.get(name, np.zeros(len(sequence), dtype=bool))


@dataclass(frozen=True)
class Positions:
    """Where an edit acts: a named choice of positions; combine with `&`, `|` and `~`."""

    name: str
    choose: Callable[[TokenRoles], Tensor]

    def __call__(self, roles: TokenRoles) -> Bool[Tensor, "batch pos"]:
        return self.choose(roles) & roles.real

    def __and__(self, other: Positions) -> Positions:
        return Positions(f"({self.name} & {other.name})", lambda r: self(r) & other(r))

    def __or__(self, other: Positions) -> Positions:
        return Positions(f"({self.name} | {other.name})", lambda r: self(r) | other(r))

    def __invert__(self) -> Positions:
        return Positions(f"~{self.name}", lambda r: ~self(r))


EVERYWHERE = Positions("all", lambda roles: roles.real)
PROMPT = Positions("prompt", lambda roles: roles.prompt)
ASSISTANT = Positions("assistant", lambda roles: roles.assistant)
TEMPLATE = Positions("template", lambda roles: roles.template)


def first_of_turn(n: int) -> Positions:
    """The first `n` positions of each assistant turn that predict an assistant token.

    The first of them is the template token before the answer (for Gemma the newline after
    "model"): it decides how the answer begins.
    """
    if n < 1:
        raise CrossdiffError(f"first_of_turn({n}) chooses nothing: n must be at least 1")
    return Positions(f"first {n}", lambda roles: roles.predicts & (roles.turn_index < n))


NAMED = {p.name: p for p in (EVERYWHERE, PROMPT, ASSISTANT, TEMPLATE)}


def named_positions(name: str) -> Positions:
    """`all`, `prompt`, `assistant`, `template`, or `first:N` (first N of each assistant turn)."""
    kind, _, number = name.partition(":")
    if kind == "first" and number.isdigit():
        return first_of_turn(int(number))
    if name not in NAMED:
        raise CrossdiffError(f"positions {name!r}: use {', '.join(NAMED)} or first:N")
    return NAMED[name]
