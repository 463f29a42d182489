"""Intervals and tests over blocks, against naive computations and planted truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from sae_crossdiff import ActivationBatch, CrossdiffError
from sae_crossdiff.diffing.blocks import CHUNK, DocumentBlocks
from sae_crossdiff.diffing.intervals import p_below, p_within, ratio_interval
from sae_crossdiff.diffing.latent_scaling import LatentScaling
from sae_crossdiff.testbeds.planted import PlantedPair
from sae_crossdiff.testbeds.planted_documents import planted_crosscoder, sample_documents


def block_sums(n_latents: int = 40, n_blocks: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Some with a clear denominator, some without."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, n_blocks, n_latents, generator=generator, dtype=torch.float64)
    level = torch.linspace(0.0, 4.0, n_latents, dtype=torch.float64)
    return noise[0] + 0.3 * level, noise[1] + level


def test_interval_holds_the_values_that_a_t_test_does_not_reject() -> None:
    a, b = block_sums()
    interval = ratio_interval(a, b, confidence=0.9)
    n_bounded = 0
    for j in range(a.shape[1]):
        low, high = float(interval.low[j]), float(interval.high[j])

        def p(r: float, j: int = j) -> float:
            return float(stats.ttest_1samp((a[:, j] - r * b[:, j]).numpy(), 0.0).pvalue)

        if np.isinf(low):  # Fieller: b does not differ from zero
            assert np.isinf(high)
            assert stats.ttest_1samp(b[:, j].numpy(), 0.0).pvalue > 0.1
            continue
        n_bounded += 1
        assert p(low) == pytest.approx(0.1, abs=1e-9)
        assert p(high) == pytest.approx(0.1, abs=1e-9)
        assert p((low + high) / 2) > 0.1
    assert 10 < n_bounded < 40


def test_p_values_are_the_tests_that_the_interval_inverts() -> None:
    a, b = block_sums()
    interval = ratio_interval(a, b, confidence=0.95)
    for threshold in (0.2, 0.5, 1.0):
        below = (interval.high < threshold) & np.isfinite(interval.low)
        np.testing.assert_array_equal(
            (p_below(a, b, threshold) < 0.025) & np.isfinite(interval.low), below
        )
        within = below & (interval.low > -threshold)
        np.testing.assert_array_equal(p_within(a, b, threshold) < 0.025, within)
    expected = stats.ttest_1samp((a[:, 5] - 0.5 * b[:, 5]).numpy(), 0.0, alternative="less").pvalue
    assert p_below(a, b, 0.5)[5] == pytest.approx(expected if b[:, 5].sum() > 0 else 1 - expected)


def test_one_block_gives_no_interval() -> None:
    a, b = torch.zeros(8, 2), torch.zeros(8, 2)
    a[3], b[3] = 0.1, 1.0
    a[4, 1], b[4, 1] = 0.1, 1.0
    interval = ratio_interval(a, b)
    assert np.isnan(interval.low[0])
    assert not np.isnan(interval.low[1])
    assert np.isnan(p_within(a, b, 0.5)[0])
    with pytest.raises(CrossdiffError, match="confidence=95"):
        ratio_interval(a, b, confidence=95)


def test_documents_stay_whole_and_blocks_are_even() -> None:
    ids = torch.arange(3200).repeat_interleave(2)
    batch = ActivationBatch(torch.zeros(len(ids), 2), ids, ids, ids)
    blocks = DocumentBlocks(32).assign(batch)
    assert torch.equal(blocks[::2], blocks[1::2])
    for chosen in (blocks, blocks[ids % 2 == 0]):  # every other document: one of two corpora
        counts = torch.bincount(chosen, minlength=32)
        assert counts.min() > 0.9 * counts.double().mean()
        assert counts.max() < 1.1 * counts.double().mean()
    shuffled = torch.randperm(len(ids))
    assert torch.equal(DocumentBlocks(32).assign(batch.select(shuffled)), blocks[shuffled])


def test_plain_tensors_are_cut_into_chunks_whatever_the_batches() -> None:
    whole = DocumentBlocks(16).assign(ActivationBatch.of(torch.zeros(5000, 2)))
    pieces = DocumentBlocks(16)
    joined = [pieces.assign(ActivationBatch.of(torch.zeros(n, 2))) for n in (1, 999, 4000)]
    assert torch.equal(torch.cat(joined), whole)
    chunks = whole[: 5000 // CHUNK * CHUNK].view(-1, CHUNK)
    assert (chunks == chunks[:, :1]).all()
    with pytest.raises(CrossdiffError, match="n_blocks=0"):
        DocumentBlocks(0)


def scaled(n_documents: int, seed: int, by_token: bool = False) -> LatentScaling:
    """One planted data set through the planted crosscoder; `by_token` splits documents up."""
    planted = PlantedPair()
    crosscoder = planted_crosscoder(planted)
    scaling, blocks = LatentScaling(crosscoder, n_blocks=32), DocumentBlocks(32)
    tokens, _ = sample_documents(planted, n_documents, seed)
    if by_token:
        tokens = dataclasses.replace(tokens, documents=torch.arange(len(tokens)))
    for start in range(0, len(tokens), 4096):
        piece = tokens.select(slice(start, start + 4096))
        code = crosscoder.encode_sparse(piece.acts)
        scaling.update(piece.acts, code, crosscoder.decode_sparse(code), blocks.assign(piece))
    return scaling


def test_block_sums_are_those_of_the_blocks_own_documents() -> None:
    planted = PlantedPair()
    crosscoder = planted_crosscoder(planted)
    tokens, _ = sample_documents(planted, 40, seed=3)
    blocks = DocumentBlocks(32).assign(tokens)
    whole = scaled(40, seed=3)
    for block in (0, 7, 31):
        x = tokens.acts[blocks == block]
        f = crosscoder.encode(x)
        error = x - crosscoder.decode(f)
        for m, part in enumerate(crosscoder.split(error)):
            expected = ((f.T @ part) * crosscoder.W_dec_per_model[1]).sum(-1)
            torch.testing.assert_close(
                whole.sums["chat"].E[m, block].float(), expected, rtol=1e-3, atol=1e-3
            )


def coverage(runs: list[LatentScaling], long_run: list[LatentScaling], target: str) -> float:
    """Share of 95 % intervals of `runs` that hold nu of all of `long_run` but themselves."""
    covered = []
    for run in runs:
        others = [other.nu_terms(target) for other in long_run if other is not run]
        truth = sum(o.sum(0) for o, _ in others) / sum(own.sum(0) for _, own in others)
        interval = ratio_interval(*run.nu_terms(target))
        covered.append((interval.low <= truth.numpy()) & (truth.numpy() <= interval.high))
    return float(np.stack(covered)[:, PlantedPair().kinds != "base-only"].mean())


def test_nominal_intervals_cover_the_long_run_value() -> None:
    """95 % with blocks of documents; far less if tokens were taken for independent."""
    runs = [scaled(600, seed) for seed in range(10)]
    by_token = [scaled(600, seed, by_token=True) for seed in range(20, 23)]
    for target in ("error", "reconstruction"):
        assert 0.93 <= coverage(runs, runs, target) <= 0.975
        assert coverage(by_token, runs, target) < 0.75
