"""Which tokens to leave out. BOS and new attention sinks would dominate every average."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sae_crossdiff.activations.batches import ActivationBatch
from sae_crossdiff.errors import CrossdiffError


@dataclass(frozen=True)
class OutlierPolicy:
    """On by default, because real residual streams need it (a Gemma BOS is 15x the median norm).

    Args:
        drop_special: leave out BOS and padding.
        max_norm_ratio: leave out tokens whose norm exceeds this multiple of the median norm in
            any model; None keeps them.
        calibration_tokens: the medians come from at least this many first tokens.
    """

    drop_special: bool = True
    max_norm_ratio: float | None = 5.0
    calibration_tokens: int = 16_384

    def __post_init__(self) -> None:
        if self.max_norm_ratio is not None and self.max_norm_ratio <= 1:
            raise CrossdiffError(
                f"max_norm_ratio={self.max_norm_ratio} would drop half of all tokens: "
                "use a value well above 1, or None to keep all"
            )


@dataclass
class OutlierReport:
    """What a filter left out: counts of tokens, and the ids met most often among them."""

    seen: int = 0
    special: int = 0
    large_norm: int = 0
    median_norms: list[float] = field(default_factory=list)
    large_norm_ids: Counter[int] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        return self.seen - self.special - self.large_norm

    def to_dict(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "kept": self.kept,
            "special": self.special,
            "large_norm": self.large_norm,
            "median_norms": self.median_norms,
            "large_norm_ids": dict(self.large_norm_ids.most_common(10)),
        }


class OutlierFilter:
    """Applies a policy to a stream of batches. The medians are set once, from its first tokens.

    Use one filter for training and evaluation, so that both see the same kind of tokens.
    """

    def __init__(self, policy: OutlierPolicy, d_ins: Sequence[int]):
        self.policy = policy
        self.d_ins = list(d_ins)
        self.median_norms: Tensor | None = None
        self.report = OutlierReport()

    def __call__(self, batches: Iterable[ActivationBatch]) -> Iterator[ActivationBatch]:
        waiting: list[ActivationBatch] = []
        n_waiting = 0
        for batch in batches:
            if self.median_norms is not None:
                yield self._filter(batch)
                continue
            waiting.append(batch)
            n_waiting += len(batch)
            if n_waiting >= self.policy.calibration_tokens:
                yield from self._release(waiting)
                waiting = []
        if waiting:
            yield from self._release(waiting)

    def _release(self, waiting: list[ActivationBatch]) -> Iterator[ActivationBatch]:
        norms = torch.cat([self._norms(b)[~_special(b)] for b in waiting])
        if not len(norms):
            raise CrossdiffError("every token is BOS or padding: the text is empty")
        self.median_norms = norms.median(dim=0).values
        self.report.median_norms = self.median_norms.tolist()
        for batch in waiting:
            yield self._filter(batch)

    def _norms(self, batch: ActivationBatch) -> Tensor:
        parts = batch.acts.split(self.d_ins, dim=-1)
        return torch.stack([part.float().norm(dim=-1) for part in parts], dim=-1)

    def _filter(self, batch: ActivationBatch) -> ActivationBatch:
        assert self.median_norms is not None
        special = _special(batch)
        if not self.policy.drop_special:
            special = torch.zeros_like(special)
        large = torch.zeros_like(special)
        if self.policy.max_norm_ratio is not None:
            large = (self._norms(batch) > self.policy.max_norm_ratio * self.median_norms).any(-1)
            large &= ~special
        self.report.seen += len(batch)
        self.report.special += int(special.sum())
        self.report.large_norm += int(large.sum())
        self.report.large_norm_ids.update(batch.token_ids[large].tolist())
        keep = ~(special | large)
        return batch if bool(keep.all()) else batch.select(keep)


def _special(batch: ActivationBatch) -> Tensor:
    return batch.masks.get("special", torch.zeros(len(batch), dtype=torch.bool))
