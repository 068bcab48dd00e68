"""Denoisers and examples that the benchmarks measure with."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import torch

from weft.batch import Example
from weft.models import Denoiser
from weft.models.llada import llada_architecture
from weft.models.llada_config import LladaConfig

EOS, MASK = 0, 1
CHARACTERS_PER_TOKEN = 3
"""Of English and formulas in the tokenizers of LLaDA and Dream, about."""


def random_llada(
    *, width: int, num_layers: int, num_heads: int, vocab_size: int, max_length: int
) -> Denoiser:
    """A LLaDA of this size with random weights, in training mode."""
    config = {
        "model_type": "llada",
        "d_model": width,
        "n_layers": num_layers,
        "n_heads": num_heads,
        "mlp_hidden_size": 3 * width,
        "vocab_size": vocab_size,
        "max_sequence_length": max_length,
        "rope_theta": 10000.0,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }
    denoiser = llada_architecture(LladaConfig.from_json(config, "benchmark")).build()
    denoiser.initialize(torch.Generator().manual_seed(0))
    return denoiser.train()


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
