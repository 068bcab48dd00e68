"""Traces and autoregressive entropies from a real model, SmolLM2-135M-Instruct, by vLLM."""

import dataclasses
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import artifacts, prepare, reference, storage, traces
from pipeline.config import (
    DataSection,
    ModelSection,
    ReferenceSection,
    RunConfig,
    RunSection,
    SourceSection,
    TracesSection,
)
from pipeline.layout import layout
from pipeline.traces.stage import SAMPLES
from weft.models import random_denoiser, save_denoiser
from weft.tasks.math_answers import is_same_answer

pytestmark = pytest.mark.vllm

_ROUNDING = 1e-3
"""Nats; float32 log-probabilities of vLLM and transformers differ by 1e-4."""


@pytest.fixture(scope="session")
def denoiser(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small denoiser with random weights and the tokenizer of SmolLM2, to which a mask is new."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("denoiser")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    tokenizer.save_pretrained(folder)
    config = {
        "model_type": "a2d-llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    save_denoiser(random_denoiser(str(folder), generator=generator), folder)
    return folder


@pytest.fixture(scope="session")
def config(
    smollm2: Path,
    denoiser: Path,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunConfig:
    """Questions of GSM8K's training set, and sums that even this model knows."""
    root = tmp_path_factory.mktemp("run")
    with gzip.open(shared_data / "benchmarks" / "gsm8k_train.jsonl.gz", "rt") as file:
        rows = [json.loads(next(file)) for _ in range(16)]
    rows = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    rows += [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(2, 10)]
    questions = root / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceSection(
        kind="files",
        path=str(questions),
        prompt_column="question",
        response_column="",
        solution_column="answer",
    )
    made = SourceSection(
        kind="files",
        name="smollm2",
        path=f"{root}/traces/sums/part-*.parquet",
        prompt_column="question",
        reasoning_column="reasoning",
        response_column="answer",
    )
    return RunConfig(
        run=RunSection(output_dir=str(root)),
        traces=TracesSection(
            name="sums",
            model=str(smollm2),
            sources=(source,),
            num_samples=4,
            max_tokens=160,
            max_model_len=512,
            precision="float32",
            num_shards=3,
            keep=2,
            batch_size=32,
        ),
        data=DataSection(sources=(made,), max_length=512, num_shards=2, max_overlap=1.0),
        model=ModelSection(path=str(denoiser)),
        reference=ReferenceSection(
            estimator="autoregressive", checkpoint=str(smollm2), top_logprobs=20, num_cpus=2
        ),
    )


@pytest.fixture(scope="session")
def traced(config: RunConfig) -> Path:
    traces.run(config)
    return Path(layout(config).traces("sums"))


def rows_of(folder: Path) -> list[dict]:
    return [
        r for f in sorted(folder.glob("part-*")) for r in storage.read_table(str(f)).to_pylist()
    ]


def test_traces_are_verified_samples_of_the_model(traced: Path, config: RunConfig) -> None:
    manifest = artifacts.require(str(traced), "traces", hint="")
    artifacts.verify_files(str(traced), manifest)
    samples, kept = rows_of(traced / SAMPLES), rows_of(traced)
    assert len(samples) == manifest.facts["num_samples"] == 24 * 4
    assert len({(row["question_id"], row["sample"]) for row in samples}) == len(samples)
    for row in samples:
        if row["is_finished"]:
            assert row["is_correct"] == is_same_answer(row["answer"], row["solution"])
    assert 0 < len(kept) == manifest.num_rows
    assert all(is_same_answer(row["answer"], row["solution"]) for row in kept)
    per_question: dict[str, int] = {}
    for row in kept:
        per_question[row["question_id"]] = per_question.get(row["question_id"], 0) + 1
    assert max(per_question.values()) <= config.traces.keep
    assert sum(manifest.rejected.values()) == len(samples) - len(kept)
    print(f"\n{manifest.facts} rejected {manifest.rejected}")


def test_a_lost_shard_is_generated_again_to_the_same_bytes(
    traced: Path, config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in sorted(traced.rglob("part-*"))}
    times = {path: path.stat().st_mtime_ns for path in before}
    (traced / "manifest.json").unlink()
    lost = [traced / "part-00001.parquet", traced / SAMPLES / "part-00001.parquet"]
    lost[0].unlink()
    traces.run(config)
    assert {path: path.read_bytes() for path in sorted(traced.rglob("part-*"))} == before
    again = {path for path in before if path.stat().st_mtime_ns != times[path]}
    assert again == {*lost}
    traces.run(config)
    assert "already finished" in capsys.readouterr().out


@pytest.fixture(scope="session")
def prepared(traced: Path, config: RunConfig) -> str:
    """What the traces become; here all that was answered, to have enough tokens to compare."""
    prepare.run(config)
    return layout(config).prepared


def test_traces_are_a_source_of_prepare(traced: Path, prepared: str) -> None:
    manifest = artifacts.require(prepared, "prepare", hint="")
    assert manifest.num_rows + manifest.rejected.get("duplicate", 0) == len(rows_of(traced))
    (row, *_) = rows_of(Path(prepared))
    assert row["source"] == "smollm2"


def exact_entropies(model: torch.nn.Module, row: dict) -> np.ndarray:
    """Of each response token, from all logits of transformers, float64."""
    ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
    with torch.inference_mode():
        logits = model(ids).logits[0].double()
    log_probs = logits.log_softmax(dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    first = len(row["prompt_ids"])
    return entropy[first - 1 : -1].numpy()


def test_bounds_hold_the_exact_entropies_of_transformers(
    prepared: str, config: RunConfig, smollm2: Path
) -> None:
    from transformers import AutoModelForCausalLM

    reference.run(config)
    folder = Path(layout(config).entropies)
    manifest = artifacts.require(str(folder), "reference", hint="")
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    found = {row["example_id"]: row for row in rows_of(folder)}
    widths, errors = [], []
    for row in rows_of(Path(prepared)):
        exact, bounds = exact_entropies(model, row), found[row["example_id"]]
        low, high = (np.array(bounds[f"entropy_{side}"]) for side in ("low", "high"))
        assert len(low) == len(row["response_ids"]) == len(bounds["entropy"])
        assert (low <= exact + _ROUNDING).all()
        assert (exact <= high + _ROUNDING).all()
        assert np.allclose(bounds["entropy"], (low + high) / 2, atol=1e-5)
        assert bounds["tail_entropy"] == []
        widths.append(high - low)
        errors.append(np.abs(np.array(bounds["entropy"]) - exact))
    assert 0 < manifest.facts["mean_entropy_low"] < manifest.facts["mean_entropy_high"]
    assert manifest.facts["mean_entropy_high"] < math.log(49152)
    width, error = np.concatenate(widths), np.concatenate(errors)
    print(
        f"\n{len(width)} tokens: bounds {width.mean():.4f} nats apart on average, at most "
        f"{width.max():.3f}; their middle is off by {error.mean():.4f} on average, at most "
        f"{error.max():.3f}"
    )


def test_more_log_probabilities_give_narrower_bounds(
    prepared: str, config: RunConfig, tmp_path: Path
) -> None:
    """Five of them instead of twenty, over the same data, in a run of its own."""
    own = tmp_path / "run"
    own.mkdir()
    (own / "prepared").symlink_to(prepared)
    section = dataclasses.replace(config.reference, top_logprobs=5)
    fewer = dataclasses.replace(config, run=RunSection(output_dir=str(own)), reference=section)
    reference.run(fewer)
    facts = [
        artifacts.require(layout(c).entropies, "reference", hint="").facts for c in (config, fewer)
    ]
    widths = [fact["mean_entropy_high"] - fact["mean_entropy_low"] for fact in facts]
    assert 0 < widths[0] < widths[1]
