"""Edits that bring in another model's activations or decoders, or a replacement for the whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.edits import Edit, Latents, members
from sae_crossdiff.interventions.site import Site


@dataclass(frozen=True)
class Swap(Edit):
    """Put another model's activations in place of the target's."""

    source: str

    def edited(self, current: Tensor, site: Site) -> Tensor:
        if self.source not in site.acts:
            raise CrossdiffError(
                f"swapping in {self.source!r} needs that model: only {list(site.acts)} ran here, "
                "use a HookedModelPair"
            )
        return site.acts[self.source]


@dataclass(frozen=True)
class AddDifference(Edit):
    """Add what latents write more in the target than in `source`: sum_j f_j (d_j - d_j^source).

    After `Swap(source)` this is the patch of arXiv:2504.02922: h_base + sum f (d_chat - d_base).
    `latents=None`: all. `bias` and `error` add the differences of the decoder biases and of the
    reconstruction errors; with all of them the target's own activations come back.
    """

    latents: Latents | None
    source: str = "base"
    bias: bool = False
    error: bool = False

    def edited(self, current: Tensor, site: Site) -> Tensor:
        member = None if self.latents is None else members(self.latents, site)
        difference = site.written(site.decoder_difference(self.source), member)
        if self.bias:
            difference = difference + site.bias() - site.bias(self.source)
        if self.error:
            theirs = site.acts[self.source] - site.reconstruction(self.source)
            difference = difference + site.acts[site.target] - site.reconstruction() - theirs
        return current + difference


@dataclass(frozen=True)
class Revert(Edit):
    """Give latents the decoder that they have in `source`: x - sum_j f_j (d_j - d_j^source)."""

    latents: Latents
    source: str = "base"

    def edited(self, current: Tensor, site: Site) -> Tensor:
        difference = site.decoder_difference(self.source)
        return current - site.written(difference, members(self.latents, site))


def patch(latents: Iterable[int] | None, source: str = "base") -> tuple[Edit, ...]:
    """h_source + sum over latents f (d_target - d_source): two edits."""
    chosen = None if latents is None else tuple(latents)
    return (Swap(source), AddDifference(chosen, source))


@dataclass(frozen=True)
class Reconstruct(Edit):
    """Put the crosscoder's reconstruction in place of the activations.

    `error`: add the error term too, x - x_hat of the true activations; then nothing changes.
    """

    error: bool = False

    def edited(self, current: Tensor, site: Site) -> Tensor:
        reconstruction = site.reconstruction()
        if not self.error:
            return reconstruction
        return reconstruction + (site.acts[site.target] - reconstruction)


@dataclass(frozen=True, eq=False)
class Replace(Edit):
    """Put one vector [d] in place of the activations; "zero" for zeros."""

    needs_pair: ClassVar[bool] = False
    vector: Float[Tensor, " d"] | Literal["zero"]

    def edited(self, current: Tensor, site: Site) -> Tensor:
        if isinstance(self.vector, str):
            return torch.zeros_like(current)
        return self.vector.to(current).expand_as(current)
