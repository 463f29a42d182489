"""Encoding without the dense code: only entries above a limit come out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_crossdiff.crosscoders.codes import dots_in_latent_order, segment_starts

# Relative to ||x|| ||w||: what summing in float32 may lose, and on a GPU bfloat16 partial sums.
_SUMMING_CPU, _SUMMING_GPU = 2e-4, 2**-7
_UP = 1 + 2**-6  # pays for rounding the bound's own coordinates to bfloat16
_AS_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Entries(NamedTuple):
    """Code entries sorted by latent, then by token."""

    rows: Int[Tensor, " active"]
    latents: Int[Tensor, " active"]
    values: Float[Tensor, " active"]


class SparseEncoder:
    """All entries of x @ W_enc + b_enc above a limit per latent, without the dense array.

    The product is computed in blocks of latents, so that a step needs tokens * block_size values
    of memory instead of tokens * latents.

    With `screen_in_bf16` that product is done in bfloat16, and *bounds* the pre-activations. With
    x' and w' the rounded vectors, <x, w> - <x', w'> = <x - x', w> + <x', w - w'> is at most
    ||x - x'|| ||w|| + ||x'|| ||w - w'|| (Cauchy-Schwarz), which two more coordinates add to the
    product, and a third adds the bias. Entries whose bound stays under the limit cannot be above
    it; the few others are computed in float32. The outcome is that of a float32 product, at the
    price of a bfloat16 one.

    Args:
        block_size: latents per block.
        screen_in_bf16: None: where the hardware multiplies bfloat16 faster than float32.
    """

    def __init__(self, block_size: int = 2048, screen_in_bf16: bool | None = None):
        self.block_size = block_size
        self.screen_in_bf16 = screen_in_bf16
        self._memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def entries_above(
        self,
        x: Float[Tensor, "tokens d_in"],
        W_enc: Float[Tensor, "d_in latents"],
        b_enc: Float[Tensor, " latents"],
        limits: Float[Tensor, " latents"],
    ) -> Entries:
        """The entries with x @ W_enc + b_enc > limits; no limit may be negative.

        Screened only when a latent's encoder weights lie next to each other (`W_enc.T`
        contiguous): to gather them would cost as much as the product that it saves.
        """
        weight = W_enc.T
        screening = weight.is_contiguous() and self.screens(x)
        tokens = _with_bound_coordinates(x) if screening else x
        found = []
        for start in range(0, len(weight), self.block_size):
            block = slice(start, start + self.block_size)
            if screening:
                pre = self._upper_bounds(tokens, weight[block], b_enc[block])
                limit = (limits[block] * (1 - 2**-7)).bfloat16()
            else:
                pre = self._buffer("product", (len(weight[block]), len(x)), x)
                torch.addmm(b_enc[block, None], weight[block], x.T, out=pre)
                limit = limits[block].to(pre.dtype)
            positions = self._positions_above(pre, limit)
            latents = positions.div(len(x), rounding_mode="floor")
            values = positions if screening else pre.view(-1)[positions]
            found.append((positions - latents * len(x), latents + start, values))
        entries = Entries(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        return _exact(entries, x, weight, b_enc, limits) if screening else entries

    def screens(self, x: Tensor) -> bool:
        """Whether bfloat16 is used for these tokens (never for other types than float32)."""
        if x.dtype != torch.float32:
            return False
        wanted = self.screen_in_bf16
        return multiplies_bf16(x.device) if wanted is None else wanted

    def _upper_bounds(self, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """bfloat16 [latents, tokens], no entry below <w, x> + b by more than its own rounding."""
        wide = self._buffer("weight", (len(weight), tokens.shape[1]), tokens)
        rounded, (lost, norm, b) = wide[:, :-3], wide[:, -3:].unbind(-1)
        rounded.copy_(weight)
        residual = self._buffer("residual", weight.shape, weight)
        lost.copy_(torch.sub(weight, rounded, out=residual).norm(dim=-1))
        norm.copy_(weight.norm(dim=-1))
        b.copy_(bias + bias.abs() * 2**-7)
        pre = self._buffer("product", (len(weight), len(tokens)), tokens)
        return torch.mm(wide, tokens.T, out=pre)

    def _positions_above(
        self, pre: Float[Tensor, "latents tokens"], limit: Float[Tensor, " latents"]
    ) -> Int[Tensor, " above"]:
        """Flat positions with pre > limit >= 0, in order.

        Floats above a number that is not negative order like their bits (a NaN counts as above,
        and so shows up in the loss). Active entries are few: eight flags at a time are skipped.
        """
        mask = self._buffer("mask", pre.shape, pre, torch.bool)
        integer = _AS_INTEGER[pre.element_size()]
        torch.gt(pre.view(integer), limit.view(integer)[:, None], out=mask)
        flags = mask.view(-1)
        if len(flags) % 8:
            return flags.nonzero().squeeze(-1)
        words = flags.view(torch.int64).nonzero().squeeze(-1)
        inside = flags.view(-1, 8)[words].view(-1).nonzero().squeeze(-1)
        return words[inside >> 3] * 8 + (inside & 7)

    def _buffer(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Uninitialised memory that is used again: fresh pages would cost a CPU more than the
        work done in them."""
        dtype = dtype or like.dtype
        size = torch.Size(shape).numel()
        held = self._memory.get(name)
        if held is None or held.dtype != dtype or held.device != like.device or len(held) < size:
            self._memory[name] = held = torch.empty(size, dtype=dtype, device=like.device)
        return held[:size].view(shape)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 products (AMX or AVX512-BF16; Ampere or newer)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, c, bool)() for c in checks)


def _with_bound_coordinates(x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d_plus_3"]:
    """bfloat16 (x, ||x||, ||x - x'||, 1), the norms rounded up."""
    norm = x.norm(dim=-1, keepdim=True)
    lost = (x - x.bfloat16()).norm(dim=-1, keepdim=True)
    lost = lost + norm * (_SUMMING_GPU if x.is_cuda else _SUMMING_CPU)
    return torch.cat([x, norm * _UP, lost * _UP, torch.ones_like(norm)], dim=-1).bfloat16()


def _exact(entries: Entries, x: Tensor, weight: Tensor, b_enc: Tensor, limits: Tensor) -> Entries:
    """The candidates' float32 values, and only those above their limit (or NaN)."""
    rows, latents, _ = entries
    offsets = segment_starts(latents, len(weight))
    values = dots_in_latent_order(offsets, rows, weight, x) + b_enc[latents]
    keep = ~(values <= limits[latents])
    return Entries(rows[keep], latents[keep], values[keep])
