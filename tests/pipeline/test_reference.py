"""The reference pass over a shard: batching changes the speed, not the entropies."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config import ReferenceSection, RunConfig
from pipeline.errors import CheckpointError
from pipeline.reference import ENTROPY_SCHEMA, length_batches, shard_entropies
from weft.models import load_denoiser

EOS = 0
LENGTHS = [(3, 5), (0, 2), (7, 12), (1, 1), (4, 5), (2, 9), (6, 3)]


def make_config(**reference: object) -> RunConfig:
    settings = {"tail": 3, "batch_tokens": 64} | reference
    return dataclasses.replace(
        RunConfig(),
        reference=dataclasses.replace(ReferenceSection(), **settings),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def denoiser(tiny_checkpoint: Path) -> torch.nn.Module:
    return load_denoiser(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def shard() -> pa.Table:
    rng = np.random.default_rng(0)
    rows = [
        {
            "example_id": f"example-{index}",
            "prompt_ids": rng.integers(10, 300, size=prompt).tolist(),
            "response_ids": [*rng.integers(10, 300, size=response - 1).tolist(), EOS],
        }
        for index, (prompt, response) in enumerate(LENGTHS)
    ]
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("estimator", ["full_mask", "nll", "expected"])
def test_batches_give_what_each_example_gives_alone(
    denoiser: torch.nn.Module, shard: pa.Table, estimator: str
) -> None:
    together = shard_entropies(denoiser, shard, make_config(estimator=estimator))
    assert together.schema == ENTROPY_SCHEMA
    assert together.column("example_id") == shard.column("example_id")
    for index, (_, response) in enumerate(LENGTHS):
        alone = shard_entropies(
            denoiser, shard[index : index + 1], make_config(estimator=estimator)
        )
        for column, length in (("entropy", response), ("tail_entropy", 3)):
            found, wanted = (
                t.column(column)[i].as_py() for t, i in ((together, index), (alone, 0))
            )
            assert len(found) == length
            assert found == pytest.approx(wanted, abs=1e-5)


def test_entropies_are_those_of_the_fully_masked_response(
    denoiser: torch.nn.Module, shard: pa.Table
) -> None:
    """Worked out from the logits, with no code of the reference stage."""
    found = shard_entropies(denoiser, shard, make_config())
    for index, (prompt, response) in enumerate(LENGTHS):
        masked = [denoiser.mask_token_id] * (response + 3)
        ids = torch.tensor([[*shard.column("prompt_ids")[index].as_py(), *masked]])
        with torch.inference_mode():
            logits = denoiser.eval()(ids)[0, prompt:].double()
        probabilities = logits.softmax(dim=-1)
        wanted = -(probabilities * probabilities.log()).sum(dim=-1)
        values = [found.column(name)[index].as_py() for name in ("entropy", "tail_entropy")]
        assert values[0] + values[1] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert all(0 < value <= math.log(logits.shape[-1]) for value in values[0])


def test_length_batches_have_every_row_once_within_the_budget(shard: pa.Table) -> None:
    rows = shard.to_pylist()
    section = make_config(batch_tokens=40).reference
    batches = length_batches(rows, section)
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    lengths = [sum(pair) + section.tail for pair in LENGTHS]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 40
    longest_first = [lengths[index] for batch in batches for index in batch]
    assert longest_first == sorted(lengths, reverse=True)


def test_a_row_over_the_budget_is_a_batch_of_its_own(shard: pa.Table) -> None:
    batches = length_batches(shard.to_pylist(), make_config(batch_tokens=1).reference)
    assert sorted(batches) == [[index] for index in range(len(LENGTHS))]


def test_a_broken_reference_model_is_refused(tiny_checkpoint: Path, shard: pa.Table) -> None:
    broken = load_denoiser(str(tiny_checkpoint))
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(CheckpointError, match="example-0: wanted finite entropies"):
        shard_entropies(broken, shard, make_config())
