"""Peak memory of training steps, each kind in a process of its own."""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sae_crossdiff.testbeds.speed import (
    OURS_SCREENED,
    SAELENS_BATCHTOPK,
    Shape,
    planted_batches,
    saelens_trainer,
    trainer,
)


class PeakMemory(NamedTuple):
    """In bytes: `total` of three steps, and `beyond` weights, gradients and both Adam moments."""

    total: int
    beyond: int


def peak_memory(shape: Shape, work: str) -> PeakMemory:
    """Peak memory of three training steps (`OURS_SCREENED` or `SAELENS_BATCHTOPK`).

    On the CPU the resident set's peak over what the process held before, measured in a fresh
    process; on CUDA the allocator's own peak.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_measure, shape, work).result()


def _measure(shape: Shape, work: str) -> PeakMemory:
    batches = planted_batches(shape, n=3)
    before = _peak(shape)
    step: Any
    if work == SAELENS_BATCHTOPK:
        whole = saelens_trainer(shape, "batchtopk")
        step = whole.step
    else:
        assert work == OURS_SCREENED
        whole = trainer(shape, "batchtopk")
        step = whole.train_step
    for batch in batches:
        step(batch)
    total = _peak(shape) - before
    parameters = sum(p.numel() * p.element_size() for p in whole.sae.parameters())
    return PeakMemory(total, total - 4 * parameters)


def _peak(shape: Shape) -> int:
    if shape.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, not inherited from the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
