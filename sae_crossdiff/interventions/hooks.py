"""Edits as TransformerLens hooks, on a pair or on one model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.edits import Edit, apply_edits
from sae_crossdiff.interventions.positions import TokenRoles
from sae_crossdiff.interventions.site import Exclusions, Site
from sae_crossdiff.pair import HookedModelPair, hook_point_name

Hook = tuple[str, Callable[..., Tensor]]


def edit_hooks(
    model: HookedModelPair | Any,
    crosscoder: Crosscoder,
    edits: Sequence[Edit],
    roles: TokenRoles,
    target: str = "chat",
    exclusions: Exclusions | None = None,
) -> list[Hook]:
    """Hooks that apply `edits` to the tokens of `roles`; pass them as `fwd_hooks`.

    >>> hooks = edit_hooks(pair, crosscoder, [Ablate((7,))], roles)  # doctest: +SKIP
    >>> logits = pair.run_with_hooks(tokens, fwd_hooks=hooks)  # doctest: +SKIP

    On a pair every edit works. On one model alone (`target` says which it is) only edits that
    need neither the code nor the other model do: `Steer`, `ProjectOut`, `Replace`.

    Raises:
        CrossdiffError: a pair whose output is another model than `target`; when the hook fires,
            an edit that needs more than the model has, or tokens of another shape.
    """
    if not isinstance(model, HookedModelPair):

        def edit_alone(acts: Tensor, hook: Any = None) -> Tensor:
            site = Site(crosscoder, {target: acts}, roles, target, exclusions)
            return _like(apply_edits(edits, site), acts)

        return [(hook_point_name(model, site_of(crosscoder), target), edit_alone)]
    if model.output_model != target:
        raise CrossdiffError(
            f"this pair's upper layers are those of {model.output_model!r}, so editing {target!r} "
            f"would change nothing: build it with output_model={target!r}"
        )

    def edit_joined(joined: Tensor, hook: Any = None) -> Tensor:
        acts = model.split(joined)
        site = Site(crosscoder, acts, roles, target, exclusions)
        edited = {**acts, target: _like(apply_edits(edits, site), acts[target])}
        return model.join([edited[name] for name in model.names])

    return [(model.hook_name, edit_joined)]


def code_hooks(hook_name: str, edits: Sequence[Edit], roles: TokenRoles) -> list[Hook]:
    """The edits as hooks on the code of an SAE that is attached at `hook_name`.

    For `run_with_hooks_with_saes`: `Steer`, `Clamp`, `Ablate` and `KeepOnly` work there.
    """

    def edit_code(code: Float[Tensor, "batch pos latents"], hook: Any = None) -> Tensor:
        ordinary = roles.real & ~roles.special
        for edit in edits:
            where = (edit.at(roles) & ordinary).to(code.device)
            code = torch.where(where[..., None], edit.on_code(code), code)
        return code

    return [(f"{hook_name}.hook_sae_acts_post", edit_code)]


@contextmanager
def edited(
    model: HookedModelPair | Any,
    crosscoder: Crosscoder,
    edits: Sequence[Edit],
    roles: TokenRoles,
    **kwargs: Any,
) -> Iterator[Any]:
    """The model with `edits` in place; they are gone afterwards, whatever happens inside."""
    with model.hooks(fwd_hooks=edit_hooks(model, crosscoder, edits, roles, **kwargs)):
        yield model


def site_of(crosscoder: Crosscoder) -> str:
    """The hook a crosscoder was trained on; raises `CrossdiffError` if it does not say."""
    hook_name = crosscoder.cfg.metadata.hook_name
    if not hook_name:
        raise CrossdiffError(
            "this crosscoder does not say which hook it belongs to: set "
            "crosscoder.cfg.metadata.hook_name, e.g. to blocks.13.hook_resid_post"
        )
    return str(hook_name)


def _like(tokens: Float[Tensor, "tokens d"], acts: Tensor) -> Tensor:
    return tokens.reshape(acts.shape).to(acts)
