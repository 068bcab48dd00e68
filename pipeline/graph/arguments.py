"""A configuration as the command line that makes it of its file."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pipeline.cli import parse_arguments
from pipeline.config_file import load_config
from pipeline.errors import ConfigError
from pipeline.graph.steps import Step


def arguments_of(step: Step, file: str) -> list[str]:
    """The arguments of the job of a step; ``file`` is the pipeline's configuration.

    Only what differs from the file is in them; behind the best of a search, whose values are not
    known yet, also what the step sets to what the file has. Raises ConfigError for what no flag
    can say.
    """
    base = load_config(file)
    wanted = dataclasses.replace(step.config, pipeline=base.pipeline)  # of no concern to a job
    flags = list(_flags("", base, wanted))
    if step.best:
        for key in dict.fromkeys(("run.output_dir", *step.changes)):
            section, _, name = key.partition(".")
            if getattr(getattr(base, section), name) == getattr(getattr(wanted, section), name):
                flags += _flag(f"{section}.", name, getattr(getattr(wanted, section), name))
    if parse_arguments(step.stage, ["--config", file, *flags]).run_config != wanted:
        raise ConfigError(f"{step.name}: no command line makes this job's settings of {file}")
    return ["--config", step.best or file, *flags]


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
