"""Latent Scaling against naive leave-one-out least squares, for every target and latent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_crossdiff import Crosscoder, CrosscoderConfig, CrossdiffError
from sae_crossdiff.diffing import TARGETS, LatentScaling
from sae_crossdiff.diffing.refit import RefittedDecoders


def random_crosscoder(d: int, n_latents: int, seed: int = 0) -> Crosscoder:
    generator = torch.Generator().manual_seed(seed)
    config = CrosscoderConfig(d_in=2 * d, d_sae=n_latents, dtype="float64")
    crosscoder = Crosscoder(config)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
        parameter = getattr(crosscoder, name)
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return crosscoder


def naive_beta(
    crosscoder: Crosscoder, x: Tensor, target: str, direction: int, model: int, latent: int
) -> float:
    """argmin_beta sum_i || beta * f_ij * d_j - y_i ||^2 with y built by leaving latent j out."""
    f = crosscoder.encode(x)
    part = slice(model * crosscoder.cfg.d_ins[0], (model + 1) * crosscoder.cfg.d_ins[0])
    x_m, W, b = x[:, part], crosscoder.W_dec[:, part], crosscoder.b_dec[part]
    if target == "error":
        without = f.clone()
        without[:, latent] = 0
        y = x_m - (without @ W + b)
    elif target == "reconstruction":
        y = f @ W + b
    elif target == "activation":
        y = x_m
    else:
        y = x_m - b
    d = crosscoder.split(crosscoder.W_dec)[direction][latent]
    design = (f[:, latent][:, None] * d).reshape(-1, 1)
    return float(torch.linalg.lstsq(design, y.reshape(-1, 1)).solution)


def accumulated(crosscoder: Crosscoder, x: Tensor, batch: int, **kwargs: Any) -> LatentScaling:
    scaling = LatentScaling(crosscoder, dtype=torch.float64, **kwargs)
    for piece in x.split(batch):
        code = crosscoder.encode_sparse(piece)
        scaling.update(piece, code, crosscoder.decode_sparse(code))
    return scaling


@settings(max_examples=15, deadline=None)
@given(
    d=st.integers(1, 6),
    n_latents=st.integers(1, 12),
    n_tokens=st.integers(1, 40),
    seed=st.integers(0, 10_000),
)
def test_every_beta_equals_naive_least_squares(
    d: int, n_latents: int, n_tokens: int, seed: int
) -> None:
    crosscoder = random_crosscoder(d, n_latents, seed)
    x = torch.randn(n_tokens, 2 * d, dtype=torch.float64) * 3
    scaling = accumulated(crosscoder, x, batch=7)
    fired = (crosscoder.encode(x) > 0).any(dim=0)
    for target in TARGETS:
        for index, direction in enumerate(("base", "chat")):
            betas = scaling.betas(target, direction)
            assert torch.equal(betas.isnan().any(dim=0), ~fired)  # no beta, not 0
            for latent in fired.nonzero().squeeze(-1).tolist():
                for model in (0, 1):
                    expected = naive_beta(crosscoder, x, target, index, model, latent)
                    scale = max(1.0, abs(expected))
                    assert abs(float(betas[model, latent]) - expected) < 1e-10 * scale


def test_nu_is_the_ratio_of_the_other_model_to_the_directions_own() -> None:
    crosscoder = random_crosscoder(4, 6)
    scaling = accumulated(crosscoder, torch.randn(50, 8, dtype=torch.float64), 50)
    for target in TARGETS:
        chat, base = scaling.betas(target, "chat"), scaling.betas(target, "base")
        torch.testing.assert_close(scaling.nu(target), chat[0] / chat[1], equal_nan=True)
        torch.testing.assert_close(scaling.nu(target, "base"), base[1] / base[0], equal_nan=True)


def test_at_a_least_squares_optimum_nu_error_is_the_decoder_ratio() -> None:
    """METHOD section 3: there sum_i f_ij eps_i = 0, so nu_eps = <d_base, d_chat> / |d_chat|^2."""
    crosscoder = random_crosscoder(5, 4)
    x = torch.randn(300, 10, dtype=torch.float64)
    f = crosscoder.encode(x)
    f_and_one = torch.cat([f, torch.ones(300, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(f_and_one, x).solution
    crosscoder.W_dec.data, crosscoder.b_dec.data = solution[:-1], solution[-1]
    base, chat = crosscoder.W_dec_per_model
    nu = accumulated(crosscoder, x, 100).nu("error")
    torch.testing.assert_close(nu, (base * chat).sum(-1) / chat.pow(2).sum(-1))


def test_refitted_norms_equal_a_per_latent_regression() -> None:
    crosscoder = random_crosscoder(4, 5)
    x = torch.randn(60, 8, dtype=torch.float64)
    f = crosscoder.encode(x)
    code = crosscoder.encode_sparse(x)
    error = x - crosscoder.decode_sparse(code)
    refitted = RefittedDecoders.zeros(crosscoder)
    refitted.totals = refitted.totals.double()
    for rows in (slice(0, 25), slice(25, 60)):
        piece = crosscoder.encode_sparse(x[rows])
        refitted.update(crosscoder, piece, x[rows] - crosscoder.decode_sparse(piece))
    norms = refitted.norms(crosscoder)
    for latent in (f > 0).any(0).nonzero().squeeze(-1).tolist():
        without = f.clone()
        without[:, latent] = 0
        target = x - (without @ crosscoder.W_dec + crosscoder.b_dec)
        row = torch.linalg.lstsq(f[:, [latent]], target).solution[0]
        weight = f[:, latent].pow(2)
        for m, part in enumerate(crosscoder.split(row)):
            residual = crosscoder.split(error)[m].pow(2).sum(-1)
            noise = (weight * residual).sum() / weight.sum() ** 2
            expected = (part.pow(2).sum() - noise).clamp(min=0).sqrt()
            torch.testing.assert_close(norms[m, latent], expected)


def test_refit_terms_per_block_sum_to_the_norms_and_move_as_they_do() -> None:
    crosscoder = random_crosscoder(4, 5)
    crosscoder.W_dec.data[:2, :4] = 0  # chat-only: what moves is the refit alone
    x = torch.randn(400, 8, dtype=torch.float64)
    blocks = torch.arange(400) % 4
    code = crosscoder.encode_sparse(x)
    error = x - crosscoder.decode_sparse(code)
    scaling = LatentScaling(crosscoder, dtype=torch.float64, n_blocks=4)
    scaling.update(x, code, x - error, blocks)
    refitted = RefittedDecoders.zeros(crosscoder, n_blocks=4)
    refitted.totals = refitted.totals.double()
    refitted.update(crosscoder, code, error, blocks)
    f, C = crosscoder.encode(x), scaling.C.sum(0)
    by_sketch = refitted.square_terms(crosscoder, scaling)
    torch.testing.assert_close(by_sketch.sum(1) / C, refitted.norms(crosscoder) ** 2)
    # With a projection that loses nothing: the naive derivative in every block.
    refitted.projections = [torch.eye(4)] * 2
    refitted.sketches = torch.zeros(2, 4, 5, 4)
    refitted.update(crosscoder, code, error, blocks)
    refitted.totals, refitted.C = refitted.totals / 2, refitted.C / 2
    refitted.noise = refitted.noise / 2
    terms = refitted.square_terms(crosscoder, scaling)
    for m, (part, rows) in enumerate(
        zip(crosscoder.split(error), crosscoder.W_dec_per_model, strict=True)
    ):
        T = torch.stack([(f * (blocks == g)[:, None]).T @ part for g in range(4)])
        star = rows + T.sum(0) / C[:, None]
        moved = 2 * (T * star).sum(-1)
        rest = refitted.norms(crosscoder)[m] ** 2 - moved.sum(0) / C
        expected = rest * scaling.C + moved
        torch.testing.assert_close(terms[m], expected, rtol=1e-4, atol=2e-3)  # float32 sums
    assert (terms[0, :, :2].std(0) > 0).all()


def test_unequal_widths_are_refused() -> None:
    crosscoder = Crosscoder(CrosscoderConfig(d_in=10, d_sae=4, d_ins=[4, 6]))
    with pytest.raises(CrossdiffError, match="all widths must be equal"):
        LatentScaling(crosscoder)
    with pytest.raises(CrossdiffError, match="no target"):
        LatentScaling(random_crosscoder(2, 3)).betas("residual")
