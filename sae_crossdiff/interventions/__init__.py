"""Causes, not correlations: views, edits, generation, the KL test, splicing, attribution."""

from sae_crossdiff.interventions.attached import attach
from sae_crossdiff.interventions.attribution import Attribution, attribute
from sae_crossdiff.interventions.edits import Ablate, Clamp, Edit, KeepOnly, ProjectOut, Steer
from sae_crossdiff.interventions.generation import generate
from sae_crossdiff.interventions.hooks import code_hooks, edit_hooks, edited
from sae_crossdiff.interventions.kl import (
    KL_GROUPS,
    kl_difference,
    kl_experiment,
    kl_table,
    pool_draws,
    standard_conditions,
)
from sae_crossdiff.interventions.latent_sets import latent_sets, single_latents
from sae_crossdiff.interventions.positions import (
    ASSISTANT,
    EVERYWHERE,
    PROMPT,
    TEMPLATE,
    Positions,
    TokenRoles,
    first_of_turn,
    named_positions,
)
from sae_crossdiff.interventions.prompts import chat_prompt, plain_prompt, turn_end_ids
from sae_crossdiff.interventions.scoring import score_edits
from sae_crossdiff.interventions.site import Exclusions
from sae_crossdiff.interventions.splice import splice_quality
from sae_crossdiff.interventions.swaps import (
    AddDifference,
    Reconstruct,
    Replace,
    Revert,
    Swap,
    patch,
)
from sae_crossdiff.interventions.views import CrosscoderView

__all__ = [
    "ASSISTANT",
    "EVERYWHERE",
    "KL_GROUPS",
    "PROMPT",
    "TEMPLATE",
    "Ablate",
    "AddDifference",
    "Attribution",
    "Clamp",
    "CrosscoderView",
    "Edit",
    "Exclusions",
    "KeepOnly",
    "Positions",
    "ProjectOut",
    "Reconstruct",
    "Replace",
    "Revert",
    "Steer",
    "Swap",
    "TokenRoles",
    "attach",
    "attribute",
    "chat_prompt",
    "code_hooks",
    "edit_hooks",
    "edited",
    "first_of_turn",
    "generate",
    "kl_difference",
    "kl_experiment",
    "kl_table",
    "latent_sets",
    "named_positions",
    "patch",
    "plain_prompt",
    "pool_draws",
    "score_edits",
    "single_latents",
    "splice_quality",
    "standard_conditions",
    "turn_end_ids",
]
