"""The graph: each job with its configuration, and the jobs that make what it reads."""

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import storage
from pipeline.config import JobSection, RunConfig
from pipeline.errors import ConfigError
from pipeline.layout import best_file, layout
from pipeline.search_space import arms, configured, parse_line
from weft.suggest import did_you_mean

STANDARD = tuple(
    JobSection(stage=stage) for stage in ("prepare", "reference", "train", "evaluate", "report")
)
"""The jobs of a configuration that names none."""
BASE = "base"


@dataclass(frozen=True)
class Step:
    """One job of the graph."""

    name: str
    section: JobSection
    config: RunConfig
    after: tuple[str, ...] = ()
    """Names of the steps that have to be done before."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """By dotted key, what it changes in the file."""

    @property
    def stage(self) -> str:
        """What it runs."""
        return self.section.stage

    @property
    def best(self) -> str:
        """The file of a search that it is configured by, with its changes; empty: it is none."""
        if not self.section.best_of:
            return ""
        search, _, arm = self.section.best_of.partition("/")
        return storage.join(layout(self.config).search(search), best_file(arm))


def steps_of(config: RunConfig) -> list[Step]:
    """All steps of ``config.pipeline``, each behind those that it waits for.

    Raises ConfigError for names that come twice or do not exist, and for a circle.
    """
    sections = config.pipeline.jobs or STANDARD
    steps = [step for section in sections for step in _variants(config, section)]
    steps = [one for step in steps for one in _by_checkpoint(step, steps)]
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"pipeline.jobs: {name} is there twice; give each a name of its own")
    _require_outputs_of_their_own(steps)
    for step in steps:
        _require_search(step, steps)
        _require_seed_of_entropies(step, steps)
    return _sorted([replace(step, after=_waits_for(step, steps)) for step in steps])


def _require_outputs_of_their_own(steps: Sequence[Step]) -> None:
    """Raise ConfigError where two steps would write the same folder."""
    writers: dict[tuple[str, str, tuple[str, ...]], str] = {}
    for step in steps:
        config, stage = step.config, step.stage
        names = {
            "reference": (config.reference.name,),
            "train": (config.train.name,),
            "tune": (config.tune.name,),
            "merge": (config.merge.folder,),
            "drift": (config.drift.checkpoint,),
            "evaluate": (config.evaluate.name, *config.evaluate.checkpoints),
        }
        key = (config.run.output_dir, stage, names.get(stage, ()))
        other = writers.setdefault(key, step.name)
        if other != step.name:
            raise ConfigError(
                f"pipeline.jobs: {other} and {step.name} write the same folder of stage {stage}; "
                f"give each job a name, and leave the stage's own name out of set"
            )


def _require_search(step: Step, steps: Sequence[Step]) -> None:
    """Raise ConfigError for the best of a search or an arm that the graph does not have.

    A graph without any search takes those that are there.
    """
    if not step.section.best_of:
        return
    where = f"pipeline.jobs, {step.name}: best_of"
    if step.stage != "train":
        raise ConfigError(f"{where}: wanted a job of stage train, got {step.stage}")
    tunes = {s.config.tune.name: s for s in _beside(step, steps) if s.stage == "tune"}
    search, _, arm = step.section.best_of.partition("/")
    if tunes and search not in tunes:
        raise ConfigError(f"{where}: no search {search!r}{did_you_mean(search, [*tunes])}")
    known = [one.name for one in arms(tunes[search].config)] if tunes else []
    if arm and known and arm not in known:
        raise ConfigError(f"{where}: no arm {arm!r}{did_you_mean(arm, known)}")
    seeds = {tune.config.run.seed for tune in tunes.values()}
    estimators = {e for tune in tunes.values() for e in _estimators(tune.config)}
    if "expected" in estimators and step.config.run.seed not in seeds:
        raise ConfigError(
            f"{where}: the estimator expected, which the search may choose, draws entropies by "
            f"run.seed; wanted that of the search, got {step.config.run.seed}"
        )


def _estimators(config: RunConfig) -> set[str]:
    """The estimators of entropies that a search may choose."""
    key = "reference.estimator"
    found: set[str] = {config.reference.estimator}
    for arm in arms(config):
        found |= {str(arm.fixed[key])} if key in arm.fixed else set()
        found |= {str(v) for p in arm.parameters if p.key == key for v in p.values}
    return found


def _require_seed_of_entropies(step: Step, steps: Sequence[Step]) -> None:
    """Raise ConfigError where a training's entropies would be those of another seed."""
    config = step.config
    if step.stage != "train" or step.best or config.reference.estimator != "expected":
        return
    made = [s for s in _beside(step, steps) if s.stage == "reference" and _is_read(s, step)]
    if made and all(s.config.run.seed != config.run.seed for s in made):
        raise ConfigError(
            f"pipeline.jobs: {step.name} has run.seed {config.run.seed}, and {made[0].name}, whose "
            f"entropies it reads, {made[0].config.run.seed}; by the estimator expected they are "
            f"drawn by that seed: name a reference job for each seed, and set reference.name"
        )


def chosen_steps(steps: Sequence[Step], only: Sequence[str]) -> list[Step]:
    """The steps whose name, job or stage is among ``only``; all where it is empty."""
    known = dict.fromkeys(n for s in steps for n in (s.name, s.section.name, s.stage) if n)
    for name in only:
        if name not in known:
            raise ConfigError(
                f"pipeline.only: wanted names of jobs or stages, got {name!r}"
                f"{did_you_mean(name, list(known))}"
            )
    wanted = set(only) or set(known)
    return [s for s in steps if wanted & {s.name, s.section.name, s.stage}]


def toml_lines(lines: Sequence[str], *, where: str) -> dict[str, Any]:
    """The values of TOML lines; ConfigError for what is none."""
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: wanted lines such as NAME = 'value' ({error})") from error


def _variants(config: RunConfig, section: JobSection) -> Iterator[Step]:
    """One step for each seed and each combination of ``each``."""
    where = f"pipeline.jobs, {section.name or section.stage}"
    fixed = {key: value for line in section.set for key, value in parse_line(line).items()}
    seeds = [("run.seed", seed) for seed in section.seeds]
    axes = [seeds] if seeds else []
    for line in section.each:
        for key, values in parse_line(line).items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"{where}: each: {key}: wanted an array of values, got {values}")
            axes.append([(key, value) for value in values])
    for point in itertools.product(*axes):
        name = "-".join([section.name or section.stage, *(_word(value) for _, value in point)])
        # The name that a search gives its best is not known before.
        is_named = bool(section.name or point or section.best_of)
        own = _own_name(section.stage, name) if is_named else {}
        values = {**own, **fixed, **dict(point)}
        yield Step(name, section, configured(config, values, where=where), changes=values)


def _word(value: Any) -> str:
    """A value as a part of a name."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.rstrip("/").rpartition("/")[2]


def _own_name(stage: str, name: str) -> dict[str, Any]:
    named = ("reference", "train", "evaluate", "tune", "merge")
    return {f"{stage}.name": name} if stage in named else {}


def _by_checkpoint(step: Step, steps: Sequence[Step]) -> Iterator[Step]:
    """An evaluation that names no checkpoint: one of each that the graph makes, and of the base."""
    if step.stage != "evaluate" or step.config.evaluate.checkpoints:
        yield step
        return
    for checkpoint in dict.fromkeys([BASE, *filter(None, map(_made, _beside(step, steps)))]):
        # The evaluation of a job without a name has that of its checkpoint.
        own = step.config.evaluate.name and f"{step.config.evaluate.name}-{checkpoint}"
        section = replace(step.config.evaluate, checkpoints=(checkpoint,), name=own)
        config = replace(step.config, evaluate=section)
        yield replace(step, name=f"{step.name}-{checkpoint}", config=config)


def _beside(step: Step, steps: Sequence[Step]) -> list[Step]:
    """The steps of the same run."""
    return [s for s in steps if s.config.run.output_dir == step.config.run.output_dir]


def _made(step: Step) -> str:
    """The checkpoint that a step makes, if it makes one."""
    if step.stage == "train":
        return step.config.train.name
    return step.config.merge.folder if step.stage == "merge" else ""


def _waits_for(step: Step, steps: Sequence[Step]) -> tuple[str, ...]:
    """The steps that make what ``step`` reads, and those that it names."""
    beside = _beside(step, steps)
    known = {s.name: s for s in steps}
    found = {s.name for s in beside if s is not step and _is_read(s, step)}
    for name in step.section.after:
        named = {s.name for s in steps if name in (s.name, s.section.name or s.stage)} or {name}
        if not named <= known.keys():
            raise ConfigError(
                f"pipeline.jobs, {step.name}: after: no job {name!r}{did_you_mean(name, [*known])}"
            )
        found |= named
    return tuple(name for name in known if name in found)


def _is_read(other: Step, step: Step) -> bool:
    """Whether ``step`` reads what ``other`` makes."""
    config = step.config
    if step.stage == "report":
        return other.stage != "report"
    if other.stage == "tune" and step.section.best_of.partition("/")[0] == other.config.tune.name:
        return True
    if other.stage == "prepare":
        return step.stage in ("reference", "train", "tune", "drift")
    if other.stage == "reference":
        is_same = other.config.reference.name == config.reference.name
        return is_same and (
            step.stage in ("tune", "drift") or (step.stage == "train" and config.uses_entropies)
        )
    read = {
        "evaluate": config.evaluate.checkpoints,
        "merge": (config.merge.checkpoint,),
        "drift": (config.drift.checkpoint,),
    }
    return any(_is_made_by(other, path) for path in read.get(step.stage, ()))


def _is_made_by(step: Step, checkpoint: str) -> bool:
    """Whether a checkpoint, a name or a path, is what ``step`` makes, or kept on the way to it."""
    made = _made(step)
    folder = layout(step.config).checkpoint(made)
    return bool(made) and (
        checkpoint == made or f"{storage.resolve(checkpoint)}/".startswith(f"{folder}/")
    )


def _sorted(steps: Sequence[Step]) -> list[Step]:
    """Each step behind those that it waits for, otherwise in their order."""
    left, done = list(steps), list[Step]()
    while left:
        names = {step.name for step in done}
        ready = [step for step in left if names.issuperset(step.after)]
        if not ready:
            circle = ", ".join(step.name for step in left)
            raise ConfigError(f"pipeline.jobs: these wait for each other: {circle}; see after")
        done += ready
        left = [step for step in left if step not in ready]
    return done
