"""Evaluation protocols: which prompts, items and decoder settings a published number stands for.

Sources: dllm-reasoning/d1; LLaDA (arXiv 2502.09992), appendix B.4, and the settings published with
its evaluation code. Importable without torch.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config import EvaluateSection
from weft.decode_settings import DecodeSettings


@dataclass(frozen=True)
class Decoding:
    """How one task is prompted and decoded at one length."""

    protocol: str
    prompt_style: str
    settings: DecodeSettings

    def flags(self) -> dict[str, Any]:
        """Everything that decides a generation, as it stands in each result row."""
        values = dataclasses.asdict(self.settings)
        del values["eot_token_id"]  # the tokenizer's
        return {"protocol": self.protocol, "prompt_style": self.prompt_style} | values


@dataclass(frozen=True)
class _Protocol:
    """What a protocol fixes; lengths of 0 follow from the canvas."""

    prompt_style: str
    gen_lengths: tuple[int, ...]
    block_length: int
    """0: that of the canvas."""
    steps_divisor: int
    """Steps are the length of the canvas over this."""
    is_fixed: bool = True
    d1_items: bool = False


_PROTOCOLS = {
    "own": _Protocol("compact", (128,), 32, 2, is_fixed=False),
    "d1": _Protocol("d1", (128, 256, 512), 32, 2, d1_items=True),
    "llada": _Protocol("llada", (512,), 0, 1),
}


def gen_lengths(section: EvaluateSection) -> tuple[int, ...]:
    """Lengths of the canvas that are evaluated."""
    return section.gen_lengths or _PROTOCOLS[section.protocol].gen_lengths


def takes_d1_items(section: EvaluateSection) -> bool:
    """Whether the items of a benchmark are those that d1 takes, in its order."""
    return _PROTOCOLS[section.protocol].d1_items


def decoding(section: EvaluateSection, task: str, gen_length: int) -> Decoding:
    """Prompts and decoder of ``task``; ValueError where these settings cannot run."""
    protocol = _PROTOCOLS[section.protocol]
    block_length = section.block_length or protocol.block_length or gen_length
    suppresses = section.protocol == "llada"
    settings = DecodeSettings(
        gen_length=gen_length,
        block_length=block_length,
        steps=section.steps or max(1, gen_length // protocol.steps_divisor),
        temperature=section.temperature,
        remasking=section.remasking,
        cfg_scale=section.cfg_scale,
        threshold=section.threshold,
        cache=section.cache,
        early_stop=section.early_stop,
        # LLaDA never predicts EOS in HumanEval, and elsewhere ranks the end of a turn last.
        logits_eos_inf=section.logits_eos_inf or (suppresses and task == "humaneval"),
        confidence_eos_eot_inf=section.confidence_eos_eot_inf
        or (suppresses and task != "humaneval"),
    )
    style = protocol.prompt_style if section.prompt_style == "protocol" else section.prompt_style
    return Decoding(section.protocol, style, settings)


def problems(section: EvaluateSection) -> Iterator[str]:
    """What cannot run, or contradicts the protocol, in words."""
    protocol = _PROTOCOLS[section.protocol]
    if protocol.is_fixed:
        yield from _contradictions(section, protocol)
    if section.gen_lengths and min(section.gen_lengths) < 1:
        yield f"evaluate.gen_lengths: wanted at least 1, got {min(section.gen_lengths)}"
        return
    if min(section.block_length, section.steps) < 0:
        return  # already refused as out of range
    found: dict[str, list[str]] = {}
    for length in gen_lengths(section):
        try:
            decoding(section, "", length)
        except ValueError as error:
            found.setdefault(str(error), []).append(str(length))
    for message, lengths in found.items():
        is_of_one_key = hasattr(section, message.partition(":")[0])
        where = "evaluate." if is_of_one_key else f"evaluate (canvas of {', '.join(lengths)}): "
        yield f"{where}{message}"


def _contradictions(section: EvaluateSection, protocol: _Protocol) -> Iterator[str]:
    fixed: dict[str, Any] = {
        "prompt_style": (protocol.prompt_style, "protocol"),
        "temperature": (0.0,),
        "remasking": ("low_confidence",),
        "cfg_scale": (0.0,),
        "logits_eos_inf": (False,),
        "confidence_eos_eot_inf": (False,),
    }
    for length in gen_lengths(section):
        blocks = protocol.block_length or length
        fixed["block_length"] = (blocks, 0)
        fixed["steps"] = (length // protocol.steps_divisor, 0)
        for key, allowed in fixed.items():
            value = getattr(section, key)
            if value not in allowed:
                yield (
                    f"evaluate.{key}: the protocol {section.protocol} has {allowed[0]} for a "
                    f"canvas of {length} tokens, got {value}; leave it out, or use the protocol own"
                )
