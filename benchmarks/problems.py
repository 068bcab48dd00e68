"""Denoisers and examples that the benchmarks measure with."""

import dataclasses
import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.train.data import TrainingData
from weft.batch import Example
from weft.models import Denoiser
from weft.models.blocks import BlockDenoiser
from weft.models.llada import llada_architecture
from weft.models.llada_config import LladaConfig

EOS, MASK = 0, 1
CHARACTERS_PER_TOKEN = 3
"""Of English and formulas in the tokenizers of LLaDA and Dream, about."""


Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a LLaDA with random weights."""

    width: int
    num_layers: int
    num_heads: int
    vocab_size: int
    device: Device = "cpu"
    """On a GPU the network is in bfloat16."""


def random_llada(sizes: Sizes, *, max_length: int) -> Denoiser:
    """A LLaDA of these sizes with random weights, in training mode."""
    config = {
        "model_type": "llada",
        "d_model": sizes.width,
        "n_layers": sizes.num_layers,
        "n_heads": sizes.num_heads,
        "mlp_hidden_size": 3 * sizes.width,
        "vocab_size": sizes.vocab_size,
        "max_sequence_length": max_length,
        "rope_theta": 10000.0,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }
    with torch.device(sizes.device):
        denoiser = llada_architecture(LladaConfig.from_json(config, "benchmark")).build()
    denoiser.initialize(torch.Generator(sizes.device).manual_seed(0))
    denoiser.cast(torch.bfloat16 if sizes.device == "cuda" else torch.float32)
    return denoiser.train()


def fill_randomly(denoiser: Denoiser, device: torch.device, *, offloaded: bool = False) -> None:
    """Give a denoiser of the meta device random weights on ``device``, or ``offloaded`` ones."""
    denoiser.to_empty(device="cpu" if offloaded else device)
    if isinstance(denoiser, BlockDenoiser):
        denoiser.tie()
        denoiser.compute_buffers(device)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(std=0.02) if parameter.ndim > 1 else parameter.fill_(1.0)


def shared_data() -> Path:
    """The folder of real data: ``$WEFT_SHARED_DATA``, or ``../shared/data``."""
    return Path(os.environ.get("WEFT_SHARED_DATA", "../shared/data"))


def trace_lengths(limit: int) -> list[tuple[int, int]]:
    """Tokens of question and response of the real traces, estimated, together at most ``limit``."""
    lengths = []
    for path in sorted((shared_data() / "traces").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                question = -(-len(row["question"]) // CHARACTERS_PER_TOKEN)
                text = row["reasoning"] + row["answer"]
                response = -(-len(text) // CHARACTERS_PER_TOKEN)
                question = min(question, limit - 1)
                lengths.append((question, max(1, min(response, limit - question))))
    if not lengths:
        raise SystemExit(f"{shared_data()}/traces: no traces; set WEFT_SHARED_DATA to the data")
    return lengths


def random_examples(
    lengths: list[tuple[int, int]], *, vocab_size: int, seed: int = 0
) -> list[Example]:
    """Examples of these lengths with random tokens and entropies."""
    rng = np.random.default_rng(seed)
    return [
        Example(
            example_id=f"example-{number}",
            prompt_ids=rng.integers(2, vocab_size, size=question).tolist(),
            response_ids=[*rng.integers(2, vocab_size, size=response - 1).tolist(), EOS],
            entropy=rng.gamma(0.5, 2.0, size=response).tolist(),
            tail_entropy=[0.1],
        )
        for number, (question, response) in enumerate(lengths)
    ]


def random_training_data(lengths: list[tuple[int, int]], *, vocab_size: int) -> TrainingData:
    """Examples of these lengths as training reads them."""
    rows = [dataclasses.asdict(e) for e in random_examples(lengths, vocab_size=vocab_size)]
    ids = [row["example_id"] for row in rows]
    return TrainingData(rows, ids, np.array([sum(pair) for pair in lengths]), has_entropies=True)
