"""Edits of single latents: small objects that change one model's residual stream at the site.

Each edit maps the current activations [tokens, d] to new ones; a list of edits composes. `swaps`
has those that bring in the other model or a replacement for the whole. The code f is always that of
both models' *true* activations (an oracle), whatever earlier edits of the list did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

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
        if latent not in table.index:
            raise CrossdiffError(f"no latent {latent} in this table of {len(table)} latents")
        largest = float(table["max_activation"].to_dict()[latent])
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
        member = members(self.latents, site)
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
        return current - site.written(site.decoder(), members(self.latents, site))

    def on_code(self, code: Tensor) -> Tensor:
        code = code.clone()
        code[..., list(self.latents)] = 0
        return code


@dataclass(frozen=True)
class KeepOnly(Edit):
    """Ablate every latent but these; bias and error stay."""

    latents: Latents

    def edited(self, current: Tensor, site: Site) -> Tensor:
        return current - site.written(site.decoder(), ~members(self.latents, site))

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


def apply_edits(edits: Sequence[Edit], site: Site) -> Float[Tensor, "tokens d"]:
    """The target's activations after `edits`, one after the other, at editable positions only."""
    current = site.acts[site.target]
    for edit in edits:
        where = edit.at(site.roles).flatten().to(current.device) & site.editable
        if bool(where.any()):
            current = torch.where(where[:, None], edit.edited(current, site), current)
    return current


def members(latents: Latents, site: Site) -> Bool[Tensor, " latents"]:
    """A mask of the chosen latents; raises `CrossdiffError` for one that does not exist."""
    member = torch.zeros(site.crosscoder.cfg.d_sae, dtype=torch.bool, device=site.editable.device)
    member[_index(latents, site)] = True
    return member


def _index(latents: Latents, site: Site) -> Tensor:
    _check_latents(latents, site.crosscoder.cfg.d_sae)
    return torch.tensor(sorted(set(latents)), dtype=torch.long, device=site.editable.device)


def _check_latents(latents: Iterable[int], d_sae: int) -> None:
    if unknown := [j for j in latents if not 0 <= j < d_sae]:
        raise CrossdiffError(f"no latents {unknown[:5]} here: they are numbered 0 to {d_sae - 1}")
