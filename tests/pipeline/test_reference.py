"""The reference pass over a shard: batching changes the speed, not the entropies."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ReferenceSection, RunConfig
from pipeline.errors import CheckpointError
from pipeline.reference.compute import EntropyJob, _check_rejected
from pipeline.reference.entropies import ENTROPY_SCHEMA, length_batches, shard_entropies
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


@given(
    lengths=st.lists(st.integers(1, 30), max_size=40),
    batch_tokens=st.integers(1, 100),
    packing=st.booleans(),
)
def test_length_batches_have_every_row_once_within_the_budget(
    lengths: list[int], batch_tokens: int, packing: bool
) -> None:
    batches = length_batches(lengths, make_config(batch_tokens=batch_tokens, packing=packing))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[index] for index in batch]
        size = sum(own) if packing else len(own) * max(own)
        assert len(batch) == 1 or size <= batch_tokens
    longest_first = [lengths[index] for batch in batches for index in batch]
    assert longest_first == sorted(lengths, reverse=True)


def test_packed_batches_give_the_same_entropies(denoiser: torch.nn.Module, shard: pa.Table) -> None:
    padded = shard_entropies(denoiser, shard, make_config())
    packed = shard_entropies(denoiser, shard, make_config(packing=True, batch_tokens=50))
    for column in ("entropy", "tail_entropy"):
        wanted = padded.column(column).to_pylist()
        for found, values in zip(packed.column(column).to_pylist(), wanted, strict=True):
            assert found == pytest.approx(values, abs=1e-5)


def test_bfloat16_entropies_are_near_those_of_float32(
    tiny_checkpoint: Path, denoiser: torch.nn.Module, shard: pa.Table
) -> None:
    """Logits near 0 in steps of 2^-8 relative: entropies near log V move by far less than 0.05."""
    half = load_denoiser(str(tiny_checkpoint), dtype=torch.bfloat16)
    found = shard_entropies(half, shard, make_config())
    wanted = shard_entropies(denoiser, shard, make_config())
    assert found.schema == ENTROPY_SCHEMA
    for a, b in zip(found["entropy"].to_pylist(), wanted["entropy"].to_pylist(), strict=True):
        assert a == pytest.approx(b, abs=0.05)


def test_rows_without_finite_entropies_are_null_and_the_others_as_before(
    tiny_checkpoint: Path, denoiser: torch.nn.Module, shard: pa.Table
) -> None:
    """One token's embedding is broken: the row that has it, and no other, is lost."""
    token = 11
    prompts = shard.column("prompt_ids").to_pylist()
    prompts[2][0] = token
    assert sum(token in ids for ids in prompts) == 1
    table = shard.set_column(
        shard.schema.get_field_index("prompt_ids"), "prompt_ids", pa.array(prompts)
    )
    broken = load_denoiser(str(tiny_checkpoint))
    with torch.no_grad():
        next(broken.parameters())[token] = math.nan
    assert torch.isnan(next(broken.parameters())).any(dim=1).sum() == 1
    # The head is tied to nothing here, or every logit would be lost with it.
    config = make_config(batch_tokens=1)
    found = shard_entropies(broken, table, config)
    wanted = shard_entropies(denoiser, table, config)
    for column in ("entropy", "tail_entropy"):
        values = found.column(column).to_pylist()
        assert values[2] is None
        assert values[:2] + values[3:] == [
            v for n, v in enumerate(wanted.column(column).to_pylist()) if n != 2
        ]


def test_more_rejected_rows_than_allowed_are_an_error() -> None:
    job = EntropyJob(make_config(max_rejected=3), "some/checkpoint", "folder")
    _check_rejected(job, 3)
    with pytest.raises(CheckpointError, match=r"some/checkpoint: .* for 4 examples, more than"):
        _check_rejected(job, 4)
