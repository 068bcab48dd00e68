"""The search over the objective and how it is trained (stage tune)."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.config.base import RESOURCE, STRICT

Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class ParameterSection:
    """One dimension of the search."""

    __pydantic_config__ = STRICT

    key: str
    """A key of [rates], [noise], [objective], [train] or [lora], or reference.estimator."""
    values: tuple[Value, ...] = ()
    """The values to choose from; empty: the range below."""
    low: float = 0.0
    """Least value of the range."""
    high: float = 0.0
    """Greatest value of the range."""
    log: bool = False
    """Whether the range is searched on a logarithmic scale."""
    when: str = ""
    """Only searched under this condition on a key above, such as "objective.weighting = 'partial'";
    an array means any of its values."""


@dataclass(frozen=True, kw_only=True)
class ArmSection:
    """A search of its own, with the same budget as the others."""

    __pydantic_config__ = STRICT

    name: str
    """Its name in the trials and the report."""
    set: tuple[str, ...] = ()
    """Keys that are fixed, such as "rates.gamma = 0"; they are not searched."""


@dataclass(frozen=True, kw_only=True)
class TuneSection:
    """Search over the objective's and the training's settings (stage tune)."""

    __pydantic_config__ = STRICT

    name: str = "search"
    """Folder under tune/."""
    space: tuple[ParameterSection, ...] = ()
    """The dimensions; a TOML array of tables [[tune.space]]."""
    arms: tuple[ArmSection, ...] = ()
    """Searches side by side, such as a baseline that gets the same budget; empty: one of all."""
    num_trials: int = 16
    """Trials of each arm; the first is the configuration as it stands."""
    search: Literal["tpe", "random", "grid"] = "tpe"
    """How trials are proposed: Optuna's tree-structured Parzen estimator, at random, or every
    combination of values once, however many num_trials says."""
    seed: int = 0
    """Seed of the proposals."""
    held_out: int = 256
    """Examples that no trial is trained on, and all are measured on."""
    held_out_draws: int = 1
    """Draws of noise for each of them."""
    num_measures: int = 8
    """Measures of a trial, evenly spread over its steps."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: the worse part of the trials at each rung is stopped."""
    grace: float = 0.25
    """Share of its steps that every trial makes, and the first rung of asha."""
    reduction_factor: float = 2.0
    """A trial goes on from a rung among the best 1/reduction_factor of those that reached it."""
    finalists: int = 2
    """Best trials of each arm whose accuracy decides; see [evaluate]."""
    max_concurrent: int = field(default=0, metadata=RESOURCE)
    """Trials at a time; 0: as many as the cluster holds."""
    time_budget_s: float = field(default=0.0, metadata=RESOURCE)
    """Seconds after which no trial is started and those that run are stopped; 0: no limit."""
    keep_all: bool = field(default=False, metadata=RESOURCE)
    """Keep the weights of all finished trials, not of the finalists alone."""
