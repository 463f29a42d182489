"""Where latents fire: examples and histograms, gathered while the latent table is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import SparseCode
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.reporting.histograms import TEXTS, ActivationHistograms
from sae_crossdiff.reporting.top_per_group import TopPerGroup

N_QUANTILES = 4
NO_TOKEN = -1


@dataclass(frozen=True)
class ExampleConfig:
    """How many examples are kept per latent and kind of text, and how wide they are.

    Args:
        n_top: the strongest tokens, at most one per document.
        n_sampled: active tokens drawn uniformly, later cut into quartiles of their activation.
        before, after: tokens of context on either side.
    """

    n_top: int = 5
    n_sampled: int = 8
    before: int = 12
    after: int = 8

    def __post_init__(self) -> None:
        if min(self.n_top, self.n_sampled) < 1 or min(self.before, self.after) < 0:
            raise CrossdiffError(
                f"n_top={self.n_top} and n_sampled={self.n_sampled} must be positive, "
                f"before={self.before} and after={self.after} not negative"
            )


class _Tokens(NamedTuple):
    """Consecutive tokens and their code; `entries` = row * n_latents + latent, ascending."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    documents: NDArray[np.int64]
    chat: NDArray[np.bool_]
    entries: NDArray[np.int64]
    values: NDArray[np.float32]

    def joined(self, later: _Tokens, n_latents: int) -> _Tokens:
        shifted = later._replace(entries=later.entries + len(self.ids) * n_latents)
        columns: Any = (np.concatenate(pair) for pair in zip(self, shifted, strict=True))
        return _Tokens(*columns)

    def after(self, start: int, n_latents: int) -> _Tokens:
        """The tokens from `start` on."""
        first = np.searchsorted(self.entries, start * n_latents)
        rest = self._replace(entries=self.entries - start * n_latents)
        columns: Any = (*(a[start:] for a in rest[:4]), *(a[first:] for a in rest[4:]))
        return _Tokens(*columns)

    def sequences(self) -> NDArray[np.int64]:
        """A number per token that changes where another sequence begins."""
        breaks = (np.diff(self.documents) != 0) | (np.diff(self.positions) <= 0)
        return np.concatenate([[0], np.cumsum(breaks)])


class ExampleCollector:
    """Pass as an observer to `latent_table`; then `examples()` and `histograms()`.

    Plain text and dialogues (the mask `chat`) are kept apart. A token whose context reaches into
    the next batch waits for it, so results do not depend on how the tokens are batched. Memory:
    2 * F * (n_top + n_sampled) * (before + 1 + after) * 8 bytes and some (F = 73,728 with the
    defaults: 0.43 GB).

    Raises (when called):
        CrossdiffError: activations without token ids.
    """

    def __init__(self, n_latents: int, config: ExampleConfig | None = None):
        self.config = config or ExampleConfig()
        self.n_latents = n_latents
        self._histograms = ActivationHistograms(n_latents)
        width = self.config.before + 1 + self.config.after
        empty: dict[str, NDArray[np.generic]] = {
            "tokens": np.full(width, NO_TOKEN, dtype=np.int32),
            "activations": np.zeros(width, dtype=np.float32),
            "activation": np.array(0, dtype=np.float32),
            "document": np.array(-1, dtype=np.int64),
            "position": np.array(-1, dtype=np.int32),
        }
        n_groups = len(TEXTS) * n_latents
        self._top = TopPerGroup(n_groups, self.config.n_top, empty)
        self._sample = TopPerGroup(n_groups, self.config.n_sampled, empty)
        self._pending: _Tokens | None = None
        self._start = 0  # first pending token that was not looked at yet
        self._offset = 0  # tokens that came before the pending ones

    def __call__(self, batch: ActivationBatch, code: SparseCode) -> None:
        new = _tokens(batch, code)
        pending = new if self._pending is None else self._pending.joined(new, self.n_latents)
        self._look_at(pending, len(pending.ids) - self.config.after)

    def _look_at(self, pending: _Tokens, end: int) -> None:
        """Offer the entries of the tokens up to `end`; keep what later windows still need."""
        if end > self._start:
            self._offer(pending, self._start, end)
            self._start = end
        done = max(0, self._start - self.config.before)
        self._pending = pending.after(done, self.n_latents)
        self._start -= done
        self._offset += done

    def _offer(self, tokens: _Tokens, start: int, end: int) -> None:
        edges = np.searchsorted(tokens.entries, [start * self.n_latents, end * self.n_latents])
        chosen = slice(*edges)
        rows, latents = np.divmod(tokens.entries[chosen], self.n_latents)
        values = tokens.values[chosen]
        groups = len(TEXTS) * latents + tokens.chat[rows]
        self._histograms.add(groups, values)
        sequences = tokens.sequences()

        def payload(indices: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
            at = rows[indices]
            ids, acts = self._windows(tokens, sequences, at, latents[indices])
            return {
                "tokens": ids,
                "activations": acts,
                "activation": values[indices],
                "document": tokens.documents[at],
                "position": tokens.positions[at],
            }

        self._top.offer(groups, values.astype(np.float64), tokens.documents[rows], payload)
        number = self._offset + rows
        self._sample.offer(groups, _uniform(number, latents), number, payload)

    def _windows(
        self,
        tokens: _Tokens,
        sequences: NDArray[np.int64],
        rows: NDArray[np.int64],
        latents: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Token ids and the latent's activations around each row; outside its sequence none."""
        around = rows[:, None] + np.arange(-self.config.before, self.config.after + 1)
        inside = (around >= 0) & (around < len(tokens.ids))
        around = around.clip(0, len(tokens.ids) - 1)
        inside &= sequences[around] == sequences[rows][:, None]
        wanted = around * self.n_latents + latents[:, None]
        found = np.searchsorted(tokens.entries, wanted).clip(max=len(tokens.entries) - 1)
        active = inside & (tokens.entries[found] == wanted)
        ids = np.where(inside, tokens.ids[around], NO_TOKEN)
        return ids, np.where(active, tokens.values[found], 0)

    def examples(self) -> pd.DataFrame:
        """One row per example, sorted by latent, text, group, bin and falling activation.

        Columns: `latent`; `text` (plain, chat); `group` (top, sample); `bin` (0 to 3: quartile of
        the activation among the latent's sampled tokens of that text; -1 for top); `activation`;
        `token` (id of the peak); `document`, `position` (in its sequence); `tokens`,
        `activations` (lists: ids around the peak and this latent's activation on each); `peak`
        (index of the peak in them).
        """
        self._finish()
        parts = [self._frame(self._top, "top"), self._frame(self._sample, "sample")]
        frame = pd.concat(parts, ignore_index=True)
        order = ["latent", "text", "group", "bin", "activation"]
        frame = frame.sort_values(order, ascending=[True, True, False, True, False], kind="stable")
        return frame.reset_index(drop=True)

    def histograms(self) -> pd.DataFrame:
        """See `ActivationHistograms.frame`."""
        self._finish()
        return self._histograms.frame()

    def _finish(self) -> None:
        if self._pending is not None:
            self._look_at(self._pending, len(self._pending.ids))

    def _frame(self, kept: TopPerGroup, name: str) -> pd.DataFrame:
        groups, slots = np.nonzero(kept.filled)
        tokens, acts = (kept.payload[n][groups, slots] for n in ("tokens", "activations"))
        real = tokens != NO_TOKEN
        first = real.argmax(1)
        frame = pd.DataFrame(
            {
                "latent": (groups // len(TEXTS)).astype(np.int32),
                "text": pd.Categorical.from_codes(groups % len(TEXTS), list(TEXTS)),
                "group": pd.Categorical([name] * len(groups), ["sample", "top"]),
                "bin": np.int8(-1),
                **{
                    n: kept.payload[n][groups, slots]
                    for n in ("activation", "document", "position")
                },
                "token": tokens[:, self.config.before],
                "tokens": [row[keep] for row, keep in zip(tokens, real, strict=True)],
                "activations": [row[keep] for row, keep in zip(acts, real, strict=True)],
                "peak": (self.config.before - first).astype(np.int16),
            }
        )
        if name == "sample":
            per_group = frame.groupby(groups)["activation"]
            rank, size = per_group.rank(method="first") - 1, per_group.transform("size")
            frame["bin"] = (rank * N_QUANTILES // size).astype(np.int8)
        return frame


def _tokens(batch: ActivationBatch, code: SparseCode) -> _Tokens:
    if len(batch) and int(batch.token_ids.min()) < 0:
        raise CrossdiffError(
            "these activations come without token ids, so there is no text to show: pass batches "
            "from `harvest`, or build the table without examples"
        )
    entries = (code.rows * code.n_latents + code.latents).cpu().numpy()
    order = np.argsort(entries, kind="stable")
    chat = batch.masks.get("chat")
    return _Tokens(
        batch.token_ids.cpu().numpy(),
        batch.positions.cpu().numpy(),
        batch.documents.cpu().numpy(),
        np.zeros(len(batch), dtype=bool) if chat is None else chat.cpu().numpy(),
        entries[order],
        code.values.detach().float().cpu().numpy()[order],
    )


def _uniform(tokens: NDArray[np.int64], latents: NDArray[np.int64]) -> NDArray[np.float64]:
    """A fixed pseudo-random number in [0, 1) per (token, latent): SplitMix64 of the two.

    The n largest of a group are a uniform sample of it, the same one however tokens are batched.
    """
    z = tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z ^= latents.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2**53
