"""What is trained on: where a run lives, its sources, and how they become tokens."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.base import RESOURCE, STRICT


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """Where a run lives, and its seed."""

    __pydantic_config__ = STRICT

    name: str = "tiny"
    """Name of the run, shown in the report."""
    output_dir: str = field(default="runs/tiny", metadata=RESOURCE)
    """Folder of all artifacts: a local path, or any fsspec address such as s3://bucket/run."""
    seed: int = 0
    """Seed of initial weights, order of examples and noise."""


@dataclass(frozen=True, kw_only=True)
class SourceSection:
    """One source of training examples."""

    __pydantic_config__ = STRICT

    kind: Literal["task", "pretraining", "files", "hub"]
    """task: generated problems with solver traces; pretraining: generated text; files: JSON lines,
    JSON, CSV or Parquet; hub: what Hugging Face datasets loads by name, or from a folder."""
    name: str = ""
    """Name in the prepared rows and the report; empty: that of the task, the file or the hub."""
    task: str = ""
    """Task of generated problems (kind task): sudoku or countdown."""
    count: int = 0
    """Number of generated examples (kinds task and pretraining)."""
    path: str = ""
    """Kind files: a file, a folder or a pattern such as s3://bucket/*.parquet, also compressed.
    Kind hub: a name such as simplescaling/s1K, or a folder."""
    subset: str = ""
    """Configuration of the data set (kind hub); empty: its only one."""
    split: str = "train"
    """Split of the data set (kind hub)."""
    revision: str = ""
    """Branch, tag or commit of the data set (kind hub); empty: its newest."""
    streaming: bool = field(default=False, metadata=RESOURCE)
    """Read the data set as it is downloaded, with nothing left on disk (kind hub)."""
    format: Literal["columns", "s1k", "s1k-1.1", "openr1-math", "gsm8k"] = "columns"
    """Columns (kinds files and hub): of a known data set, or those named below."""
    prompt_column: str = "prompt"
    """Column with the user's turn (format columns). Empty means text without a prompt."""
    response_column: str = "response"
    """Column with the assistant's turn (format columns), or with its answer alone; see below."""
    reasoning_column: str = ""
    """Column with the reasoning (format columns): the turn is then made of it and the answer."""
    correct_column: str = ""
    """Column with a verdict: rows that it does not call right are kept out. Empty: no filter."""
    solution_column: str = ""
    """Column with the right answer: rows whose answer math-verify finds to be another are kept
    out. Empty: no filter."""
    max_examples: int = 0
    """Examples taken, a choice by data.seed of those that can be used; 0: all of them."""
    weight: float = 0.0
    """Share in the mixture, relative to the weights of the other sources; 0: all of it, whatever
    the others give."""


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What is trained on, and how it becomes tokens (stage prepare)."""

    __pydantic_config__ = STRICT

    sources: tuple[SourceSection, ...] = (
        SourceSection(kind="task", task="sudoku", count=1000),
        SourceSection(kind="task", task="countdown", count=1000),
    )
    """The sources, in order; a TOML array of tables [[data.sources]]."""
    seed: int = 0
    """Seed of the generated problems, and of the choice of examples where not all are taken."""
    prompt_style: Literal["compact", "d1"] = "compact"
    """Form of the task prompts: the published one of d1, or a short one for small contexts."""
    max_length: int = 256
    """Longest prompt plus response in tokens, the closing EOS included."""
    too_long: Literal["reject", "truncate"] = "reject"
    """What happens to an example over max_length: kept out with its reason, or cut, and counted."""
    min_response_tokens: int = 0
    """Shortest response in tokens, the closing EOS included; 0: no limit."""
    languages: tuple[str, ...] = ()
    """Languages kept, as ISO 639-1 codes such as en; empty: all. Of texts, not generated ones."""
    max_overlap: float = 0.3
    """Share of a benchmark question's 8-grams of words that a text may contain; 0 refuses any one
    in common, 1 turns it off."""
    near_duplicates: float = 0.0
    """Similarity (Jaccard, of 5-grams of words) from which the later of two texts is kept out;
    0: off. Not of generated ones."""
    near_duplicates_of: Literal["question", "example"] = "question"
    """What is compared: the question, or question and response."""
    eos_policy: Literal["random_tail", "pad_to_max", "pad_to_batch", "one"] = "random_tail"
    """What follows the response in training; see docs/method.md."""
    tail_max: int = 32
    """Longest tail of further EOS tokens under random_tail; lengths are uniform."""
    num_shards: int = 8
    """Number of Parquet shards; the unit of parallel work and of resuming. Of a large data set one
    for some thousand examples."""
    num_cpus: float = field(default=1.0, metadata=RESOURCE)
    """CPUs that one prepare task reserves."""
