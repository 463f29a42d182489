"""The mean activation difference against a naive loop, and what it says of noise."""

from __future__ import annotations

import pytest
import torch

from sae_crossdiff import CrossdiffError
from sae_crossdiff.activations import ActivationBatch, in_order
from sae_crossdiff.diffing import mean_difference

D, DOCUMENTS, LENGTH = 5, 400, 4


def batch_of(shift: torch.Tensor) -> ActivationBatch:
    """Documents of four tokens; the chat model is the base plus noise, plus `shift` [LENGTH, D]."""
    torch.manual_seed(0)
    positions = torch.arange(LENGTH).repeat(DOCUMENTS)
    base = torch.randn(len(positions), D)
    chat = base + torch.randn(len(positions), D) + shift[positions]
    documents = torch.arange(DOCUMENTS).repeat_interleave(LENGTH)
    return ActivationBatch(torch.cat([base, chat], -1), positions, positions, documents)


def test_means_equal_a_loop_and_noise_is_taken_off() -> None:
    shift = torch.zeros(LENGTH, D)
    shift[2] = torch.tensor([3.0, 0, 0, 0, 4])
    batch = batch_of(shift)
    found = mean_difference(in_order(batch, 37), (1, 2))
    for i, position in enumerate((1, 2)):
        rows = [
            x[D:] - x[:D] for x, p in zip(batch.acts, batch.positions, strict=True) if p == position
        ]
        stacked = torch.stack(rows).double()
        torch.testing.assert_close(found.mean[i].double(), stacked.mean(0), rtol=1e-5, atol=1e-6)
        noise = (stacked.var(0) / len(rows)).sum()
        torch.testing.assert_close(found.noise[i], noise.sqrt())
        expected = (stacked.mean(0).pow(2).sum() - noise).clamp(min=0).sqrt()
        torch.testing.assert_close(found.norm[i], expected)
    assert found.pieces.tolist() == [DOCUMENTS] * 2
    # At position 1 there is nothing but noise, of norm sqrt(5 / 400).
    assert found.noise.tolist() == pytest.approx([(5 / 400) ** 0.5] * 2, rel=0.2)
    assert found.norm[0] < 2 * found.noise[0]
    assert abs(found.agreement[0]) < 0.9
    assert found.norm[1] == pytest.approx(5, rel=0.05)
    assert found.agreement[1] > 0.99


def test_refuses_what_has_no_mean() -> None:
    batch = batch_of(torch.zeros(LENGTH, D))
    with pytest.raises(CrossdiffError, match="two are needed at each"):
        mean_difference([batch], (1, LENGTH))
    with pytest.raises(CrossdiffError, match="two are needed at each"):
        mean_difference([])
