"""What turns prompts into text: our decoder over a denoiser, or vLLM."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipeline.config import EvaluateSection
from pipeline.models import open_denoiser
from pipeline.protocols import Decoding
from pipeline.tokenization import prompt_ids
from pipeline.tokenizers import any_tokenizer_at, open_tokenizer_at

_END_OF_TURN = "<|eot_id|>"


@dataclass(frozen=True)
class Answer:
    """One decoded prompt."""

    index: int
    """Number of the prompt."""
    text: str
    """With special tokens, without the prefill."""
    gradable: str
    """The same with the end that the graders know, whatever this tokenizer calls it."""
    tokens: list[int]
    unmask_step: list[int]
    """The step that committed each token, -1 where none did."""
    num_tokens: int
    """Up to the first EOS, that included."""
    nfe: int
    whole_passes: int
    seconds: float
    latency: float


class Decoder(Protocol):
    """Holds a model."""

    def decode(
        self, prompts: Sequence[Any], item_ids: Sequence[str], decoding: Decoding
    ) -> Iterator[Answer]:
        """The answer to each prompt, as it is there."""


def open_decoder(checkpoint: str, section: EvaluateSection, max_length: int = 0) -> Decoder:
    """The decoder of ``section`` over the model at ``checkpoint``, on the GPU if it has one.

    ``max_length``: tokens of the longest prompt and answer that it will be given.
    """
    if section.engine == "vllm":
        return VllmDecoder(checkpoint, section, max_length)
    return DenoiserDecoder(checkpoint, section)


class DenoiserDecoder:
    """Our decoder; see ``weft.sampling``."""

    def __init__(self, checkpoint: str, section: EvaluateSection) -> None:
        """Load the denoiser, with its adapter if it is one."""
        import torch

        if section.num_gpus == 0:
            torch.set_num_threads(max(1, int(section.num_cpus)))
        device = "cuda" if section.num_gpus > 0 else "cpu"
        self.section = section
        self.denoiser: Any = open_denoiser(
            checkpoint, device=device, dtype=getattr(torch, section.precision)
        )
        self.tokenizer = open_tokenizer_at(checkpoint)

    def decode(
        self, prompts: Sequence[Any], item_ids: Sequence[str], decoding: Decoding
    ) -> Iterator[Answer]:
        """See ``Decoder``; what is drawn depends on the item, not on its place."""
        from weft.sampling import Request, decode

        ids = [prompt_ids(self.tokenizer, p.text, p.prefill) for p in prompts]
        generators = [item_generator(self.section.seed, item_id) for item_id in item_ids]
        settings = replace(decoding.settings, eot_token_id=self._end_of_turn())
        requests = [Request(*pair) for pair in zip(ids, generators, strict=True)]
        size = self.section.batch_size
        for found in decode(self.denoiser, requests, settings, batch_size=size):
            tokens = found.tokens.tolist()
            text = self.tokenizer.decode(tokens, skip_special_tokens=False)
            yield Answer(
                index=found.index,
                text=text,
                gradable=_with_known_end(text, self.tokenizer.eos_token),
                tokens=tokens,
                unmask_step=found.unmask_step.tolist(),
                num_tokens=_up_to(tokens, self.denoiser.eos_token_id),
                nfe=found.nfe,
                whole_passes=found.whole_passes,
                seconds=found.seconds,
                latency=found.latency,
            )

    def _end_of_turn(self) -> int:
        return int(self.tokenizer.get_vocab().get(_END_OF_TURN, -1))


def _up_to(tokens: Sequence[int], eos_token_id: int) -> int:
    return tokens.index(eos_token_id) + 1 if eos_token_id in tokens else len(tokens)


def _with_known_end(text: str, eos_token: str | None) -> str:
    from weft.tasks.grading.extraction import END_TOKENS

    if not eos_token or eos_token in END_TOKENS:
        return text
    return text.replace(eos_token, END_TOKENS[-1])


def item_generator(seed: int, item_id: str) -> Any:
    """The item's own source of randomness, the same in any batch and on any worker."""
    import torch

    return torch.Generator().manual_seed(item_seed(seed, item_id))


def item_seed(seed: int, item_id: str) -> int:
    """The item's own seed, in [0, 2**63)."""
    digest = hashlib.blake2b(f"{seed}:{item_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class VllmDecoder:
    """vLLM's offline engine, for autoregressive models and the diffusion models that it serves."""

    def __init__(self, checkpoint: str, section: EvaluateSection, max_length: int) -> None:
        """Start the engine, for prompts and answers of at most ``max_length`` tokens together."""
        from pipeline.vllm_engine import engine_environment, open_engine

        for name, value in engine_environment(section.num_gpus).items():
            os.environ.setdefault(name, value)
        self.section = section
        self.tokenizer = any_tokenizer_at(checkpoint)
        self.engine = open_engine(
            checkpoint,
            num_gpus=section.num_gpus,
            max_logprobs=0,
            precision=section.precision,
            max_model_len=max_length,
            max_num_seqs=section.batch_size,
        )

    def decode(
        self, prompts: Sequence[Any], item_ids: Sequence[str], decoding: Decoding
    ) -> Iterator[Answer]:
        """See ``Decoder``; a canvas becomes the most tokens that are generated."""
        from vllm import SamplingParams

        ids = [prompt_ids(self.tokenizer, p.text, p.prefill) for p in prompts]
        length = decoding.settings.gen_length
        parameters = [
            SamplingParams(
                temperature=decoding.settings.temperature,
                max_tokens=length,
                seed=item_seed(self.section.seed, item_id) % 2**31,
                skip_special_tokens=False,
            )
            for item_id in item_ids
        ]
        started = time.monotonic()
        outputs = self.engine.generate(
            [{"prompt_token_ids": i} for i in ids], parameters, use_tqdm=False
        )
        seconds = (time.monotonic() - started) / len(outputs)
        for index, output in enumerate(outputs):
            found = output.outputs[0]
            tokens = list(found.token_ids)
            yield Answer(
                index=index,
                text=str(found.text),
                gradable=_with_known_end(str(found.text), self.tokenizer.eos_token),
                tokens=tokens,
                unmask_step=list(range(len(tokens))),
                num_tokens=len(tokens),
                nfe=len(tokens),
                whole_passes=1,
                seconds=seconds,
                latency=seconds * len(outputs),
            )
