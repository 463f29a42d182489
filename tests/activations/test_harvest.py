from __future__ import annotations

import pytest
import torch

from sae_crossdiff import (
    ActivationBatch,
    ActivationDataset,
    CrossdiffError,
    HookedModelPair,
    OutlierPolicy,
    TextSource,
    harvest,
    token_sequences,
)
from sae_crossdiff.activations import (
    ActivationStatistics,
    OutlierFilter,
    concatenate,
    in_order,
    shuffled,
    shuffled_stream,
)


def sequences(pair: HookedModelPair) -> list:
    texts = [" ".join(f"w{i * j % 90}" for j in range(3 + 2 * i)) for i in range(9)]
    return list(token_sequences([TextSource(texts)], pair.tokenizer, context_size=16))


def test_harvest_equals_one_forward_per_sequence(random_pair: HookedModelPair) -> None:
    inputs = sequences(random_pair)
    harvested = concatenate(harvest(random_pair, inputs, batch_size=4))
    assert len(harvested) == sum(len(s) for s in inputs)
    at = 0
    for sequence in sorted(inputs, key=len, reverse=True):  # one window: longest first
        alone = random_pair.activations(torch.from_numpy(sequence.ids)[None])[0]
        rows = slice(at, at + len(sequence))
        torch.testing.assert_close(harvested.acts[rows], alone, rtol=1e-5, atol=1e-5)
        assert harvested.token_ids[rows].tolist() == sequence.ids.tolist()
        assert harvested.positions[rows].tolist() == list(range(len(sequence)))
        assert set(harvested.documents[rows].tolist()) == {sequence.document}
        for name, mask in sequence.masks.items():
            assert harvested.masks[name][rows].tolist() == mask.tolist()
        at += len(sequence)


def test_nan_activations_are_an_error(random_pair: HookedModelPair) -> None:
    point = random_pair.models["base"].hook_dict["blocks.1.hook_out"]
    point.add_hook(lambda t, hook: t * torch.nan)
    try:
        with pytest.raises(CrossdiffError, match="NaN or infinite"):
            list(harvest(random_pair, sequences(random_pair)))
    finally:
        random_pair.models["base"].reset_hooks()


def batch_of(acts: torch.Tensor, **masks: torch.Tensor) -> ActivationBatch:
    n = torch.arange(len(acts))
    return ActivationBatch(acts, n, n, n // 10, masks)


def test_outliers_in_either_model_are_dropped_and_counted() -> None:
    acts = torch.ones(100, 8)
    acts[5, :4] *= 6  # base model only
    acts[7, 4:] *= 6  # chat model only
    acts[9] *= 4  # below the limit
    special = torch.zeros(100, dtype=torch.bool)
    special[0] = True
    filtered = OutlierFilter(OutlierPolicy(max_norm_ratio=5.0, calibration_tokens=50), [4, 4])
    pieces = list(filtered(in_order(batch_of(acts, special=special), 10)))
    kept = concatenate(pieces)
    assert sorted(set(range(100)) - set(kept.token_ids.tolist())) == [0, 5, 7]
    report = filtered.report
    assert (report.seen, report.kept, report.special, report.large_norm) == (100, 97, 1, 2)
    assert set(report.large_norm_ids) == {5, 7}
    assert report.median_norms == [2.0, 2.0]


def test_outlier_policy_can_be_switched_off() -> None:
    acts = torch.ones(20, 4)
    acts[3] *= 100
    special = torch.zeros(20, dtype=torch.bool)
    special[0] = True
    policy = OutlierPolicy(drop_special=False, max_norm_ratio=None)
    kept = concatenate(OutlierFilter(policy, [2, 2])([batch_of(acts, special=special)]))
    assert len(kept) == 20
    with pytest.raises(CrossdiffError, match="max_norm_ratio"):
        OutlierPolicy(max_norm_ratio=1.0)


def test_statistics_equal_the_closed_form_and_survive_a_large_mean() -> None:
    acts = (50 * torch.randn(5000, 6, dtype=torch.float64) + 4000).to(torch.bfloat16)
    statistics = ActivationStatistics([2, 4])
    for piece in acts.split(700):
        statistics.update(piece)
    exact = acts.double()
    torch.testing.assert_close(statistics.mean, exact.mean(0))
    spread = exact.var(0, unbiased=False)
    expected = [2**0.5 / spread[:2].sum().sqrt(), 4**0.5 / spread[2:].sum().sqrt()]
    assert statistics.scale == pytest.approx([float(e) for e in expected], rel=1e-9)
    constant = ActivationStatistics([3, 3])
    constant.update(torch.ones(4, 6))
    with pytest.raises(CrossdiffError, match="constant"):
        _ = constant.scale


def test_split_keeps_documents_whole() -> None:
    dataset = ActivationDataset([batch_of(torch.randn(200, 4))])
    training, held_out = dataset.split(0.2, seed=1)
    assert len(training) + len(held_out) == 200
    assert len(held_out.documents.unique()) == 4
    assert not set(training.documents.tolist()) & set(held_out.documents.tolist())
    with pytest.raises(CrossdiffError, match="cannot hold out"):
        dataset.split(1.5)


def test_shuffled_epochs_see_every_token_once_in_new_orders() -> None:
    acts = torch.arange(64.0)[:, None]
    batches = shuffled(acts, 16, seed=3)
    epochs = [torch.cat([next(batches) for _ in range(4)]).squeeze().tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(64))
    assert epochs[0] != epochs[1] != list(range(64))
    with pytest.raises(CrossdiffError, match="do not fill one batch"):
        next(shuffled(acts, 65))


def test_stream_goes_on_with_fresh_tokens() -> None:
    """METHOD trap 1: a refresh loop that shuffles its first fill for ever."""

    def start():  # type: ignore[no-untyped-def]
        for i in range(20):
            yield batch_of(torch.arange(i * 50.0, (i + 1) * 50)[:, None])

    stream = shuffled_stream(start, batch_size=50, buffer_size=200)
    first_epoch = torch.cat([next(stream) for _ in range(20)])
    second = next(stream)
    stream.close()
    assert sorted(first_epoch.squeeze().tolist()) == list(range(1000))
    assert len(second) == 50
    with pytest.raises(CrossdiffError, match="twice batch_size"):
        shuffled_stream(start, batch_size=50, buffer_size=60)


def test_empty_stream_is_an_error() -> None:
    stream = shuffled_stream(list, batch_size=4, buffer_size=8)
    with pytest.raises(CrossdiffError, match="fewer than 4 tokens"):
        next(stream)
    with pytest.raises(CrossdiffError, match="no activations"):
        ActivationDataset([])
