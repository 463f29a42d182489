"""The latent table's columns that come from Latent Scaling: betas, nus, intervals, p-values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.diffing.intervals import Interval, p_below, p_within, ratio_interval
from sae_crossdiff.diffing.latent_scaling import TARGETS, LatentScaling
from sae_crossdiff.diffing.norms import relative_decoder_norm
from sae_crossdiff.diffing.nulls import p_against_nulls, q_values
from sae_crossdiff.diffing.refit import RefittedDecoders
from sae_crossdiff.diffing.verdicts import TESTED, VerdictThresholds


def scaling_columns(
    scaling: LatentScaling, thresholds: VerdictThresholds, beta_intervals: bool = False
) -> dict[str, Any]:
    """Betas, nus in both directions and their intervals, each [latents]."""
    columns: dict[str, Any] = {}
    for target in TARGETS:
        for m, model in enumerate(("base", "chat")):
            name = f"beta_{target}_{model}"
            columns[name] = scaling.betas(target)[m]
            if beta_intervals:
                terms = scaling.products(target)[m], scaling.norms()
                columns |= _ends(name, ratio_interval(*terms, thresholds.confidence))
    for prefix, direction in (("", "chat"), ("base_", "base")):
        for target in TARGETS:
            name = f"{prefix}nu_{target}"
            columns[name] = scaling.nu(target, direction)
            if target in TESTED:
                terms = scaling.nu_terms(target, direction)
                columns |= _ends(name, ratio_interval(*terms, thresholds.confidence))
    return columns


def refit_columns(
    refitted: RefittedDecoders,
    scaling: LatentScaling,
    units: Crosscoder,
    thresholds: VerdictThresholds,
) -> dict[str, Any]:
    """`refitted_delta` and its interval, and the p- and q-values of `nulls`, of which one part is
    about the refitted norms."""
    norms = refitted.norms(units)
    base, chat = refitted.square_terms(units, scaling)
    ratio = ratio_interval(base, chat, thresholds.confidence)
    # Delta falls as the ratio rises, so the ends change places.
    ends = Interval(_delta_of(ratio.high), _delta_of(ratio.low))
    delta = relative_decoder_norm(norms[0], norms[1])
    p_refitted = p_below(base, chat, _square_ratio(thresholds.refitted_delta))
    return {
        "refitted_delta": delta,
        **_ends("refitted_delta", ends),
        **_p_columns(p_refitted, scaling, thresholds),
    }


def _p_columns(
    p_refitted: NDArray[np.float64], scaling: LatentScaling, thresholds: VerdictThresholds
) -> dict[str, NDArray[np.float64]]:
    """p- and q-values of the two null hypotheses of `nulls`, and nus of made-up latents."""
    parts = [
        p_within(*scaling.nu_terms("error"), thresholds.nu_error),
        p_within(*scaling.nu_terms("reconstruction"), thresholds.nu_reconstruction),
        p_refitted,
    ]
    specific, null = np.maximum.reduce(parts), p_against_nulls(scaling)
    return {
        **{f"null_nu_{target}": _numpy(scaling.nu(target, "permuted")) for target in TESTED},
        "p_specific": specific,
        "q_specific": q_values(specific),
        "p_null": null,
        "q_null": q_values(null),
    }


def _numpy(values: Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().numpy()


def _delta_of(square_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Delta of (||d_base|| / ||d_chat||)^2; a negative end of an interval counts as 0."""
    ratio = np.sqrt(np.maximum(square_ratio, 0))
    with np.errstate(divide="ignore"):
        return np.where(ratio <= 1, 1 - ratio / 2, 0.5 / ratio)


def _square_ratio(delta: float) -> float:
    """The inverse of `_delta_of`, for Delta >= 1/2."""
    return (2 * (1 - delta)) ** 2


def _ends(name: str, interval: Interval) -> dict[str, NDArray[np.float64]]:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}
