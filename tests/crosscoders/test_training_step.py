"""One training step against an independent dense reference: loss and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor

from sae_crossdiff import (
    BatchTopKCrosscoder,
    BatchTopKCrosscoderConfig,
    CrossdiffError,
    L1Crosscoder,
    L1CrosscoderConfig,
    SparseCode,
)
from sae_crossdiff.crosscoders import geometric_median

B, F, K = 40, 60, 4
WIDTHS = [6, 10]
PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")


def step_input(x: Tensor, dead: Tensor | None = None, step: int = 0, **coefficients: float) -> Any:
    return TrainStepInput(x, coefficients, dead, step, False)


def randomised(crosscoder: Any) -> Any:
    for name in PARAMETERS:
        parameter = getattr(crosscoder, name)
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64) * 0.4
    return crosscoder.to(torch.float64)


def leaves(crosscoder: Any) -> dict[str, Tensor]:
    return {
        name: getattr(crosscoder, name).detach().clone().requires_grad_() for name in PARAMETERS
    }


def compare(crosscoder: Any, reference: dict[str, Tensor], loss: Tensor, expected: Tensor) -> None:
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for name in PARAMETERS:
        torch.testing.assert_close(
            getattr(crosscoder, name).grad, reference[name].grad, rtol=1e-9, atol=1e-10
        )


def reference_norms(W_dec: Tensor) -> Tensor:
    return W_dec[:, : WIDTHS[0]].norm(dim=-1) + W_dec[:, WIDTHS[0] :].norm(dim=-1)


@pytest.mark.parametrize("n_dead", [0, 3, 30])
def test_batchtopk_step(n_dead: int) -> None:
    config = BatchTopKCrosscoderConfig(d_in=16, d_sae=F, d_ins=WIDTHS, k=K, dtype="float64")
    crosscoder = randomised(BatchTopKCrosscoder(config))
    x = torch.randn(B, 16, dtype=torch.float64)
    dead = torch.zeros(F, dtype=torch.bool)
    dead[:n_dead] = True
    p = leaves(crosscoder)

    f = torch.relu(x @ p["W_enc"] + p["b_enc"])
    norms = reference_norms(p["W_dec"])
    scores = [(float((f[i, j] * norms[j]).detach()), i, j) for i in range(B) for j in range(F)]
    kept = sorted((s for s in scores if s[0] > 0), reverse=True)[: K * B]
    mask = torch.zeros(B, F, dtype=torch.float64)
    for _, i, j in kept:
        mask[i, j] = 1
    error = x - ((f * mask) @ p["W_dec"] + p["b_dec"])
    expected = error.pow(2).sum() / B
    if n_dead:
        residual, aux = error.detach(), []
        for i in range(B):
            by_score = sorted(range(n_dead), key=lambda j: -float(f[i, j] * norms[j]))
            chosen = by_score[: min(max(WIDTHS) // 2, n_dead)]
            aux.append(sum((f[i, j] * p["W_dec"][j] for j in chosen), torch.zeros(16)))
        unexplained = (residual - torch.stack(aux)).pow(2).sum()
        expected = expected + unexplained / (residual - residual.mean(0)).pow(2).sum() / 32

    output = crosscoder.training_forward_pass(step_input(x, dead))
    compare(crosscoder, p, output.loss, expected)
    assert float(crosscoder.topk_threshold) == pytest.approx(kept[-1][0])
    assert int((output.feature_acts.to_dense() > 0).sum()) == K * B


@pytest.mark.parametrize("path", ["dense", "sparse"])
@pytest.mark.parametrize("kind", ["squared", "unsquared"])
def test_l1_step(kind: Any, path: str) -> None:
    config = L1CrosscoderConfig(
        d_in=16, d_sae=F, d_ins=WIDTHS, reconstruction_loss=kind, dtype="float64"
    )
    crosscoder = randomised(L1Crosscoder(config))
    x = torch.randn(B, 16, dtype=torch.float64)
    p = leaves(crosscoder)
    mu = 0.3
    total = torch.zeros((), dtype=torch.float64)
    for i in range(B):
        f = torch.relu(x[i] @ p["W_enc"] + p["b_enc"])
        error = x[i] - (f @ p["W_dec"] + p["b_dec"])
        base, chat = error[: WIDTHS[0]], error[WIDTHS[0] :]
        if kind == "squared":
            total = total + 0.5 * (base @ base + chat @ chat)
        else:
            total = total + 0.5 * (base.norm() + chat.norm())
        total = total + mu * (f * reference_norms(p["W_dec"])).sum()
    crosscoder.firing_rate = 0.0 if path == "sparse" else 1.0
    output = crosscoder.training_forward_pass(step_input(x, l1=mu))
    assert output.feature_acts.is_sparse == (path == "sparse")
    compare(crosscoder, p, output.loss, total / B)
    f = torch.relu(x @ p["W_enc"] + p["b_enc"])
    assert crosscoder.firing_rate == pytest.approx(float((f > 0).double().mean()))


def test_auxk_reaches_the_gradient_of_dead_latents() -> None:
    """METHOD trap 2: an AuxK that is logged but not back-propagated."""
    config = BatchTopKCrosscoderConfig(d_in=16, d_sae=F, d_ins=WIDTHS, k=1, dtype="float64")
    crosscoder = randomised(BatchTopKCrosscoder(config))
    x = torch.randn(B, 16, dtype=torch.float64)
    crosscoder.b_enc.data[:5] = 0.01
    crosscoder.W_enc.data[:, :5] *= 1e-3  # these five never make the batch's top
    dead = torch.zeros(F, dtype=torch.bool)
    dead[:5] = True
    output = crosscoder.training_forward_pass(step_input(x, dead))
    output.loss.backward()
    assert not bool((output.feature_acts.to_dense()[:, :5] > 0).any())
    assert float(crosscoder.W_dec.grad[:5].abs().sum()) > 0


def test_fewer_positive_values_than_k_keep_fewer() -> None:
    crosscoder = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=16, d_sae=F, k=30))
    crosscoder.b_enc.data.fill_(-100)
    x = torch.randn(B, 16)
    x[0] *= 1e4
    code = crosscoder.select(x, crosscoder.get_W_dec_norm())
    expected = torch.relu(x @ crosscoder.W_enc + crosscoder.b_enc)
    assert 0 < len(code.values) < 30 * B
    assert bool((code.values > 0).all())
    torch.testing.assert_close(code.to_dense(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(crosscoder.encode(x), expected)


def test_k_annealing_ends_at_k_and_zero_length_means_at_once() -> None:
    """METHOD trap 6."""
    annealed = BatchTopKCrosscoderConfig(d_in=16, d_sae=F, k=4, k_initial=20, k_anneal_steps=10)
    assert [annealed.k_at(s) for s in (0, 5, 10, 99)] == [20, 12, 4, 4]
    assert BatchTopKCrosscoderConfig(d_in=16, d_sae=F, k=4).k_at(0) == 4


def test_threshold_averages_only_after_its_start_step() -> None:
    config = BatchTopKCrosscoderConfig(
        d_in=16, d_sae=F, k=K, topk_threshold_start_step=2, topk_threshold_lr=0.25
    )
    crosscoder = BatchTopKCrosscoder(config)
    values, smallest = [], []
    for step in range(4):
        output = crosscoder.training_forward_pass(step_input(torch.randn(B, 16), step=step))
        scores = (output.feature_acts.to_dense() * crosscoder.total_decoder_norms()).detach()
        smallest.append(float(scores[scores > 0].min()))
        values.append(float(crosscoder.topk_threshold))
    assert values[:2] == pytest.approx(smallest[:2])
    assert values[2] == pytest.approx(0.75 * values[1] + 0.25 * smallest[2])
    assert values[3] == pytest.approx(0.75 * values[2] + 0.25 * smallest[3])


def test_both_models_start_from_one_matrix() -> None:
    config = BatchTopKCrosscoderConfig(d_in=16, d_sae=F, k=K, decoder_init_norm=1.0)
    crosscoder = BatchTopKCrosscoder(config)
    base, chat = crosscoder.W_dec_per_model
    torch.testing.assert_close(base, chat)
    torch.testing.assert_close(crosscoder.decoder_norms(), torch.ones(2, F))
    torch.testing.assert_close(crosscoder.W_enc, crosscoder.W_dec.T)


def test_bfloat16_weights_are_refused() -> None:
    config = BatchTopKCrosscoderConfig(d_in=16, d_sae=F, k=K, dtype="bfloat16")
    with pytest.raises(CrossdiffError, match="float32"):
        BatchTopKCrosscoder(config)


def test_geometric_median_against_gradient_descent() -> None:
    points = torch.cat([torch.randn(200, 3), torch.randn(20, 3) * 5 + 40]).double()
    median = geometric_median(points, steps=500, tolerance=1e-12)
    pull = torch.nn.functional.normalize(points - median, dim=-1).sum(0)
    assert pull.norm() < 1e-3  # the gradient of the summed distance vanishes
    assert median.norm() < 1 < points.mean(0).norm()


def test_l1_changes_to_the_sparse_path_when_few_entries_are_active() -> None:
    crosscoder = L1Crosscoder(L1CrosscoderConfig(d_in=16, d_sae=F))
    x, paths = torch.randn(B, 16), []
    for bias in (0.0, -5.0, -5.0, 0.0, 0.0):
        crosscoder.b_enc.data.fill_(bias)
        paths.append(crosscoder.training_forward_pass(step_input(x, l1=1.0)).feature_acts.is_sparse)
    assert paths == [False, False, True, True, False]


def test_gradient_buffers_change_nothing() -> None:
    """The trainer's own memory for gradients, over several steps and with AuxK beside."""
    found = []
    for buffers in (None, {}):
        torch.manual_seed(2)
        crosscoder = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=16, d_sae=F, k=K))
        crosscoder.gradient_buffers = buffers
        for step in range(3):
            crosscoder.zero_grad(set_to_none=True)
            dead = torch.rand(F) < 0.3
            output = crosscoder.training_forward_pass(step_input(torch.randn(B, 16), dead, step))
            output.loss.backward()
        found.append([p.grad.clone() for p in crosscoder.parameters() if p.grad is not None])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("csr", [True, False])
def test_sparse_code_round_trip_and_products(csr: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not csr:  # a CPU without MKL
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    dense = torch.randn(7, 9).relu() * (torch.rand(7, 9) > 0.5)
    dense[3] = 0  # a token on which nothing fires
    code = SparseCode.from_dense(dense)
    torch.testing.assert_close(code.to_dense(), dense)
    torch.testing.assert_close(code.to_coo().to_dense(), dense)
    weight = torch.randn(9, 4)
    torch.testing.assert_close(code.matmul(weight), dense @ weight)
    other = torch.randn(7, 4)
    torch.testing.assert_close(code.transposed_matmul(other), dense.T @ other)
    garbage = torch.full((9, 4), torch.nan)
    torch.testing.assert_close(code.transposed_matmul(other, out=garbage), dense.T @ other)
    expected = (other @ weight.T)[code.rows, code.latents]
    torch.testing.assert_close(code.dots(other, weight), expected)
    latents, rows = dense.T.nonzero(as_tuple=True)
    again = SparseCode.from_latent_order(rows, latents, dense[rows, latents], 7, 9)
    torch.testing.assert_close(again.to_dense(), dense)
    for ours, theirs in zip(again.latent_order, code.latent_order, strict=True):
        assert torch.equal(ours, theirs)
    sums = code.sum_per_latent(code.values)
    torch.testing.assert_close(sums, dense.double().sum(0), rtol=1e-6, atol=1e-6)
    assert (code.rows.diff() >= 0).all()
