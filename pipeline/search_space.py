"""The search space of a configuration: its dimensions, checked, and configurations made of them.

Importable without torch, ray and optuna.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import ArmSection, ParameterSection, RunConfig
from pipeline.config_file import parse_config
from pipeline.errors import ConfigError
from weft.suggest import did_you_mean

SECTIONS = ("rates", "noise", "objective", "train", "lora")
_ALSO = ("reference.estimator",)
_ONLY_WITH: dict[str, tuple[str, Any]] = {
    "objective.alpha": ("objective.weighting", "partial"),
    "objective.cart_p": ("objective.name", "cart"),
    "rates.refresh_unit": ("rates.entropies", "refreshed"),
    "rates.refresh_every": ("rates.entropies", "refreshed"),
    "rates.refresh_lag": ("rates.entropies", "refreshed"),
    "train.muon_learning_rate": ("train.optimizer", "muon"),
    **{f"lora.{name}": ("lora.enabled", True) for name in ("rank", "alpha", "dropout")},
}
"""Keys that change nothing but where another key has this value."""
_WANTED_KEY = "a key that decides what is trained"
_MOST_COMBINATIONS = 2000

Values = Mapping[str, Any]
"""Dotted keys of the configuration and what they are set to."""


@dataclass(frozen=True)
class Condition:
    """A parameter is searched only where ``key`` has one of ``values``."""

    key: str
    values: tuple[Any, ...]

    def holds(self, chosen: Values) -> bool:
        """Whether it does under ``chosen``; a key that is not there was not searched itself."""
        return self.key in chosen and chosen[self.key] in self.values


@dataclass(frozen=True)
class Parameter:
    """A dimension: either a choice of ``values``, or the numbers from ``low`` to ``high``."""

    key: str
    values: tuple[Any, ...]
    low: float
    high: float
    log: bool
    is_integer: bool
    condition: Condition | None


@dataclass(frozen=True)
class Arm:
    """A search: what is fixed, and the dimensions that are left."""

    name: str
    fixed: Values
    parameters: tuple[Parameter, ...]

    def active(self, chosen: Values) -> Iterator[Parameter]:
        """The parameters whose condition holds, each asked once those before it are chosen."""
        for parameter in self.parameters:
            condition = parameter.condition
            if condition is None or condition.holds({**self.fixed, **chosen}):
                yield parameter


def arms(config: RunConfig) -> list[Arm]:
    """The arms of ``config``, which ``problems`` found nothing wrong with."""
    parameters = [_parameter(section) for section in config.tune.space]
    sections = config.tune.arms or (ArmSection(name="search"),)
    found = []
    for section in sections:
        fixed = {k: v for line in section.set for k, v in parse_line(line).items()}
        found.append(Arm(section.name, fixed, _free(parameters, fixed)))
    return found


def _free(parameters: Sequence[Parameter], fixed: Values) -> tuple[Parameter, ...]:
    """What is left to search: neither fixed nor under a condition that never holds."""
    free: list[Parameter] = []
    for parameter in parameters:
        condition = parameter.condition
        can_be = (
            condition is None
            or condition.holds(fixed)
            or condition.key in [other.key for other in free]
        )
        if can_be and parameter.key not in fixed:
            free.append(parameter)
    return tuple(free)


def configured(config: RunConfig, values: Values, *, where: str = "tune") -> RunConfig:
    """``config`` with ``values`` set; ConfigError for a value of another type."""
    nested = dataclasses.asdict(config)
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested[section][name] = value
    return parse_config(nested, where=where)


def default_point(config: RunConfig, arm: Arm) -> dict[str, Any] | None:
    """The parameters as ``config`` has them; None where that is outside the space."""
    base = configured(config, arm.fixed)
    point: dict[str, Any] = {}
    for parameter in arm.active(point):
        value = read(base, parameter.key)
        inside = (
            value in parameter.values
            if parameter.values
            else parameter.low <= value <= parameter.high
        )
        if not inside:
            return None
        point[parameter.key] = value
    return point


def read(config: RunConfig, key: str) -> Any:
    """The value of a dotted key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def parse_line(line: str) -> dict[str, Any]:
    """``{"rates.gamma": 0.5}`` of the TOML line ``rates.gamma = 0.5``, or ConfigError."""
    try:
        nested = tomllib.loads(line)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{line!r}: wanted a line such as rates.gamma = 0.5 ({error})") from error
    return {
        f"{section}.{name}": value
        for section, values in nested.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def problems(config: RunConfig) -> Iterator[str]:
    """What is wrong with the dimensions and the arms of ``config``, each by itself."""
    yield from _parameter_problems(config)
    yield from _arm_problems(config)
    yield from _without_effect(config)
    ranges = [section.key for section in config.tune.space if not section.values]
    if config.tune.search == "grid" and ranges:
        yield f"tune.search: a grid has values alone, and {', '.join(ranges)} have a range"


def refuse_impossible(config: RunConfig, check: Callable[[RunConfig], None]) -> None:
    """Raise ConfigError where the space is empty, or ``check`` refuses something that is in it.

    Choices are tried in every combination, ranges at both ends, so that what cannot be trained is
    found before anything runs; of very many combinations the first 2,000.
    """
    if not config.tune.space:
        raise ConfigError("tune.space: wanted at least one parameter [[tune.space]], got none")
    for arm in arms(config):
        for chosen in itertools.islice(combinations(arm), _MOST_COMBINATIONS):
            values = {**arm.fixed, **chosen}
            try:
                check(configured(config, values))
            except ConfigError as error:
                shown = ", ".join(f"{key} = {value!r}" for key, value in values.items())
                raise ConfigError(
                    f"tune.space: arm {arm.name} has a contradiction, {shown}: {error}; drop a "
                    f"value, or search it under a condition (when)"
                ) from error


def combinations(arm: Arm) -> Iterator[dict[str, Any]]:
    """Every combination of choices and of the ends of ranges, under the conditions."""
    options = [p.values or (_number(p, p.low), _number(p, p.high)) for p in arm.parameters]
    seen = set()
    for values in itertools.product(*options):
        drawn = dict(zip([p.key for p in arm.parameters], values, strict=True))
        chosen: dict[str, Any] = {}
        for parameter in arm.active(chosen):
            chosen[parameter.key] = drawn[parameter.key]
        key = repr(chosen)
        if key not in seen:
            seen.add(key)
            yield chosen


def _number(parameter: Parameter, value: float) -> float:
    return int(value) if parameter.is_integer else value


def _parameter(section: ParameterSection) -> Parameter:
    condition = None
    if section.when:
        ((key, value),) = parse_line(section.when).items()
        condition = Condition(key, tuple(value) if isinstance(value, list) else (value,))
    return Parameter(
        key=section.key,
        values=section.values,
        low=section.low,
        high=section.high,
        log=section.log,
        is_integer=_field_type(section.key) is int,
        condition=condition,
    )


def _keys() -> dict[str, Any]:
    """The keys that can be searched, and their types."""
    found = {}
    for section in (*SECTIONS, "reference"):
        kind: Any = next(f.type for f in dataclasses.fields(RunConfig) if f.name == section)
        for field in dataclasses.fields(kind):
            key = f"{section}.{field.name}"
            if (section in SECTIONS or key in _ALSO) and not field.metadata.get("resource"):
                found[key] = field.type
    return found


def _without_effect(config: RunConfig) -> Iterator[str]:
    """Dimensions along which all trials are the same."""
    searched = {section.key: section.values for section in config.tune.space}
    lines = [line for arm in config.tune.arms for line in arm.set]
    for number, section in enumerate(config.tune.space):
        if section.key == "train.held_out":
            yield f"tune.space[{number}].key: what is held out is tune.held_out, for all trials"
        other, value = _ONLY_WITH.get(section.key, ("", None))
        fixed = [line for line in lines if line.replace(" ", "").startswith(f"{other}=")]
        if other and not fixed and value not in (*searched.get(other, ()), read(config, other)):
            yield (
                f"tune.space[{number}].key: {section.key} changes nothing but with {other} = "
                f"{value!r}, which no trial has"
            )


def _nearest(key: str) -> str:
    return did_you_mean(key, tuple(_keys()))


def _field_type(key: str) -> Any:
    return _keys().get(key)


def _parameter_problems(config: RunConfig) -> Iterator[str]:
    keys = _keys()
    above: dict[str, ParameterSection] = {}
    for number, section in enumerate(config.tune.space):
        where = f"tune.space[{number}]"
        if section.key not in keys:
            yield f"{where}.key: wanted {_WANTED_KEY}, got {section.key!r}{_nearest(section.key)}"
            continue
        if section.key in above:
            yield f"{where}.key: {section.key} is searched twice; keep one of them"
        yield from _range_problems(config, where, section, keys[section.key])
        yield from _condition_problems(where, section, above)
        above[section.key] = section


def _range_problems(
    config: RunConfig, where: str, section: ParameterSection, kind: Any
) -> Iterator[str]:
    has_range = (section.low, section.high) != (0.0, 0.0)
    if bool(section.values) == has_range:
        yield f"{where}: wanted either values or low and high of {section.key}"
    elif has_range:
        if kind not in (int, float):
            yield f"{where}: {section.key} is no number; wanted values"
        if not section.low < section.high:
            yield f"{where}: wanted low < high, got {section.low:g} and {section.high:g}"
        if section.log and section.low <= 0:
            yield f"{where}.low: wanted a positive number with log, got {section.low:g}"
    elif len(set(map(repr, section.values))) < len(section.values):
        yield f"{where}.values: wanted each once, got {list(section.values)}"
    for value in section.values:
        try:
            configured(config, {section.key: value}, where=f"{where}.values")
        except ConfigError as error:
            yield str(error)


def _condition_problems(
    where: str, section: ParameterSection, above: Mapping[str, ParameterSection]
) -> Iterator[str]:
    if not section.when:
        return
    try:
        condition = _parameter(section).condition
    except (ConfigError, ValueError) as error:
        yield f"{where}.when: {error}"
        return
    assert condition is not None
    if condition.key not in above:
        known = ", ".join(above) or "none is"
        yield f"{where}.when: wanted a key that is searched above ({known}), got {condition.key}"
    elif not {*map(repr, condition.values)} & {*map(repr, above[condition.key].values)}:
        yield (
            f"{where}.when: {condition.key} never is {list(condition.values)}; its values are "
            f"{list(above[condition.key].values)}"
        )


def _arm_problems(config: RunConfig) -> Iterator[str]:
    names = [arm.name for arm in config.tune.arms]
    if len(set(names)) < len(names):
        yield f"tune.arms: wanted a name of its own for each, got {', '.join(names)}"
    for number, arm in enumerate(config.tune.arms):
        where = f"tune.arms[{number}]"
        if not arm.name or "/" in arm.name or arm.name.startswith("."):
            yield f"{where}.name: wanted a folder name, got {arm.name!r}"
        for line in arm.set:
            try:
                values = parse_line(line)
                unknown = [key for key in values if key not in _keys()]
                if unknown or not values:
                    known = _nearest(unknown[0]) if unknown else ""
                    yield f"{where}.set: wanted {_WANTED_KEY}, got {line!r}{known}"
                else:
                    configured(config, values, where=f"{where}.set")
            except ConfigError as error:
                yield f"{where}.set: {error}"
