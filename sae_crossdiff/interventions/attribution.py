"""Which latents carry the difference between chat and base in one next-token prediction.

The metric m is a logit of the chat model's upper layers, read at the last token. Latent j's share
of the gap m(h_chat) - m(h_base) is estimated twice and checked once:

    direct     f_j <d_j^chat - d_j^base, dm/dr>, r the final residual stream at the last token:
               what j writes straight into the logits
    gradient   sum_i f_ij <d_j^chat - d_j^base, dm/dh_i> at h_chat: through the upper layers, to
               first order
    exact      m(h_chat) - m(h_chat - sum_i f_ij (d_j^chat - d_j^base)): by ablation
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.edits import Swap, apply_edits
from sae_crossdiff.interventions.positions import TokenRoles
from sae_crossdiff.interventions.site import Exclusions, Site
from sae_crossdiff.pair import HookedModelPair, UpperLayers, read_activations

Metric = Callable[[UpperLayers, Tensor], Tensor]


class Attribution(NamedTuple):
    """`token`: the predicted token; `latents`: per latent `direct`, `gradient`, `exact` (NaN where
    it was not computed), `activation` (sum of f) and `position` (of its largest |gradient|), by
    |gradient|, largest first; `entries`: per active (position, latent) f and gradient; `totals`:
    the metric of chat and base, their `gap`, and the first-order parts of it that `latents`,
    `bias` and `error` carry."""

    token: int
    latents: pd.DataFrame
    entries: pd.DataFrame
    totals: dict[str, float]


def attribute(
    pair: HookedModelPair,
    crosscoder: Crosscoder,
    prompt: TokenSequence,
    token: int | None = None,
    against: int | None = None,
    n_exact: int = 10,
    exclusions: Exclusions | None = None,
) -> Attribution:
    """Attribute the logit of `token` after `prompt` to the latents' decoder differences.

    Args:
        token: the next token to explain; the chat model's greedy choice if None.
        against: compare with this token's logit instead of with the mean logit.
        n_exact: latents (largest |gradient| first) to check by ablation.

    Raises:
        CrossdiffError: a pair whose upper layers are not the chat model's, or a token outside the
            vocabulary.
    """
    chat = pair.models["chat"]
    tokens = torch.from_numpy(prompt.ids)[None].to(pair.device)
    acts = pair.split(pair.activations(tokens))
    site = Site(crosscoder, acts, TokenRoles.of([prompt]).to(pair.device), "chat", exclusions)
    upper = UpperLayers(chat, pair.hook_names["chat"])
    with torch.no_grad():
        logits = _last_logits(upper, acts["chat"], tokens)[0]
    token = int(logits.argmax()) if token is None else token
    if not 0 <= token < len(logits):
        raise CrossdiffError(f"token {token} is not in the vocabulary of {len(logits)}")

    def metric(upper: UpperLayers, residual: Float[Tensor, "batch pos d"]) -> Tensor:
        rows = _last_logits(upper, residual, tokens.expand(len(residual), -1)).float()
        rest = rows.mean(dim=-1) if against is None else rows[:, against]
        return rows[:, token] - rest

    value, gradient = _gradient(upper, metric, acts["chat"])
    last_site = f"blocks.{len(chat.blocks) - 1}.hook_resid_post"
    final = read_activations(chat, last_site, tokens)
    _, direct_gradient = _gradient(UpperLayers(chat, last_site), metric, final)
    entries = _entries(site, gradient, direct_gradient[-1])
    with torch.no_grad():
        swapped = apply_edits([Swap("base")], site).view_as(acts["chat"])
        base = float(metric(upper, swapped))
    latents = _per_latent(entries)
    chosen = latents.index[:n_exact].tolist()
    latents["exact"] = pd.Series(_exact(site, upper, metric, chosen, value), dtype="float64")
    return Attribution(token, latents, entries, _totals(site, gradient, value, base, latents))


def _last_logits(
    upper: UpperLayers, residual: Float[Tensor, "batch pos d"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch vocabulary"]:
    at = torch.zeros_like(tokens, dtype=torch.bool)
    at[:, -1] = True
    return upper(residual, tokens, at=at)


def _gradient(upper: UpperLayers, metric: Metric, residual: Tensor) -> tuple[float, Tensor]:
    """The metric, and its gradient [tokens, d] in float32."""
    leaf = residual.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = metric(upper, leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return float(value.detach()), gradient[0].float()


@torch.no_grad()
def _entries(site: Site, gradient: Tensor, direct: Tensor) -> pd.DataFrame:
    """Every active (position, latent) with its first-order and direct effects."""
    code = site.code
    difference = site.decoder() - site.decoder("base")
    through = code.values * code.dots(gradient, difference)
    at_end = code.values * (difference @ direct)[code.latents]
    straight = torch.where(code.rows == code.n_tokens - 1, at_end, 0)
    columns = {"position": code.rows, "latent": code.latents, "activation": code.values}
    columns |= {"gradient": through, "direct": straight}
    return pd.DataFrame({name: c.detach().cpu().numpy() for name, c in columns.items()})


def _per_latent(entries: pd.DataFrame) -> pd.DataFrame:
    sums = entries.groupby("latent")[["direct", "gradient", "activation"]].sum()
    strongest = entries.loc[entries["gradient"].abs().groupby(entries["latent"]).idxmax()]
    sums["position"] = strongest.set_index("latent")["position"]
    order = sums["gradient"].abs().sort_values(ascending=False, kind="stable").index
    return sums.loc[order]


@torch.no_grad()
def _exact(
    site: Site, upper: UpperLayers, metric: Metric, latents: list[int], value: float
) -> dict[int, float]:
    difference = site.decoder() - site.decoder("base")
    own = site.acts[site.target]
    effects = {}
    for latent in latents:
        member = torch.zeros(len(difference), dtype=torch.bool, device=difference.device)
        member[latent] = True
        ablated = own - site.written(difference, member)
        effects[latent] = value - float(metric(upper, ablated[None]))
    return effects


@torch.no_grad()
def _totals(
    site: Site, gradient: Tensor, value: float, base: float, latents: pd.DataFrame
) -> dict[str, float]:
    """The linearised gap is latents + bias + error, up to rounding."""
    error = {n: site.acts[n] - site.reconstruction(n) for n in ("chat", "base")}
    here = site.editable[:, None]
    bias = site.bias() - site.bias("base")
    return {
        "chat": value,
        "base": base,
        "gap": value - base,
        "latents": float(latents["gradient"].sum()),
        "bias": float((gradient * here * bias).sum()),
        "error": float((gradient * here * (error["chat"] - error["base"])).sum()),
    }
