"""Two models that hook like one; tokenizer agreement; chat rendering; template-token masks."""

from sae_crossdiff.pair.chat import LabelledSpan, RenderedChat, render_chat
from sae_crossdiff.pair.hooked_pair import HookedModelPair
from sae_crossdiff.pair.loading import load_model, load_tokenizer, resolve_dtype
from sae_crossdiff.pair.tokenizers import check_tokenizers_agree, tokenizer_hash

__all__ = [
    "HookedModelPair",
    "LabelledSpan",
    "RenderedChat",
    "check_tokenizers_agree",
    "load_model",
    "load_tokenizer",
    "render_chat",
    "resolve_dtype",
    "tokenizer_hash",
]
