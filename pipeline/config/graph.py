"""Which jobs make up a pipeline (jobs/pipeline.py)."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.config.base import RESOURCE, STRICT

GraphStage: TypeAlias = Literal[
    "prepare", "reference", "train", "tune", "merge", "evaluate", "drift", "report"
]


@dataclass(frozen=True, kw_only=True)
class JobSection:
    """One job, or one for each of its seeds and variants."""

    __pydantic_config__ = STRICT

    stage: GraphStage
    """What it runs."""
    name: str = ""
    """Its name, and that of its checkpoint or evaluation; empty: the stage's."""
    set: tuple[str, ...] = ()
    """What it changes in this file, as TOML lines such as "rates.gamma = 0.0"."""
    best_of: str = ""
    """A search, NAME or NAME/ARM: its best configuration takes this file's place, and set changes
    that."""
    seeds: tuple[int, ...] = ()
    """A job for each, with this run.seed, its number behind the name."""
    each: tuple[str, ...] = ()
    """A job for each element of an array, as in "evaluate.tasks = [['sudoku'], ['countdown']]"; of
    several lines every combination."""
    after: tuple[str, ...] = ()
    """Names of jobs that it waits for, beside those that make what it reads."""
    num_cpus: float = 0.0
    """CPUs that the cluster reserves for the job's own process, beside its actors and workers; 0:
    none, and one for merge, whose own process holds the model (memory_gib: four bytes a weight)."""
    num_gpus: float = 0.0
    """Likewise GPUs."""
    memory_gib: float = 0.0
    """Likewise memory."""
    resources: tuple[str, ...] = ()
    """Custom resources, as TOML lines such as "head = 0.001"."""
    env: tuple[str, ...] = ()
    """Environment variables, as TOML lines such as "HF_HOME = '/data/hub'"; not for secrets."""
    runtime_env: tuple[str, ...] = ()
    """Further fields of Ray's runtime environment, as TOML lines such as "pip = ['flash-attn']"."""


@dataclass(frozen=True, kw_only=True)
class PipelineSection:
    """Several stages as jobs of their own (jobs/pipeline.py)."""

    __pydantic_config__ = STRICT

    jobs: tuple[JobSection, ...] = ()
    """The jobs; empty: prepare, reference, train, evaluate and report as this file has them."""
    only: tuple[str, ...] = field(default=(), metadata=RESOURCE)
    """Names of jobs or stages to run; what the others make has to be there. Empty: all."""
    max_parallel: int = field(default=0, metadata=RESOURCE)
    """Jobs at a time on a cluster; 0: all that are ready."""
    address: str = field(default="", metadata=RESOURCE)
    """Of the cluster's job server, such as http://127.0.0.1:8265; empty: $RAY_API_SERVER_ADDRESS,
    or what $RAY_ADDRESS points at; without either every job runs here, one after the other."""
