"""The works of `crossdiff bench` under pytest-benchmark.

Run with: pytest tests/benchmarks --benchmark-only. Read ratios within one run.
"""

from __future__ import annotations

from typing import Any

import pytest

from sae_crossdiff import HookedModelPair
from sae_crossdiff.testbeds import speed


@pytest.fixture(scope="module", params=[8192, 32768])
def works(request: pytest.FixtureRequest) -> dict[str, speed.Work]:
    return speed.workloads(speed.Shape(d_sae=request.param))


NAMES = [
    speed.ENCODER_FLOAT32,
    speed.ENCODER_BF16,
    speed.SAELENS_BATCHTOPK,
    speed.OURS_FLOAT32,
    speed.OURS_SCREENED,
    speed.SAELENS_L1,
    speed.OURS_L1,
    speed.SCALING,
    speed.SCALING_BOTH,
    speed.LEAVE_ONE_OUT,
]


@pytest.mark.parametrize("name", NAMES)
def test_training_and_scaling(
    benchmark: Any, works: dict[str, speed.Work], name: str, request: pytest.FixtureRequest
) -> None:
    benchmark.group = f"F = {request.node.callspec.params['works']}"
    benchmark.pedantic(works[name], rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="harvest")
@pytest.mark.parametrize("name", [speed.RAW_FORWARDS, speed.HARVEST])
def test_harvest(benchmark: Any, pair: HookedModelPair, name: str) -> None:
    works, tokens = speed.harvest_workloads(pair)
    benchmark.pedantic(works[name], rounds=5, warmup_rounds=1)
    benchmark.extra_info["tokens"] = tokens
