"""From numbers to a verdict per latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from sae_crossdiff.errors import CrossdiffError

VERDICTS = (
    "chat-specific",
    "shrunk",
    "decoupled",
    "shared",
    "base-only",
    "base-specific",
    "undecided",
    "dead",
)
TESTED = ("error", "reconstruction")


@dataclass(frozen=True)
class VerdictThresholds:
    """Thresholds of the verdict; the two nus are the paper's (arXiv:2504.02922).

    Args:
        nu_error: |nu_error| below it: the base error does not contain the latent's direction (no
            Complete Shrinkage). Absolute, because a base decoder that points the other way
            (nu = -1) is present, not absent.
        nu_reconstruction: |nu_reconstruction| below it: no other base decoder writes it (no
            Latent Decoupling).
        refitted_delta: the relative norm of the *refitted* decoders must exceed it. 0.6 is the
            end of the "shared" bucket. Delta > 0.9 would be too much to ask: a token that both
            models represent, along different directions, keeps Delta near 0.7 for ever.
        min_active: on fewer active tokens a latent is undecided.
        confidence: of the intervals, which must lie wholly on one side of a threshold.
    """

    nu_error: float = 0.2
    nu_reconstruction: float = 0.5
    refitted_delta: float = 0.6
    min_active: int = 30
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if min(self.nu_error, self.nu_reconstruction) <= 0:
            raise CrossdiffError(
                f"nu_error={self.nu_error} and nu_reconstruction={self.nu_reconstruction} must be "
                "positive: the paper uses 0.2 and 0.5"
            )
        if not 0.5 <= self.refitted_delta < 1:
            raise CrossdiffError(f"refitted_delta={self.refitted_delta} must lie in [0.5, 1)")
        if not 0 < self.confidence < 1:
            raise CrossdiffError(f"confidence={self.confidence} must lie in (0, 1)")


def verdicts(table: pd.DataFrame, thresholds: VerdictThresholds) -> pd.Series:
    """One of `VERDICTS` per latent; the first rule that applies, in this order.

    "Below" and "above" a threshold mean the whole confidence interval, "inside" likewise.

    dead            never fired
    undecided       fired on fewer than `min_active` tokens, or has no nu
    chat-specific   both nus below their thresholds, refitted norms outside the shared band
    base-specific   the same with the roles of the models exchanged
    shrunk          chat-only by norm (Delta > 0.9), but nu_error is above: the concept is in the
                    base error; or the refitted norms are alike
    decoupled       chat-only by norm and nu_error below, but nu_reconstruction above: other base
                    decoders write it
    base-only       base-only by norm (Delta < 0.1), without the evidence for base-specific
    shared          both models have it: refitted norms inside the shared band, or nu_error and
                    its reverse both above
    undecided       the rest: an interval straddles a threshold

    Raises:
        CrossdiffError: a table without intervals.
    """
    t = thresholds
    chat_error = _Sides.of(table, "nu_error", t.nu_error)
    chat_reconstruction = _Sides.of(table, "nu_reconstruction", t.nu_reconstruction)
    base_error = _Sides.of(table, "base_nu_error", t.nu_error)
    base_reconstruction = _Sides.of(table, "base_nu_reconstruction", t.nu_reconstruction)
    low, high = table["refitted_delta_low"], table["refitted_delta_high"]
    alike = (low >= 1 - t.refitted_delta) & (high <= t.refitted_delta)
    chat_only, base_only = table["delta"] > 0.9, table["delta"] < 0.1
    # One nu alone may be undefined: a decoder that is exactly zero is a direction of nothing.
    no_nu = table["nu_error"].isna() & table["base_nu_error"].isna()
    no_evidence = (table["active_tokens"] < t.min_active) | no_nu
    chat = chat_error.below & chat_reconstruction.below & (low > t.refitted_delta)
    base = base_error.below & base_reconstruction.below & (high < 1 - t.refitted_delta)
    rules = [
        (table["active_tokens"] == 0, "dead"),
        (no_evidence, "undecided"),
        (chat, "chat-specific"),
        (base, "base-specific"),
        (chat_only & (chat_error.above | alike), "shrunk"),
        (chat_only & chat_error.below & chat_reconstruction.above, "decoupled"),
        (base_only, "base-only"),
        (alike | (chat_error.above & base_error.above), "shared"),
    ]
    conditions = [rule.to_numpy(dtype=bool) for rule, _ in rules]
    chosen = np.select(conditions, [name for _, name in rules], default="undecided")
    return pd.Series(chosen, index=table.index, dtype="string")


class _Sides(NamedTuple):
    """On which side of a threshold the interval of |nu| lies, if on one."""

    below: pd.Series
    above: pd.Series

    @classmethod
    def of(cls, table: pd.DataFrame, name: str, threshold: float) -> _Sides:
        if f"{name}_low" not in table:
            raise CrossdiffError(
                f"this table has no column {name}_low: it was made before verdicts used intervals. "
                "Make it again with `crossdiff table`"
            )
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        below = (low > -threshold) & (high < threshold)
        return cls(below, (low >= threshold) | (high <= -threshold))


def specificity(table: pd.DataFrame, thresholds: VerdictThresholds) -> pd.Series:
    """The verdict score: 1 = nothing of it in the base, 0 = at a threshold, negative = fails.

    1 - max of |nu_error|, |nu_reconstruction| and the refitted ||d_base|| / ||d_chat||, each over
    its threshold. NaN for latents that are no candidates: fewer than `min_active` active tokens, or
    a refitted base decoder that is larger than the chat decoder.
    """
    delta = table["refitted_delta"]
    shares = [
        table["nu_error"].abs() / thresholds.nu_error,
        table["nu_reconstruction"].abs() / thresholds.nu_reconstruction,
        (1 - delta) / (1 - thresholds.refitted_delta),  # = the ratio of norms over its threshold
    ]
    candidate = (table["active_tokens"] >= thresholds.min_active) & (delta > 0.5)
    return (1 - pd.concat(shares, axis=1).max(axis=1, skipna=False)).where(candidate)
