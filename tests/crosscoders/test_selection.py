"""BatchTopK selection against torch.topk on the dense array."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sae_crossdiff import BatchTopKCrosscoder, BatchTopKCrosscoderConfig
from sae_crossdiff.crosscoders.selection import BatchTopKSelector
from sae_crossdiff.crosscoders.sparse_encoder import SparseEncoder


def problem(tokens: int, d: int, latents: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, d, generator=generator)
    W_enc = torch.randn(latents, d, generator=generator).T  # latent by latent, as in training
    b_enc = torch.randn(latents, generator=generator)
    return x, W_enc, b_enc, torch.rand(latents, generator=generator) * 3 + 0.1


def dense_reference(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, norms: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    f = torch.relu(x @ W_enc + b_enc)
    scores = (f * norms).flatten()
    top = scores.topk(min(n, len(scores)))
    kept = torch.zeros_like(scores)
    kept[top.indices[top.values > 0]] = 1
    return f * kept.view_as(f), top.values[top.values > 0]


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 40),
    latents=st.integers(1, 50),
    share=st.floats(0.01, 1.0),
    block=st.integers(1, 60),
    guess=st.sampled_from([None, 1e-6, 0.5, 3.0, 1e6]),
    screen=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_selection_is_exact_whatever_the_guess(
    tokens: int,
    latents: int,
    share: float,
    block: int,
    guess: float | None,
    screen: bool,
    seed: int,
) -> None:
    inputs = problem(tokens, 6, latents, seed)
    n = max(1, int(share * tokens * latents))
    selector = BatchTopKSelector(SparseEncoder(block, screen_in_bf16=screen))
    selector.guess = guess
    code = selector.select(*inputs, n)
    expected, _ = dense_reference(*inputs, n)
    torch.testing.assert_close(code.to_dense(), expected, rtol=1e-5, atol=1e-6)
    assert bool((code.rows.diff() >= 0).all())
    assert len(code.values) == int((expected > 0).sum())


def test_running_guess_avoids_a_second_product() -> None:
    selector = BatchTopKSelector(SparseEncoder(block_size=64))
    _, W_enc, b_enc, norms = problem(1, 16, 256, 0)
    for step in range(20):
        x = torch.randn(128, 16, generator=torch.Generator().manual_seed(step))
        selector.select(x, W_enc, b_enc, norms, 128 * 8)
    assert selector.n_redone == 0


def test_no_array_of_tokens_by_latents_is_made() -> None:
    """The largest tensor of a training step is a weight, not the code."""
    tokens, d, latents = 512, 8, 4096
    config = BatchTopKCrosscoderConfig(d_in=d, d_sae=latents, k=4, block_size=256)
    crosscoder = BatchTopKCrosscoder(config)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                    largest = max(largest, tensor.numel())
            return out

    x = torch.randn(tokens, d)
    crosscoder.training_forward_pass(TrainStepInput(x, {}, None, 0, False))  # finds the guess
    with Watch():
        output = crosscoder.training_forward_pass(TrainStepInput(x, {}, None, 1, False))
        output.loss.backward()
    assert largest == tokens * 256
    assert largest < tokens * latents


@pytest.mark.parametrize("dead_share", [0.0, 0.5])
def test_gradients_do_not_depend_on_the_block_size(dead_share: float) -> None:
    x = torch.randn(64, 12)
    dead = torch.rand(96) < dead_share
    found = []
    for block in (7, 96):
        torch.manual_seed(3)
        config = BatchTopKCrosscoderConfig(d_in=12, d_sae=96, k=5, block_size=block)
        crosscoder = BatchTopKCrosscoder(config)
        output = crosscoder.training_forward_pass(TrainStepInput(x, {}, dead, 0, False))
        output.loss.backward()
        found.append([p.grad for p in crosscoder.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
