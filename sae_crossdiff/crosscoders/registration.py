"""Tell SAELens about the crosscoder architectures."""

from __future__ import annotations

from typing import Any

from sae_lens.registry import (
    SAE_CLASS_REGISTRY,
    SAE_TRAINING_CLASS_REGISTRY,
    register_sae_class,
    register_sae_training_class,
)

from sae_crossdiff.crosscoders.batchtopk import BatchTopKCrosscoder, BatchTopKCrosscoderConfig
from sae_crossdiff.crosscoders.crosscoder import Crosscoder, CrosscoderConfig
from sae_crossdiff.crosscoders.l1 import L1Crosscoder, L1CrosscoderConfig
from sae_crossdiff.crosscoders.shared_l1 import SharedL1Crosscoder, SharedL1CrosscoderConfig


def register_architectures() -> None:
    """Register `crosscoder` (inference) and the training architectures; safe to call again."""
    pairs: list[tuple[dict[str, Any], Any, Any, Any]] = [
        (SAE_CLASS_REGISTRY, register_sae_class, Crosscoder, CrosscoderConfig),
    ]
    for cls, cfg in (
        (BatchTopKCrosscoder, BatchTopKCrosscoderConfig),
        (L1Crosscoder, L1CrosscoderConfig),
        (SharedL1Crosscoder, SharedL1CrosscoderConfig),
    ):
        pairs.append((SAE_TRAINING_CLASS_REGISTRY, register_sae_training_class, cls, cfg))
    for registry, register, cls, cfg in pairs:
        known = registry.get(cfg.architecture())
        if known is not None and known[0].__qualname__ == cls.__qualname__:
            del registry[cfg.architecture()]  # a notebook reloaded the package: the new one counts
        register(cfg.architecture(), cls, cfg)
