"""Evaluation through vLLM: the same prompts, graders and rows as a denoiser's."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline import evaluate
from pipeline.config import EvaluateSection, ModelSection, RunConfig, RunSection
from pipeline.evaluate.items import load_items
from pipeline.evaluate.rows import read_rows
from pipeline.layout import layout
from pipeline.tokenization import prompt_ids
from pipeline.tokenizers import any_tokenizer_at
from weft.tasks import get_task

pytestmark = pytest.mark.vllm

_NUM_ITEMS, _LENGTH = 6, 48


@pytest.fixture(scope="module")
def evaluated(
    smollm2: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunConfig:
    config = RunConfig(
        run=RunSection(output_dir=str(tmp_path_factory.mktemp("run"))),
        model=ModelSection(path=str(smollm2)),
        evaluate=EvaluateSection(
            engine="vllm",
            tasks=("gsm8k", "countdown"),
            data_dir=str(shared_data / "benchmarks"),
            benchmark_items=_NUM_ITEMS,
            gen_lengths=(_LENGTH,),
            block_length=_LENGTH,
        ),
    )
    evaluate.run(config)
    return config


def test_rows_are_those_of_any_engine(evaluated: RunConfig) -> None:
    rows = read_rows(layout(evaluated).evaluation("base-benchmarks"))
    assert [row["task"] for row in rows] == ["countdown"] * _NUM_ITEMS + ["gsm8k"] * _NUM_ITEMS
    for name in ("countdown", "gsm8k"):
        items = load_items(evaluated.evaluate, name)
        mine = [row for row in rows if row["task"] == name]
        for item, row in zip(items, mine, strict=True):
            verdict = get_task(name).grade(item, row["generation"])
            assert (row["correct"], row["d1_correct"]) == (verdict.correct, verdict.d1_correct)
            assert row["engine"] == "vllm"
            assert 0 < row["num_tokens"] == row["nfe"] == len(row["tokens"]) <= _LENGTH


def test_greedy_tokens_are_those_of_transformers(evaluated: RunConfig, smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM

    rows = read_rows(layout(evaluated).evaluation("base-benchmarks"))
    row = next(row for row in rows if row["task"] == "gsm8k")
    item = load_items(evaluated.evaluate, "gsm8k")[0]
    prompt = get_task("gsm8k").prompt(item, "compact")
    ids = prompt_ids(any_tokenizer_at(str(smollm2)), prompt.text, prompt.prefill)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    found = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)
    assert row["tokens"][:16] == found[0, len(ids) :].tolist()


def test_it_is_finished_and_says_so(
    evaluated: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.run(evaluated)
    assert "already finished" in capsys.readouterr().out
    other = dataclasses.replace(evaluated.evaluate, precision="bfloat16")
    text = evaluate.describe(dataclasses.replace(evaluated, evaluate=other))
    assert f"at most {_LENGTH} tokens an item by vLLM" in text
