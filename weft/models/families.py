"""The known families: from the values of ``config.json`` to an architecture."""

from typing import Any

from weft.models.base import Architecture, TokenId
from weft.suggest import did_you_mean


def architecture_of(values: dict[str, Any], where: str, token_id: TokenId) -> Architecture:
    """The architecture that ``values`` describe.

    ``where`` names their file; ``token_id`` gives the tokenizer's ``mask_token_id`` and
    ``eos_token_id`` where the values have none. Raises ValueError naming every value that is
    missing or does not fit, and for a ``model_type`` that is no denoiser.
    """
    # Their blocks are those of transformers, whose import takes seconds, which most processes of a
    # job need not wait.
    from weft.models.decoders import DECODERS, decoder_architecture
    from weft.models.llada import llada_architecture
    from weft.models.llada_config import LladaConfig
    from weft.models.masked_lm import is_masked_lm, masked_lm_architecture

    family = values.get("model_type")
    if family == "llada":
        return llada_architecture(LladaConfig.from_json(values, where))
    if family in DECODERS:
        return decoder_architecture(values, where, token_id)
    if is_masked_lm(family):
        return masked_lm_architecture(values, where, token_id)
    known = ("llada", *DECODERS)
    raise ValueError(
        f"{where}: model_type: wanted one of {', '.join(known)} or a masked language model of "
        f"transformers, got {family!r}{did_you_mean(str(family), known)}"
    )
