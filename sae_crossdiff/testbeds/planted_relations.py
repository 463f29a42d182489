"""Features that depend on each other: what provokes the known failures of crosscoders."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_crossdiff.errors import CrossdiffError

CHILD_RATE = 0.4
CO_FIRING_RATE = 0.5
LESS_OFTEN_RATE = 0.5

WITH_SHARED_PARTNER = ("child", "co-firing")


class Relations:
    """Which feature depends on which, and what that does to a code.

    "child": chat-only, fires on `CHILD_RATE` of the tokens of a shared feature and nowhere else.
    "co-firing": chat-only, fires by itself and on `CO_FIRING_RATE` of a shared feature's tokens.
    "composed": a direction that the chat model has of its own and that the base model writes
        with two "part" features, which fire there (and also elsewhere): Latent Decoupling.
    "less-often": the base model has it, on `LESS_OFTEN_RATE` of the tokens.
    """

    def __init__(self, kinds: NDArray[np.str_]):
        self.kinds = kinds
        shared = np.flatnonzero(kinds == "shared")
        dependent = np.flatnonzero(np.isin(kinds, WITH_SHARED_PARTNER))
        composed, parts = np.flatnonzero(kinds == "composed"), np.flatnonzero(kinds == "part")
        if len(parts) != 2 * len(composed) or len(shared) < len(dependent):
            raise CrossdiffError(
                f"{len(composed)} composed features need twice as many parts, not {len(parts)}; "
                f"{len(dependent)} child and co-firing features need as many shared ones, not "
                f"{len(shared)}"
            )
        self.partner = dict(zip(dependent.tolist(), shared.tolist(), strict=False))
        self.parts = dict(zip(composed.tolist(), parts.reshape(-1, 2).tolist(), strict=True))

    def arrange(self, base: Float[Tensor, "features d"], chat: Float[Tensor, "features d"]) -> None:
        """Dictionaries of the dependent kinds, in place: the parts' base rows sum to the composed
        feature's chat row."""
        for kind in WITH_SHARED_PARTNER:
            base[torch.from_numpy(self.kinds == kind)] = 0.0
        for composed, (first, second) in self.parts.items():
            whole, apart = chat[composed], base[first]
            apart = apart - (apart @ whole) * whole
            apart = apart / apart.norm()
            base[first], base[second] = (whole + apart) / 2, (whole - apart) / 2
            base[composed] = 0.0
            chat[first], chat[second] = 0.0, 0.0

    def relate(self, code: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens features"]:
        """The code with the dependencies in it (torch's global generator)."""
        if not self.partner and not self.parts:
            return code
        code = code.clone()
        for feature, partner in self.partner.items():
            is_child = self.kinds[feature] == "child"
            rate = CHILD_RATE if is_child else CO_FIRING_RATE
            strength = (1 + 0.3 * torch.randn(len(code))).clamp(min=0.1)
            fires = (code[:, partner] > 0) & (torch.rand(len(code)) < rate)
            own = torch.zeros(len(code)) if is_child else code[:, feature]
            code[:, feature] = torch.where(fires, strength, own)
        for composed, parts in self.parts.items():
            together = code[:, composed] > 0
            for part in parts:
                code[:, part] = torch.where(together, code[:, composed], code[:, part])
        return code

    def in_base(self, code: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens features"]:
        """What the base model has of a code: a "less-often" feature not on every token."""
        rare = torch.from_numpy(self.kinds == "less-often")
        if not bool(rare.any()):
            return code
        code = code.clone()
        code[:, rare] *= torch.rand(len(code), int(rare.sum())) < LESS_OFTEN_RATE
        return code
