"""What a study consists of: its methods, and the configuration of each of their trainings."""

import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.config import ArmSection, RunConfig, TuneSection
from pipeline.config_file import load_config, parse_config
from pipeline.errors import ConfigError
from pipeline.search_space import configured, parse_line
from pipeline.tune.trial import entropies_name

_STRICT = ConfigDict(extra="forbid")
BASE, BASELINE, WEFT = "base", "sft", "weft"
"""The model before training, what methods are compared with, and the paper's method."""
TUNED, OBJECTIVE = "tuned", "objective"
"""The method that the search over the objective yields, and the name of that search."""
GENERATED, REAL = "generated", "real"
"""The sets of items: held-out ones of the generator, and the published ones."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of training."""

    __pydantic_config__ = _STRICT

    set: tuple[str, ...] = ()
    """What it changes, such as "rates.gamma = 0"."""
    seeds: int = 3
    sizes: tuple[int, ...] = ()
    """Traces of each source; empty: the base size."""

    @property
    def values(self) -> dict[str, Any]:
        """``set`` by dotted key."""
        return {key: value for line in self.set for key, value in parse_line(line).items()}


@dataclass(frozen=True, kw_only=True)
class TunedMethod:
    """The search over the objective."""

    __pydantic_config__ = _STRICT

    num_trials: int
    epochs: int
    finalists: int
    space: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Methods:
    """``methods.toml``."""

    __pydantic_config__ = _STRICT

    base_size: int
    search_items: int
    search_epochs: int
    checkpoints: int
    checkpoint_items: int
    methods: dict[str, Method]
    tuned: TunedMethod


@dataclass(frozen=True)
class Run:
    """One training of the study."""

    method: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        """Of its checkpoint and its evaluations."""
        return f"{self.method}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """A folder with ``study.toml`` and ``methods.toml``."""

    folder: Path
    base: RunConfig
    plan: Methods
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the searches chose for each method, by dotted key."""

    def at(self, size: int) -> RunConfig:
        """The shared configuration over ``size`` traces of each source and the held-out ones."""
        sources = self.base.data.sources
        spare = math.ceil(self.base.train.held_out / len(sources))
        own = tuple(replace(source, count=size + spare) for source in sources)
        root = f"{self.base.run.output_dir}/n{size}"
        return replace(
            self.base,
            run=replace(self.base.run, output_dir=root),
            data=replace(self.base.data, sources=own),
        )

    def config_of(self, run: Run) -> RunConfig:
        """The configuration of one training."""
        base = self.at(run.size)
        fixed = {} if run.method == TUNED else self.plan.methods[run.method].values
        config = configured(base, {**fixed, **self.chosen.get(run.method, {})})
        return replace(
            config,
            run=replace(config.run, seed=run.seed),
            train=replace(config.train, name=run.name),
            reference=replace(config.reference, name=entropies_name(base, config)),
        )

    def runs(self) -> Iterator[Run]:
        """All trainings: the first seed of every method, then the second, the base size first."""
        plan = self.plan
        methods = plan.methods | {TUNED: Method()}
        most = max(method.seeds for method in methods.values())
        sizes = {size for method in methods.values() for size in method.sizes}
        for size in sorted(
            {plan.base_size, *sizes}, key=lambda size: (size != plan.base_size, size)
        ):
            for seed in range(most):
                for name, method in methods.items():
                    # Beside the base size three seeds are enough.
                    seeds = method.seeds if size == plan.base_size else min(3, method.seeds)
                    if seed < seeds and size in (method.sizes or (plan.base_size,)):
                        yield Run(name, size, seed)

    def base_run(self) -> Run:
        """The model before training, as if it were a training."""
        return Run(BASE, self.plan.base_size, 0)

    def drift_run(self) -> Run:
        """The training in which the drift of the entropies is measured."""
        return Run(WEFT, self.plan.base_size, 0)

    def learning_rate_search(self) -> RunConfig:
        """The search for each method's learning rate."""
        base = self.at(self.plan.base_size)
        arms = tuple(ArmSection(name=n, set=m.set) for n, m in self.plan.methods.items())
        return self._search(base, replace(base.tune, arms=arms), self.plan.search_epochs)

    def objective_search(self) -> RunConfig:
        """The search over the entropy weights."""
        base, tuned = self.at(self.plan.base_size), self.plan.tuned
        space = parse_config({"tune": {"space": list(tuned.space)}}, where="tuned").tune.space
        section = replace(
            base.tune,
            name=OBJECTIVE,
            search="tpe",
            scheduler="asha",
            num_measures=8,
            num_trials=tuned.num_trials,
            finalists=tuned.finalists,
            space=space,
        )
        return self._search(base, section, tuned.epochs)

    def _search(self, base: RunConfig, tune: TuneSection, epochs: int) -> RunConfig:
        evaluate = replace(base.evaluate, num_items=self.plan.search_items, skip_items=0)
        # Trials of one worker, two at a time, keep the cores busier than one of two workers.
        train = replace(base.train, epochs=epochs, num_workers=1)
        return replace(base, tune=tune, evaluate=evaluate, train=train)


def load_study(folder: Path) -> Study:
    """The study in ``folder``; ConfigError where its files are not right."""
    base = load_config(folder / "study.toml")
    path = folder / "methods.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        plan = TypeAdapter(Methods).validate_python(values)
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return Study(folder, base, plan)
