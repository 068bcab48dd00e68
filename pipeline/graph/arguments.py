"""A configuration as the command line that makes it of its file."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pipeline.cli import parse_arguments
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.errors import ConfigError
from pipeline.graph.steps import Step


def step_arguments(step: Step, file: str) -> list[str]:
    """The arguments of a step's job; ``file`` is the pipeline's configuration.

    Raises ConfigError for what no flag can say.
    """
    if not step.best:
        return arguments_of(step.stage, file, step.config)
    found = ["--config", step.best]
    for key, value in step.changes.items():
        section, _, name = key.partition(".")
        found += _flag(f"{section}.", name, tuple(value) if isinstance(value, list) else value)
    return found


def arguments_of(stage: str, file: str, config: RunConfig) -> list[str]:
    """The arguments of ``jobs/<stage>.py`` that make ``config`` of ``file``, itself included.

    Only what differs is in them. Raises ConfigError for what no flag can say.
    """
    base = load_config(file)
    config = dataclasses.replace(config, pipeline=base.pipeline)  # of no concern to a job
    found = ["--config", file, *_flags("", base, config)]
    if parse_arguments(stage, found).run_config != config:
        raise ConfigError(f"{stage}: no command line makes this job's settings of {file}")
    return found


def _flags(prefix: str, base: Any, wanted: Any) -> Iterator[str]:
    for field in dataclasses.fields(wanted):
        old, new = getattr(base, field.name), getattr(wanted, field.name)
        if old == new:
            continue
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(new):
            yield from _flags(f"{name}.", old, new)
        elif _is_tables(old) and _is_tables(new) and len(old) == len(new):
            for number, pair in enumerate(zip(old, new, strict=True)):
                yield from _flags(f"{name}.{number}.", *pair)
        elif _is_tables(old) or _is_tables(new):
            raise ConfigError(
                f"{name}: wanted as many tables as the file has, {len(old)}, got {len(new)}; a job "
                f"can change what stands in them, such as {name}.0, but not their number"
            )
        else:
            yield from _flag(prefix, field.name, new)


def _is_tables(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and dataclasses.is_dataclass(value[0])


def _flag(prefix: str, name: str, value: Any) -> Iterator[str]:
    section, own = prefix.replace("_", "-"), name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{section}{own}" if value else f"--{section}no-{own}"
        return
    words = [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
    if not any(word.startswith("-") for word in words):
        yield from (f"--{section}{own}", *words)
    elif isinstance(value, tuple):
        raise ConfigError(f"{prefix}{name}: no command line can say {words}, for the leading dash")
    else:
        yield f"--{section}{own}={words[0]}"
