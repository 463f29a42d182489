"""From numbers to a verdict per latent."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    nu_error: float = 0.2
    nu_reconstruction: float = 0.5
    refitted_delta: float = 0.6
    min_active: int = 30

    def __post_init__(self) -> None:
        if min(self.nu_error, self.nu_reconstruction) <= 0:
            raise CrossdiffError(
                f"nu_error={self.nu_error} and nu_reconstruction={self.nu_reconstruction} must be "
                "positive: the paper uses 0.2 and 0.5"
            )
        if not 0.5 <= self.refitted_delta < 1:
            raise CrossdiffError(f"refitted_delta={self.refitted_delta} must lie in [0.5, 1)")


def verdicts(table: pd.DataFrame, thresholds: VerdictThresholds) -> pd.Series:
    """One of `VERDICTS` per latent; the first rule that applies, in this order.

    dead            never fired
    undecided       fired on fewer than `min_active` tokens, or has no nu
    chat-specific   both nus below their thresholds, refitted norms outside the shared band
    base-specific   the same with the roles of the models exchanged
    shrunk          chat-only by norm (Delta > 0.9), but the concept is in the base error
    decoupled       chat-only by norm, not in the error, but other base decoders write it
    base-only       base-only by norm (Delta < 0.1), without the evidence for base-specific
    shared          both models have it: refitted norms alike, or neither nu_error nor its reverse
                    below the threshold
    undecided       the rest
    """
    t = thresholds
    nu = table[[f"{side}nu_{target}" for side in ("", "base_") for target in TESTED]].abs()
    chat = (nu["nu_error"] < t.nu_error) & (nu["nu_reconstruction"] < t.nu_reconstruction)
    base = (nu["base_nu_error"] < t.nu_error) & (nu["base_nu_reconstruction"] < t.nu_reconstruction)
    refitted = table["refitted_delta"]
    alike = (refitted >= 1 - t.refitted_delta) & (refitted <= t.refitted_delta)
    chat_only, base_only = table["delta"] > 0.9, table["delta"] < 0.1
    in_both_errors = (nu["nu_error"] >= t.nu_error) & (nu["base_nu_error"] >= t.nu_error)
    # One nu alone may be undefined: a decoder that is exactly zero is a direction of nothing.
    no_nu = nu["nu_error"].isna() & nu["base_nu_error"].isna()
    no_evidence = (table["active_tokens"] < t.min_active) | no_nu
    rules = [
        (table["active_tokens"] == 0, "dead"),
        (no_evidence, "undecided"),
        (chat & (refitted > t.refitted_delta), "chat-specific"),
        (base & (refitted < 1 - t.refitted_delta), "base-specific"),
        (chat_only & ((nu["nu_error"] >= t.nu_error) | alike), "shrunk"),
        (chat_only, "decoupled"),
        (base_only, "base-only"),
        (alike | in_both_errors, "shared"),
    ]
    conditions = [rule.to_numpy(dtype=bool) for rule, _ in rules]
    chosen = np.select(conditions, [name for _, name in rules], default="undecided")
    return pd.Series(chosen, index=table.index, dtype="string")


def specificity(table: pd.DataFrame, thresholds: VerdictThresholds) -> pd.Series:
    """The verdict score: 1 = nothing of it in the base, 0 = at a threshold, negative = fails.

    1 - max(|nu_error| / threshold, |nu_reconstruction| / threshold). NaN for latents that are no
    candidates: fewer than `min_active` active tokens, or a refitted base decoder that is larger
    than the chat decoder.
    """
    error = table["nu_error"].abs() / thresholds.nu_error
    reconstruction = table["nu_reconstruction"].abs() / thresholds.nu_reconstruction
    candidate = (table["active_tokens"] >= thresholds.min_active) & (table["refitted_delta"] > 0.5)
    return (1 - np.maximum(error, reconstruction)).where(candidate)
