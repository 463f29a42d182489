"""Entries above a limit, screened in bfloat16 or not, against the dense float64 product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_crossdiff import Crosscoder, CrosscoderConfig
from sae_crossdiff.crosscoders.sparse_encoder import SparseEncoder


def hostile(kind: str, tokens: int, d: int, latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs on which bfloat16 products are badly wrong."""
    x, weight = torch.randn(tokens, d), torch.randn(latents, d)
    if kind == "one huge coordinate":
        x[:, 0], weight[:, 0] = 1000.0, torch.randn(latents)
    elif kind == "half a step above":  # every number rounds by the largest amount, the same way
        x, weight = (x.bfloat16().float() * (1 + 2**-8 * 0.98) for x in (x, weight))
    elif kind == "cancelling":
        half = d // 2
        x[:, half : 2 * half], weight[:, half : 2 * half] = x[:, :half], -weight[:, :half] * 1.003
    elif kind == "large bias":
        return x, weight, torch.randn(latents) * 300
    return x, weight, torch.randn(latents)


KINDS = ("plain", "one huge coordinate", "half a step above", "cancelling", "large bias")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    tokens=st.integers(1, 60),
    d=st.integers(2, 80),
    latents=st.integers(1, 70),
    block=st.integers(1, 80),
    quantile=st.floats(0.3, 1.0),
    seed=st.integers(0, 10_000),
)
def test_screening_loses_no_entry(
    kind: str, tokens: int, d: int, latents: int, block: int, quantile: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight, bias = hostile(kind, tokens, d, latents)
    exact = x.double() @ weight.T.double() + bias.double()
    limits = exact.quantile(quantile, dim=0).clamp(min=0).float()
    encoder = SparseEncoder(block, screen_in_bf16=True)
    rows, found, values = encoder.entries_above(x, weight.T, bias, limits)
    size = x.norm(dim=-1)[:, None] * weight.norm(dim=-1) + bias.abs()
    clearly = exact > limits.double() + 1e-5 * size.double()
    got = torch.zeros_like(clearly)
    got[rows, found] = True
    assert not bool((clearly & ~got).any())
    assert bool((exact[rows, found] > limits[found] - 1e-5 * size[rows, found]).all())
    error = (values - exact[rows, found]).abs()
    assert bool((error <= 1e-5 * size[rows, found]).all())
    assert bool(((found * tokens + rows).diff() > 0).all())  # by latent, then by token


def test_the_bound_is_needed() -> None:
    """Without its coordinates, bfloat16 alone would lose entries on these inputs."""
    torch.manual_seed(0)
    x, weight, bias = hostile("half a step above", 200, 40, 300)
    exact = x.double() @ weight.T.double() + bias.double()
    rounded = (x.bfloat16() @ weight.T.bfloat16()).double() + bias.double()
    assert bool(((exact > 5) & (rounded <= 5)).any())


def test_not_a_number_is_not_lost() -> None:
    x, weight = torch.randn(8, 4), torch.randn(16, 4)
    weight[3] = torch.nan
    for screen in (True, False):
        encoder = SparseEncoder(screen_in_bf16=screen)
        entries = encoder.entries_above(x, weight.T, torch.zeros(16), torch.ones(16))
        assert int(torch.isnan(entries.values).sum()) == 8


@pytest.mark.parametrize("negative_threshold", [False, True])
def test_inference_code_equals_the_dense_one(negative_threshold: bool) -> None:
    torch.manual_seed(1)
    crosscoder = Crosscoder(CrosscoderConfig(d_in=20, d_sae=90))
    crosscoder.W_enc.data = torch.randn(20, 90)
    crosscoder.b_enc.data = torch.randn(90)
    crosscoder.threshold.data = torch.rand(90) * 4 - (2 if negative_threshold else 0)
    x = torch.randn(50, 20)
    dense = crosscoder.encode(x).detach()
    code = crosscoder.encode_sparse(x)
    torch.testing.assert_close(code.to_dense(), dense, rtol=1e-5, atol=1e-5)
    units = crosscoder.in_training_units().encode_sparse(x)
    torch.testing.assert_close(units.to_dense(), dense, rtol=1e-5, atol=1e-5)


def test_hooks_see_and_change_the_code() -> None:
    crosscoder = Crosscoder(CrosscoderConfig(d_in=20, d_sae=30))
    crosscoder.W_enc.data = torch.randn(20, 30)

    def ablate(acts: Tensor, hook: object) -> Tensor:
        return torch.cat([torch.zeros_like(acts[:, :5]), acts[:, 5:]], dim=1)

    x = torch.randn(50, 20)
    with crosscoder.hooks(fwd_hooks=[("hook_sae_acts_post", ablate)]):
        code = crosscoder.encode_sparse(x)
    assert int(code.latents.min()) >= 5
    assert int(crosscoder.encode_sparse(x).latents.min()) < 5
