"""What vLLM tells of a prompt, read without it; the engine itself is in tests/vllm."""

import dataclasses
import itertools
import math
import sys
import types
from dataclasses import dataclass

import pyarrow as pa
import pytest
import torch

from pipeline.config import ReferenceSection, RunConfig
from pipeline.config_checks import check_config
from pipeline.errors import ConfigError
from pipeline.reference.autoregressive import (
    BOUNDED_SCHEMA,
    autoregressive_entropies,
    read_known,
)

VOCABULARY, TOP = 30, 5


@dataclass
class Value:
    logprob: float
    rank: int


def told(log_probs: torch.Tensor, true: int) -> dict[int, Value]:
    """As vLLM: the true token first, then the most likely ones, each with its rank."""
    order = log_probs.argsort(descending=True).tolist()
    ranks = {token: rank for rank, token in enumerate(order, 1)}
    chosen = dict.fromkeys([true, *order[:TOP]])
    return {token: Value(float(log_probs[token]), ranks[token]) for token in chosen}


class Engine:
    """Next-token distributions that depend on the token before, exactly known."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = 2 * torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64)
        self.log_probs = logits.log_softmax(dim=-1)
        size = types.SimpleNamespace(get_vocab_size=lambda: VOCABULARY)
        self.llm_engine = types.SimpleNamespace(model_config=size)

    def generate(self, prompts, parameters, use_tqdm):
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            positions = [None]
            for before, token in itertools.pairwise(ids):
                positions.append(told(self.log_probs[before], token))
            yield types.SimpleNamespace(prompt_logprobs=positions)

    def entropy(self, before: int) -> float:
        row = self.log_probs[before]
        return float(-(row.exp() * row).sum())


@pytest.fixture
def config(monkeypatch) -> RunConfig:
    vllm = types.ModuleType("vllm")
    vllm.SamplingParams = lambda **values: values
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    section = ReferenceSection(estimator="autoregressive", checkpoint="m", top_logprobs=TOP)
    return RunConfig(reference=section)


def table(*rows: tuple[list[int], list[int]]) -> pa.Table:
    values = [
        {"example_id": str(n), "prompt_ids": prompt, "response_ids": response}
        for n, (prompt, response) in enumerate(rows)
    ]
    return pa.Table.from_pylist(values)


def test_each_response_token_has_the_entropy_of_what_is_before_it(config: RunConfig) -> None:
    engine = Engine()
    found = autoregressive_entropies(engine, table(([3, 4], [5, 6, 7]), ([8], [9])), config, set())
    assert found.schema == BOUNDED_SCHEMA
    for row, before in zip(found.to_pylist(), ([4, 5, 6], [8]), strict=True):
        exact = [engine.entropy(token) for token in before]
        assert len(row["entropy"]) == len(exact)
        for low, value, high, wanted in zip(
            row["entropy_low"], row["entropy"], row["entropy_high"], exact, strict=True
        ):
            assert low - 1e-6 <= wanted <= high + 1e-6
            assert value == pytest.approx((low + high) / 2, abs=1e-6)
            assert 0 < high - low < math.log(VOCABULARY)
        assert row["tail_entropy"] == []


def test_rows_that_mean_nothing_to_the_model_have_no_entropies(config: RunConfig) -> None:
    rows = table(([3], [5, 6]), ([], [5, 6]), ([3], [5, 29]), ([29], [5]), ([4], [5]))
    found = autoregressive_entropies(Engine(), rows, config, {29})
    assert [value is None for value in found["entropy"].to_pylist()] == [
        False,  # whole
        True,  # the first token has no context
        True,  # a token that the model does not know
        True,
        False,
    ]


def test_the_true_token_beyond_the_first_ranks_is_known_but_bounds_no_other() -> None:
    position = {7: Value(-9.0, 400), 1: Value(-0.5, 1), 2: Value(-2.0, 2)}
    known = read_known([position, {1: Value(-0.5, 1), 2: Value(-2.0, 2)}], 2)
    assert known.num_known.tolist() == [3, 2]
    assert known.smallest.tolist() == [-2.0, -2.0]
    assert sorted(known.log_probs[0].tolist()) == [-9.0, -2.0, -0.5]
    assert known.log_probs[1].tolist()[-1] == -math.inf


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("reference", {"checkpoint": ""}, "wanted an autoregressive model"),
        ("rates", {"tail": "entropy"}, "autoregressive entropies have no tail"),
        ("rates", {"entropies": "refreshed"}, "refreshed ones are the denoiser's own"),
    ],
)
def test_what_does_not_go_together_is_refused(
    config: RunConfig, section: str, changes: dict, message: str
) -> None:
    check_config(config)
    changed = dataclasses.replace(getattr(config, section), **changes)
    with pytest.raises(ConfigError, match=message):
        check_config(dataclasses.replace(config, **{section: changed}))
