"""Next-token entropies of an autoregressive reference model, by vLLM's log-probabilities.

vLLM gives the most likely tokens and the true one. What the others add is bounded from both sides
(``weft.entropy.entropy_bounds``); the entropy of a token is the middle of its bounds, and both are
stored beside it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.config import RunConfig
from pipeline.reference.entropies import ENTROPY_SCHEMA, list_array
from weft.entropy import entropy_bounds

BOUNDED_SCHEMA = pa.schema(
    [
        *ENTROPY_SCHEMA,
        ("entropy_low", pa.list_(pa.float32())),
        ("entropy_high", pa.list_(pa.float32())),
    ]
)

_MAX_NUM_SEQS = 64


@dataclass(frozen=True)
class Known:
    """What is known of the distributions of N tokens."""

    log_probs: np.ndarray
    """[N, K] float64, minus infinity behind the known ones."""
    smallest: np.ndarray
    """[N] float64: no other token is likelier."""
    num_known: np.ndarray
    """[N] int64."""


def open_reference_engine(config: RunConfig, path: str, longest: int) -> Any:
    """The engine of the model at ``path`` for texts of at most ``longest`` tokens."""
    from pipeline.vllm_engine import open_engine

    section = config.reference
    return open_engine(
        path,
        num_gpus=section.num_gpus,
        max_logprobs=section.top_logprobs,
        precision=section.precision,
        max_model_len=longest + 1,
        max_num_seqs=_MAX_NUM_SEQS,
    )


def autoregressive_entropies(
    engine: Any, table: pa.Table, config: RunConfig, unknown: set[int]
) -> pa.Table:
    """Entropies (nats, float32) of every response token of ``table``, with their bounds.

    The first token of a text without prompt has no context, and tokens ``unknown`` to this model
    say nothing to it: such rows have null. There are no tail entropies; what follows an end means
    nothing to it either.
    """
    from vllm import SamplingParams

    top = config.reference.top_logprobs
    prompts, responses = (table.column(n).to_pylist() for n in ("prompt_ids", "response_ids"))
    asked = [
        k
        for k, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        if prompt and unknown.isdisjoint(prompt) and unknown.isdisjoint(response)
    ]
    outputs = engine.generate(
        [{"prompt_token_ids": prompts[k] + responses[k]} for k in asked],
        SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=top, detokenize=False),
        use_tqdm=False,
    )
    vocab_size = engine.llm_engine.model_config.get_vocab_size()
    low: list[np.ndarray | None] = [None] * len(table)
    high: list[np.ndarray | None] = [None] * len(table)
    for k, output in zip(asked, outputs, strict=True):
        known = read_known(output.prompt_logprobs[len(prompts[k]) :], top)
        bounds = entropy_bounds(
            torch.from_numpy(known.log_probs),
            torch.from_numpy(known.smallest),
            torch.from_numpy(known.num_known),
            vocab_size,
        )
        if all(bool(bound.isfinite().all()) for bound in bounds):
            low[k], high[k] = (bound.numpy() for bound in bounds)
    middle = [None if a is None else (a + b) / 2 for a, b in zip(low, high, strict=True)]
    tails = [None if a is None else np.empty(0) for a in low]
    ids = table.column("example_id").combine_chunks()
    columns = [ids, *(list_array(values) for values in (middle, tails, low, high))]
    return pa.Table.from_arrays(columns, schema=BOUNDED_SCHEMA)


def read_known(positions: list[Any], top: int) -> Known:
    """The log-probabilities of some positions, as vLLM returns them for a prompt.

    Each is a mapping from token ids to values with ``logprob`` and ``rank``: the ``top`` first
    ranks and, where it is none of these, the true token.
    """
    log_probs = np.full((len(positions), top + 1), -np.inf)
    smallest, num_known = np.empty(len(positions)), np.empty(len(positions), np.int64)
    for row, position in enumerate(positions):
        found = [float(value.logprob) for value in position.values()]
        log_probs[row, : len(found)] = found
        num_known[row] = len(found)
        smallest[row] = min(v.logprob for v in position.values() if v.rank <= top)
    return Known(log_probs, smallest, num_known)
