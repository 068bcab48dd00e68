"""What a reference model expects of traces: ``python scripts/eos_at_full_mask.py [CHECKPOINT]``.

For each task and canvas, along the trace from its beginning to its end in thirds: the probability
of EOS, the entropy and the relative rate of a token with the whole response masked. A model that is
certain of EOS where a trace goes on gives that part the lowest rates.
"""

import sys
from typing import Any

import numpy as np
import torch

from pipeline.models import open_denoiser
from pipeline.tables import text_table
from pipeline.tokenization import Refused, encode
from pipeline.tokenizers import open_tokenizer_at
from weft.method_config import MethodConfig
from weft.models.base import Denoiser
from weft.rates import relative_rates
from weft.tasks import get_puzzle

NUM_TRACES = 40
NUM_PARTS = 3
TAILS = (0, 24, 48)
COLUMNS = ("task", "tail", "probability of EOS", "entropy (nats)", "relative rate")


@torch.no_grad()
def measure(denoiser: Denoiser, tokenizer: Any, task_name: str, tail: int) -> tuple[str, ...]:
    """One row: means over traces, part by part."""
    task = get_puzzle(task_name)
    parts: list[list[list[float]]] = []
    for index in range(NUM_TRACES):
        problem = task.generate(7, index)
        prompt, response = task.prompt(problem, "compact").text, task.response(problem)
        found = encode(tokenizer, prompt, response, max_length=10_000, too_long="reject")
        if isinstance(found, Refused):
            raise SystemExit(f"trace {index} of {task_name}: {found.detail}")
        num_prompt, num_response = len(found.prompt_ids), len(found.response_ids)
        ids = found.prompt_ids + [denoiser.mask_token_id] * (num_response + tail)
        hidden = denoiser.hidden_states(torch.tensor([ids]), None)
        logits = denoiser.project(hidden)[0, num_prompt : num_prompt + num_response].float()
        probability = logits.softmax(-1)
        entropy = torch.special.entr(probability).sum(-1)
        everywhere = torch.ones_like(entropy, dtype=torch.bool)[None]
        rates = relative_rates(entropy[None], everywhere, ~everywhere, MethodConfig()).relative[0]
        values = (probability[:, tokenizer.eos_token_id], entropy, rates)
        parts.append(
            [[float(p.mean()) for p in np.array_split(v.numpy(), NUM_PARTS)] for v in values]
        )
    means = np.mean(parts, axis=0)
    return (task_name, str(tail), *(" ".join(f"{x:.2f}" for x in row) for row in means))


def main(path: str) -> None:
    """Print the table."""
    denoiser, tokenizer = open_denoiser(path), open_tokenizer_at(path)
    rows = [
        measure(denoiser, tokenizer, task, tail)
        for task in ("sudoku", "countdown")
        for tail in TAILS
    ]
    print(text_table(COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny")
