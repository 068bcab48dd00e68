"""Samples by vLLM through ``ray.data.llm``: all missing shards in one stream, one engine start."""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from pipeline.config import TracesSection
from pipeline.tokenization import prompt_ids
from pipeline.tokenizers import any_tokenizer_at
from pipeline.traces.questions import boxed, is_right, split_generation
from pipeline.vllm_engine import engine_arguments, engine_environment

_BATCHES_AT_ONCE = 2
_KEPT = ("shard", "question_id", "source", "question", "solution", "sample", "seed")


def sample_seed(seed: int, question_id: str, sample: int) -> int:
    """The seed of one sample, in [0, 2**31)."""
    digest = hashlib.sha256(f"{seed}:{question_id}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def question_ids(path: str, turn: str) -> list[int]:
    """Ids of the user's ``turn`` for the model at ``path``, up to where it answers."""
    return prompt_ids(any_tokenizer_at(path), turn)


def end_ids(path: str) -> list[int]:
    """Tokens that end a generation: the tokenizer's, and those of generation_config.json."""
    from weft.models import resolve_checkpoint

    ids = {any_tokenizer_at(path).eos_token_id}
    file = resolve_checkpoint(path, needs_weights=False) / "generation_config.json"
    if file.is_file():
        listed = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id", [])
        ids.update(listed if isinstance(listed, list) else [listed])
    return sorted(i for i in ids if i is not None)


def generate(
    rows: list[dict[str, Any]], section: TracesSection, num_blocks: int
) -> Iterator[dict[str, Any]]:
    """The samples that ``rows`` ask for, in their order, graded.

    A row is a ``Question`` with ``shard``, ``sample`` and ``seed``.
    """
    import ray
    from ray.data import DataContext
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ends = end_ids(section.model)
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=section.model,
            engine_kwargs=engine_arguments(
                precision=section.precision,
                max_model_len=section.max_model_len,
                num_gpus=section.num_gpus,
                max_num_seqs=section.batch_size,
            ),
            runtime_env={"env_vars": _environment(section)},
            accelerator_type=None,
            placement_group_config={"bundles": _bundles(section)},
            concurrency=section.num_actors,
            batch_size=section.batch_size,
            log_engine_metrics=False,
            max_concurrent_batches=_BATCHES_AT_ONCE,
            # Prompts come as tokens, and the engine gives text: nothing is left for these.
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        ),
        preprocess=lambda row: row | _request(section, row),
        postprocess=lambda row: read_sample(row, ends),
    )
    context = DataContext.get_current()
    before = context.execution_options.preserve_order
    context.execution_options.preserve_order = True
    try:
        yield from processor(ray.data.from_items(rows, override_num_blocks=num_blocks)).iter_rows()
    finally:
        context.execution_options.preserve_order = before


def _environment(section: TracesSection) -> dict[str, str]:
    variables = engine_environment(section.num_gpus)
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def _bundles(section: TracesSection) -> list[dict[str, float]]:
    if section.num_gpus == 0:
        return [{"CPU": section.num_cpus}]
    return [{"GPU": 1.0, "CPU": section.num_cpus / section.num_gpus}] * section.num_gpus


def _request(section: TracesSection, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenized_prompt": question_ids(section.model, row["turn"]),
        "sampling_params": {
            "temperature": section.temperature,
            "top_p": section.top_p,
            "max_tokens": section.max_tokens,
            "seed": int(row["seed"]),
        },
    }


def read_sample(row: dict[str, Any], eos_token_ids: list[int]) -> dict[str, Any]:
    """What is kept of a row that the engine has answered, with the verdict on it."""
    tokens = [int(token) for token in row["generated_tokens"]]
    generation = str(row["generated_text"])
    reasoning, answer = split_generation(generation)
    is_finished = bool(tokens) and tokens[-1] in eos_token_ids
    verdict = is_right(row, generation, answer or generation) if is_finished else False
    if not answer and verdict and row["solution"]:
        # It ends with the right value, but not in a box.
        answer = boxed(row["solution"])
    return {name: row[name] for name in _KEPT} | {
        "generation": generation,
        "reasoning": reasoning,
        "answer": answer,
        "num_tokens": len(tokens),
        "is_finished": is_finished,
        "is_correct": verdict,
    }
