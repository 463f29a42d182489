"""Two models that hook like one; tokenizer agreement; chat rendering; template-token masks."""

from sae_crossdiff.pair.chat import LabelledSpan, RenderedChat, render_chat
from sae_crossdiff.pair.hooked_pair import HookedModelPair
from sae_crossdiff.pair.loading import load_model, load_tokenizer, resolve_dtype
from sae_crossdiff.pair.sites import find_hook_point, hook_point_name, hooked_at, read_activations
from sae_crossdiff.pair.tokenizers import check_tokenizers_agree, tokenizer_hash
from sae_crossdiff.pair.upper import UpperLayers, blocks_below, unembedding_at

__all__ = [
    "HookedModelPair",
    "LabelledSpan",
    "RenderedChat",
    "UpperLayers",
    "blocks_below",
    "check_tokenizers_agree",
    "find_hook_point",
    "hook_point_name",
    "hooked_at",
    "load_model",
    "load_tokenizer",
    "read_activations",
    "render_chat",
    "resolve_dtype",
    "tokenizer_hash",
    "unembedding_at",
]
