"""Sizes of published checkpoints, as their ``config.json`` gives them: networks without weights."""

import json
from pathlib import Path
from typing import Any, Literal

PublishedName = Literal["llada8b", "dream7b", "qwen3_06b"]

PUBLISHED: dict[PublishedName, dict[str, Any]] = {
    # GSAI-ML/LLaDA-8B-Instruct
    "llada8b": {
        "model_type": "llada",
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "embedding_size": 126464,
        "max_sequence_length": 4096,
        "rope_theta": 500000.0,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
        "pad_token_id": 126081,
    },
    # Dream-org/Dream-v0-Instruct-7B
    "dream7b": {
        "model_type": "Dream",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "mask_token_id": 151666,
        "eos_token_id": 151643,
        "tie_word_embeddings": False,
    },
    # Qwen3-0.6B, and what is adapted from it
    "qwen3_06b": {
        "model_type": "a2d-qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "mask_token_id": 151669,
        "eos_token_id": 151645,
        "tie_word_embeddings": True,
    },
}


_NARROW = {
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 4,
    "mlp_hidden_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_SMALL_IDS = {"mask_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}


def write_published(
    folder: Path,
    name: PublishedName,
    *,
    num_layers: int = 0,
    vocab_size: int = 0,
    is_narrow: bool = False,
) -> str:
    """Put the ``config.json`` of ``name`` into ``folder``; its path.

    ``num_layers`` and ``vocab_size`` make it smaller where they are not 0, ``is_narrow`` gives it
    blocks of the least width.
    """
    values = dict(PUBLISHED[name])
    if is_narrow:
        values |= {key: size for key, size in _NARROW.items() if key in values}
    if num_layers:
        values["n_layers" if "n_layers" in values else "num_hidden_layers"] = num_layers
    if vocab_size:
        sizes = {key: vocab_size for key in ("vocab_size", "embedding_size") if key in values}
        values |= sizes | {key: _SMALL_IDS[key] for key in _SMALL_IDS if key in values}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)
