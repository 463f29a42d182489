"""Edits: small objects that change one model's residual stream at the site; a list composes.

Each edit maps the current activations [tokens, d] to new ones. The code f is always that of both
models' *true* activations (an oracle), whatever earlier edits of the list did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.positions import EVERYWHERE, Positions
from sae_crossdiff.interventions.site import Site

Latents = tuple[int, ...]


@dataclass(frozen=True)
class Edit:
    """Base class. `at`: the positions where it acts.

    `needs_pair`: whether it reads the code or another model's activations, so that one model alone
    is not enough.
    """

    needs_pair: ClassVar[bool] = True
    at: Positions = field(default=EVERYWHERE, kw_only=True)

    def edited(self, current: Tensor, site: Site) -> Tensor:
        """New activations [tokens, d] of the target model, before positions are considered."""
        raise NotImplementedError

    def on_code(self, code: Float[Tensor, "*tokens latents"]) -> Tensor:
        """The same edit on a dense code, for a hook on `hook_sae_acts_post`.

        Raises:
            CrossdiffError: the edit is none of the code.
        """
        raise CrossdiffError(
            f"{type(self).__name__} edits activations, not the code: hook the residual stream"
        )


@dataclass(frozen=True)
class Steer(Edit):
    """Add `strength * d_j` of a latent's decoder; `strength` is in units of f.

    Needs no code, so it works on one model alone. `decoder`: whose decoder row (default: the edited
    model's own).
    """

    needs_pair: ClassVar[bool] = False
    latent: int
    strength: float
    decoder: str | None = None

    @classmethod
    def by_max(cls, table: pd.DataFrame, latent: int, alpha: float, **kwargs: object) -> Steer:
        """`alpha` in units of the latent's largest activation in a latent table.

        Raises:
            CrossdiffError: a latent that the table lacks, or that never fired.
        """
        _check_latents([latent], len(table))
        largest = float(table["max_activation"].to_numpy()[latent])
        if not largest > 0:
            raise CrossdiffError(f"latent {latent} never fired, so its largest activation is 0")
        return cls(latent, alpha * largest, **kwargs)  # type: ignore[arg-type]

    def edited(self, current: Tensor, site: Site) -> Tensor:
        decoder = site.decoder(self.decoder)
        _check_latents([self.latent], len(decoder))
        return current + self.strength * decoder[self.latent]

    def on_code(self, code: Tensor) -> Tensor:
        if self.decoder is not None:
            return super().on_code(code)
        code = code.clone()
        code[..., self.latent] += self.strength
        return code


@dataclass(frozen=True)
class Clamp(Edit):
    """Set latents' f to `value` where they are active, or everywhere (`only_active=False`)."""

    latents: Latents
    value: float
    only_active: bool = True

    def edited(self, current: Tensor, site: Site) -> Tensor:
        chosen = _index(self.latents, site)
        member = _members(self.latents, site)
        removed = site.written(site.decoder(), member)
        if not self.only_active:
            return current - removed + self.value * site.decoder()[chosen].sum(0)
        fires = site.code.with_values(site.code.values.new_ones(len(site.code.values)))
        wanted = fires.with_values(self.value * member[fires.latents])
        return current - removed + wanted.matmul(site.decoder())

    def on_code(self, code: Tensor) -> Tensor:
        code, chosen = code.clone(), list(self.latents)
        acts = code[..., chosen]
        everywhere = torch.full_like(acts, self.value)
        code[..., chosen] = torch.where(acts > 0, everywhere, 0) if self.only_active else everywhere
        return code


@dataclass(frozen=True)
class Ablate(Edit):
    """Take latents' contributions out of the target model: x - sum_j f_j d_j."""

    latents: Latents

    def edited(self, current: Tensor, site: Site) -> Tensor:
        return current - site.written(site.decoder(), _members(self.latents, site))

    def on_code(self, code: Tensor) -> Tensor:
        code = code.clone()
        code[..., list(self.latents)] = 0
        return code


@dataclass(frozen=True)
class KeepOnly(Edit):
    """Ablate every latent but these; bias and error stay."""

    latents: Latents

    def edited(self, current: Tensor, site: Site) -> Tensor:
        return current - site.written(site.decoder(), ~_members(self.latents, site))

    def on_code(self, code: Tensor) -> Tensor:
        kept = torch.zeros_like(code)
        kept[..., list(self.latents)] = code[..., list(self.latents)]
        return kept


@dataclass(frozen=True)
class ProjectOut(Edit):
    """Remove the span of latents' decoder rows from x - b_dec; needs no code.

    Around the decoder bias, because the mean of a residual stream can be 98 % of its norm and
    would otherwise lose its own part along those rows.
    """

    needs_pair: ClassVar[bool] = False
    latents: Latents

    def edited(self, current: Tensor, site: Site) -> Tensor:
        rows = site.decoder()[_index(self.latents, site)]
        basis = torch.linalg.qr(rows.T).Q
        return current - (current - site.bias()) @ basis @ basis.T


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
        member = None if self.latents is None else _members(self.latents, site)
        difference = site.written(site.decoder() - site.decoder(self.source), member)
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
        difference = site.decoder() - site.decoder(self.source)
        return current - site.written(difference, _members(self.latents, site))


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


def apply_edits(edits: Sequence[Edit], site: Site) -> Float[Tensor, "tokens d"]:
    """The target's activations after `edits`, one after the other, at editable positions only."""
    current = site.acts[site.target]
    for edit in edits:
        where = edit.at(site.roles).flatten().to(current.device) & site.editable
        if bool(where.any()):
            current = torch.where(where[:, None], edit.edited(current, site), current)
    return current


def _members(latents: Latents, site: Site) -> Bool[Tensor, " latents"]:
    member = torch.zeros(site.crosscoder.cfg.d_sae, dtype=torch.bool, device=site.editable.device)
    member[_index(latents, site)] = True
    return member


def _index(latents: Latents, site: Site) -> Tensor:
    _check_latents(latents, site.crosscoder.cfg.d_sae)
    return torch.tensor(sorted(set(latents)), dtype=torch.long, device=site.editable.device)


def _check_latents(latents: Iterable[int], d_sae: int) -> None:
    if unknown := [j for j in latents if not 0 <= j < d_sae]:
        raise CrossdiffError(f"no latents {unknown[:5]} here: they are numbered 0 to {d_sae - 1}")
