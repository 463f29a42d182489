"""Low-rank adapters without peft: one safetensors file, attached by hooks to train, merged to use.

An adapter holds for each adapted linear layer `<module>.lora_A` [rank, d_in] and `<module>.lora_B`
[d_out, rank], with W' = W + B A (any scale is folded into B), and `embedding.rows` [2, d_model], to
be added to the embeddings of `embedding.ids` [2]: Gemma's base hardly tells <end_of_turn> from
<pad>, so no low-rank change of the blocks alone could teach it where a turn ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sae_crossdiff.errors import CrossdiffError

__all__ = ["attach_adapter", "merge_adapter", "save_adapter"]

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def target_modules(model: nn.Module) -> dict[str, nn.Linear]:
    """Name -> linear layer, for all attention and MLP projections."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(TARGETS)
    }


def attach_adapter(
    model: Any, token_ids: list[int], rank: int, scale: float, seed: int
) -> dict[str, Tensor]:
    """Freeze `model`, hook a fresh adapter into it and return the adapter's float32 tensors.

    B and the rows start at zero, so the model starts unchanged (Hu et al. 2021, LoRA, section 4.1).
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    adapter: dict[str, Tensor] = {}
    for name, module in target_modules(model).items():
        A = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
        adapter[f"{name}.lora_A"] = A.requires_grad_()
        adapter[f"{name}.lora_B"] = torch.zeros(module.out_features, rank, requires_grad=True)
        module.register_forward_hook(_low_rank_hook(adapter, name, scale))
    table = model.get_input_embeddings()
    adapter["embedding.rows"] = torch.zeros(
        len(token_ids), table.weight.shape[1], requires_grad=True
    )
    table.register_forward_hook(_rows_hook(adapter["embedding.rows"], token_ids))
    return adapter


def _low_rank_hook(adapter: dict[str, Tensor], name: str, scale: float) -> Any:
    A, B = adapter[f"{name}.lora_A"], adapter[f"{name}.lora_B"]

    def hook(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        x = inputs[0]
        return output + scale * F.linear(F.linear(x, A.to(x.dtype)), B.to(x.dtype))

    return hook


def _rows_hook(rows: Tensor, token_ids: list[int]) -> Any:
    def hook(table: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        here = torch.stack([inputs[0] == token for token in token_ids], dim=-1).to(rows.dtype)
        # Gemma multiplies embeddings by sqrt(d_model) inside the module.
        return output + (here @ rows * getattr(table, "embed_scale", 1.0)).to(output.dtype)

    return hook


def save_adapter(
    adapter: dict[str, Tensor], token_ids: list[int], scale: float, path: Path
) -> None:
    """Write the adapter in bfloat16, with `scale` folded into B."""
    tensors = {
        name: (tensor.detach() * (scale if name.endswith("lora_B") else 1.0))
        .bfloat16()
        .contiguous()
        for name, tensor in adapter.items()
    }
    save_file({**tensors, "embedding.ids": torch.tensor(token_ids)}, path)


@torch.no_grad()
def merge_adapter(model: Any, path: Path) -> None:
    """Add the adapter in `path` to the weights of `model`, in place, computed in float32.

    Raises:
        ValueError: if the adapter adapts other layers than the model has.
    """
    tensors = load_file(path)
    modules = target_modules(model)
    adapted = {name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")}
    if adapted != set(modules):
        raise CrossdiffError(
            f"{path} adapts {len(adapted)} layers, the model has {len(modules)} of them"
        )
    for name, module in modules.items():
        change = tensors[f"{name}.lora_B"].float() @ tensors[f"{name}.lora_A"].float()
        module.weight.copy_(module.weight.float() + change)
    weight = model.get_input_embeddings().weight  # tied: this changes the unembedding too
    ids = tensors["embedding.ids"]
    weight[ids] = (weight[ids].float() + tensors["embedding.rows"].float()).to(weight.dtype)
