"""Decoding and grading, and what is made of the results."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from pipeline.config.base import RESOURCE, STRICT


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Decoding and grading (stage evaluate)."""

    __pydantic_config__ = STRICT

    checkpoints: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--checkpoint"])] = ()
    """Checkpoints: names under checkpoints/, folders, addresses or hub names; base is model.path,
    which is also what none means. Each gets an evaluation of its own."""
    name: str = ""
    """Folder under evaluations/; empty: the checkpoint's name, with the data folder's if given.
    Several lengths add theirs, and several checkpoints theirs."""
    tasks: tuple[str, ...] = ("sudoku", "countdown")
    """Tasks to evaluate."""
    data_dir: Annotated[str, tyro.conf.arg(aliases=["--data-dir"])] = ""
    """Folder of benchmark files; empty: puzzles of the generators' own held-out set, other tasks
    from the hub."""
    num_items: int = 128
    """Generated held-out problems of each puzzle."""
    skip_items: int = 0
    """So many of them are left out first: settings can be chosen on some and judged on others."""
    benchmark_items: int = 0
    """Items of each benchmark, the first ones of the protocol's choice; 0 means all."""
    seed: int = 0
    """Seed of decoding at temperature above 0 and of random remasking."""
    engine: Literal["denoiser", "vllm"] = "denoiser"
    """vllm: for the models that it serves, which are prompted and graded alike."""
    protocol: Literal["own", "d1", "llada"] = "own"
    """Published settings, which fix prompts, items and decoder; see docs/evaluation.md. own: what
    the keys below say."""
    prompt_style: Literal["protocol", "compact", "d1", "llada"] = "protocol"
    """Form of the prompts; protocol: that of the protocol, own has compact ones."""
    gen_lengths: tuple[int, ...] = ()
    """Tokens of the canvas; each length is an evaluation of its own. Empty: the protocol's, for own
    128."""
    block_length: int = 0
    """Tokens of one semi-autoregressive block; 0: the protocol's, for own 32."""
    steps: int = 0
    """Denoising steps over the whole canvas; 0: the protocol's, for own half of its length."""
    temperature: float = 0.0
    """Temperature of Gumbel sampling; 0 is greedy."""
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    """Which predictions are kept at each step."""
    cfg_scale: float = 0.0
    """Scale of classifier-free guidance; 0 is off."""
    threshold: float = 0.0
    """A step commits every prediction of at least this probability, instead of an even share; 0 is
    off."""
    cache: Literal["none", "prefix", "dual"] = "none"
    """Keep keys and values within a block: of what is before it, or also of what is behind."""
    early_stop: bool = True
    """Stop a canvas once EOS is committed and everything before it."""
    logits_eos_inf: bool = False
    """LLaDA's switch of this name: EOS is never predicted."""
    confidence_eos_eot_inf: bool = False
    """LLaDA's switch of this name: the end of a turn is committed last, greedily EOS too."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations."""
    allow_code_execution: Annotated[bool, tyro.conf.arg(aliases=["--allow-code-execution"])] = (
        field(default=False, metadata=RESOURCE)
    )
    """Run what a model wrote, which the tasks humaneval and mbpp are graded by."""
    interval: Literal["wilson", "bootstrap"] = "wilson"
    """Method of the 95 % intervals."""
    grader_timeout_s: float = field(default=1.0, metadata=RESOURCE)
    """Seconds for the verdict on one generation; one that needs more is tried once again, for five
    times as long."""
    batch_size: int = field(default=64, metadata=RESOURCE)
    """Items decoded together by one actor."""
    num_actors: int = field(default=1, metadata=RESOURCE)
    """Model replicas."""
    num_cpus: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one actor."""
    num_gpus: float = field(default=0.0, metadata=RESOURCE)
    """GPUs of one actor."""


@dataclass(frozen=True, kw_only=True)
class MergeSection:
    """A LoRA adapter becomes a checkpoint of its own (stage merge)."""

    __pydantic_config__ = STRICT

    checkpoint: str = ""
    """Adapter folder, or a name under checkpoints/."""
    name: str = ""
    """Folder under checkpoints/ to write; empty: the adapter's name and -merged."""

    @property
    def folder(self) -> str:
        """Name of the folder that is written."""
        return self.name or f"{self.checkpoint.rstrip('/').rpartition('/')[2]}-merged"


@dataclass(frozen=True, kw_only=True)
class DriftSection:
    """Entropies under the weights of a training, compared with the frozen ones (stage drift)."""

    __pydantic_config__ = STRICT

    checkpoint: str = ""
    """The training: a name under checkpoints/, or a folder."""
    num_examples: int = 256
    """Examples compared, a choice by data.seed."""


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """The HTML report (stage report)."""

    __pydantic_config__ = STRICT

    baseline: str = "sft"
    """Evaluation that the others are compared with, item by item."""
    num_examples: int = 2
    """Traces and generations shown of each kind."""
    num_failures: int = 20
    """Wrong answers of each task and evaluation that can be looked through."""
    runs: tuple[str, ...] = ()
    """Output folders of further runs, whose checkpoints and evaluations are shown as well."""
