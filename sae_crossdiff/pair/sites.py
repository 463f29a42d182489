"""Reading a model at one hook point, and no further."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from sae_crossdiff.errors import CrossdiffError


class _SiteReached(Exception):
    """Ends a forward pass at the site: the layers above, and the unembedding, never run."""


def find_hook_point(model: Any, hook_name: str, model_name: str = "model") -> nn.Module:
    """The module at `hook_name` of any model with TransformerLens hooks, aliases included.

    Raises:
        CrossdiffError: the model has no such hook; the message lists the nearest names.
    """
    resolve = getattr(model, "_resolve_hook_name", None)  # SAETransformerBridge drops aliases
    hooks = getattr(model, "hook_dict", {})
    for name in (hook_name, resolve(hook_name) if resolve else hook_name):
        if name in hooks:
            return hooks[name]
    nearest = difflib.get_close_matches(hook_name, list(hooks), n=3, cutoff=0.0)
    raise CrossdiffError(
        f"{model_name} has no hook point {hook_name!r}. The nearest are {', '.join(nearest)}"
        if nearest
        else f"{model_name} ({type(model).__name__}) has no TransformerLens hooks: load it with "
        "HookedModelPair.from_pretrained or TransformerBridge.boot_transformers"
    )


def hook_point_name(model: Any, hook_name: str, model_name: str = "model") -> str:
    """The canonical name of `hook_name`: hooks on an alias are dropped silently by some models."""
    return str(find_hook_point(model, hook_name, model_name).name)


@contextmanager
def hooked_at(point: nn.Module, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Run `edit` on the tensor that passes `point`; only this hook is removed afterwards."""
    if not isinstance(point, HookPoint):
        # An SAE sits here (SAELens replaces the HookPoint by the SAE): act on its output.
        handle = point.register_forward_hook(lambda *call: edit(call[-1]))
        try:
            yield
        finally:
            handle.remove()
        return
    point.add_hook(lambda tensor, hook: edit(tensor))  # type: ignore[arg-type]
    lens_handle = point.fwd_hooks[-1]
    try:
        yield
    finally:
        lens_handle.hook.remove()
        point.fwd_hooks.remove(lens_handle)


def read_site(model: Any, point: nn.Module, tokens: Tensor, **kwargs: Any) -> Tensor:
    """Activations [batch, pos, d_model] of `tokens` [batch, pos] at `point`; stops right there."""
    found: list[Tensor] = []

    def stop(activations: Tensor) -> None:
        found.append(activations)
        raise _SiteReached

    with hooked_at(point, stop):
        try:
            model(tokens, return_type=None, **kwargs)
        except _SiteReached:
            return found[0]
    raise CrossdiffError(
        f"the hook point {getattr(point, 'name', point)!r} exists but never fired in "
        f"{type(model).__name__}: use a residual-stream hook such as blocks.13.hook_resid_post"
    )


@torch.no_grad()
def read_activations(model: Any, hook_name: str, tokens: Tensor, **kwargs: Any) -> Tensor:
    """Activations [batch, pos, d_model] of `tokens` at `hook_name`, on the model's own device.

    Raises:
        CrossdiffError: no such hook, or one that never fires.
    """
    device = next(model.parameters()).device
    point = find_hook_point(model, hook_name)
    return read_site(model, point, tokens.to(device), **kwargs)


def read_width(model: Any, point: nn.Module) -> int:
    """Width of the activations at `point`, by running one token."""
    with torch.no_grad():
        device = next(model.parameters()).device
        activations = read_site(model, point, torch.zeros(1, 1, dtype=torch.long, device=device))
    if activations.ndim != 3:
        raise CrossdiffError(
            f"the hook point {getattr(point, 'name', point)!r} carries a tensor of shape "
            f"{tuple(activations.shape)}; a crosscoder needs [batch, pos, d_model]"
        )
    return activations.shape[-1]
