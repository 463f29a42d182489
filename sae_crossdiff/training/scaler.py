"""Per-model centring and scaling, as a SAELens ActivationScaler."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor
from typing_extensions import override

from sae_crossdiff.activations import ActivationStatistics


@dataclass
class PerModelScaler(ActivationScaler):
    """x_m -> (x_m - mean_m) * scale_m, so that every model weighs the same in the loss.

    Args:
        mean: [sum(d_ins)] joined means; zeros leave the activations uncentred.
        scale: one factor per model.
        d_ins: widths of the models.
    """

    mean: Tensor = field(default_factory=lambda: torch.zeros(0))
    scale_per_model: list[float] = field(default_factory=list)
    d_ins: list[int] = field(default_factory=list)

    @classmethod
    def identity(cls, d_ins: Sequence[int]) -> PerModelScaler:
        return cls(mean=torch.zeros(sum(d_ins)), scale_per_model=[1.0] * len(d_ins), d_ins=[*d_ins])

    @classmethod
    def from_statistics(cls, statistics: ActivationStatistics) -> PerModelScaler:
        return cls(
            mean=statistics.mean.float(),
            scale_per_model=statistics.scale,
            d_ins=statistics.d_ins,
        )

    def _factor(self, acts: Tensor) -> Tensor:
        factors = torch.tensor(self.scale_per_model, device=acts.device, dtype=acts.dtype)
        return factors.repeat_interleave(torch.tensor(self.d_ins, device=acts.device))

    @override
    def scale(self, acts: Tensor) -> Tensor:
        """Raw activations (any float dtype) -> float32 training units."""
        acts = acts.float()
        return (acts - self.mean.to(acts.device)) * self._factor(acts)

    @override
    def unscale(self, acts: Tensor) -> Tensor:
        return acts / self._factor(acts) + self.mean.to(acts)

    @override
    def save(self, file_path: str) -> None:
        content = {
            "mean": self.mean.tolist(),
            "scale_per_model": self.scale_per_model,
            "d_ins": self.d_ins,
        }
        Path(file_path).write_text(json.dumps(content))

    @override
    def load(self, file_path: str | Path) -> None:
        content = json.loads(Path(file_path).read_text())
        self.mean = torch.tensor(content["mean"])
        self.scale_per_model = content["scale_per_model"]
        self.d_ins = content["d_ins"]
