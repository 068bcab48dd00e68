"""LLaDA's ``config.json``: what sizes the network, and what it must not ask for."""

from dataclasses import dataclass, fields
from typing import Any

# What this architecture takes for granted: another value would need other code.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "model_type": ("llada",),
    "block_type": ("llama",),
    # Not "swiglu": that activation halves its input, which a llama block has no use for.
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "multi_query_attention": (False, None),
    "alibi": (False,),
    "rope": (True,),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "block_group_size": (1,),
    "attention_dropout": (0.0,),
    "residual_dropout": (0.0,),
    "embedding_dropout": (0.0,),
    "clip_qkv": (None,),
    "layer_norm_with_affine": (True,),
}
_SIZES = (
    *("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size"),
    *("embedding_size", "vocab_size", "max_sequence_length"),
)
_NUMBERS = ("rope_theta", "rms_norm_eps")
_TOKEN_IDS = ("mask_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, kw_only=True)
class LladaConfig:
    """The keys of LLaDA's ``config.json`` that size the network; the rest is kept in ``extra``."""

    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlp_hidden_size: int
    embedding_size: int
    vocab_size: int
    max_sequence_length: int
    rope_theta: float
    rms_norm_eps: float
    mask_token_id: int
    eos_token_id: int
    pad_token_id: int
    weight_tying: bool
    extra: dict[str, Any]

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> "LladaConfig":
        """The configuration in ``values``; ValueError naming ``where`` and every key that is
        missing, impossible, or asks for another architecture."""
        known = {"rms_norm_eps": 1e-5, "weight_tying": False} | values
        if known.get("n_kv_heads") is None:
            known["n_kv_heads"] = known.get("n_heads")
        if known.get("embedding_size") is None:
            known["embedding_size"] = known.get("vocab_size")
        names = [f.name for f in fields(cls) if f.name != "extra"]
        wrong = _other_architecture(values)
        wrong += [f"{name}: missing" for name in names if known.get(name) is None]
        # Sizes can be compared once each of them is a number at all.
        wrong = wrong or _wrong_types(known) or _wrong_sizes(known)
        if wrong:
            raise ValueError(f"{where}: not a LLaDA configuration: {'; '.join(wrong)}")
        return cls(**{name: known[name] for name in names}, extra=dict(values))

    def to_json(self) -> dict[str, Any]:
        """The keys of ``config.json``, those that were read with it included."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        return self.extra | own


def _other_architecture(values: dict[str, Any]) -> list[str]:
    return [
        f"{key}: wanted {' or '.join(map(str, allowed))}, got {values[key]!r}"
        for key, allowed in _REQUIRED.items()
        if key in values and values[key] not in allowed
    ]


def _wrong_types(known: dict[str, Any]) -> list[str]:
    """What is wrong with single values. JSON's true and false are no numbers here."""

    def is_number(value: Any, *types: type) -> bool:
        return isinstance(value, types) and not isinstance(value, bool)

    least = dict.fromkeys(_SIZES, 1) | dict.fromkeys(_TOKEN_IDS, 0)
    wrong = [
        f"{key}: wanted a whole number of at least {minimum}, got {known[key]!r}"
        for key, minimum in least.items()
        if not (is_number(known[key], int) and known[key] >= minimum)
    ]
    wrong += [
        f"{key}: wanted a number above 0, got {known[key]!r}"
        for key in _NUMBERS
        if not (is_number(known[key], int, float) and 0 < known[key] < float("inf"))
    ]
    if not isinstance(known["weight_tying"], bool):
        wrong.append(f"weight_tying: wanted true or false, got {known['weight_tying']!r}")
    return wrong


def _wrong_sizes(known: dict[str, Any]) -> list[str]:
    """What is wrong with values beside one another."""
    wrong: list[str] = []
    num_heads, num_kv_heads, width = (known[k] for k in ("n_heads", "n_kv_heads", "embedding_size"))
    if known["d_model"] % (2 * num_heads):  # rotary positions turn pairs of a head's columns
        wrong.append(
            f"d_model: wanted a multiple of twice n_heads ({num_heads}), got {known['d_model']}"
        )
    if num_heads % num_kv_heads:
        wrong.append(f"n_kv_heads: wanted a divisor of n_heads ({num_heads}), got {num_kv_heads}")
    if width < known["vocab_size"]:
        wrong.append(
            f"embedding_size: wanted at least vocab_size ({known['vocab_size']}), got {width}"
        )
    wrong += [
        f"{key}: wanted an id below embedding_size ({width}), got {known[key]}"
        for key in _TOKEN_IDS
        if known[key] >= width
    ]
    return wrong
