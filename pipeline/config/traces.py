"""New traces from an autoregressive model."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.base import RESOURCE, STRICT
from pipeline.config.data import SourceSection


@dataclass(frozen=True, kw_only=True)
class TracesSection:
    """New traces from an autoregressive model by vLLM (stage traces)."""

    __pydantic_config__ = STRICT

    name: str = "traces"
    """Folder under traces/."""
    model: str = ""
    """The autoregressive model: a folder or hub name with safetensors."""
    sources: tuple[SourceSection, ...] = ()
    """Where the questions are from, as [[data.sources]]; responses there are not looked at, but the
    answer of the format gsm8k and solution_column say what is right."""
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{}."
    """What follows a question; puzzles have d1's own instructions."""
    num_samples: int = 4
    """Samples of each question."""
    temperature: float = 0.8
    """Temperature of sampling."""
    top_p: float = 0.95
    """Share of the probability that is sampled from."""
    max_tokens: int = 2048
    """Longest sample in tokens; one that does not end by then is no trace."""
    max_model_len: int = 4096
    """Longest question and sample together, in tokens."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """In float32 a seed gives the same text whatever is generated beside it."""
    seed: int = 0
    """Seed of the samples."""
    verify: bool = True
    """Keep only what the task's grader or math-verify finds right."""
    keep: int = 1
    """Different traces kept of each question."""
    prefer: Literal["shortest", "longest", "first"] = "shortest"
    """Which of the right ones."""
    num_shards: int = 8
    """Number of Parquet shards, the unit of resuming."""
    batch_size: int = field(default=64, metadata=RESOURCE)
    """Samples generated together by one engine."""
    num_actors: int = field(default=1, metadata=RESOURCE)
    """Engines."""
    num_cpus: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one engine."""
    num_gpus: int = field(default=0, metadata=RESOURCE)
    """GPUs of one engine, which share the model."""
