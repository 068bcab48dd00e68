"""The command line that all jobs share: configuration file, dotted overrides, errors as one line.

Importable without torch and without ray, so that ``--help`` answers at once.
"""

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipeline.config import RunConfig
from pipeline.config_checks import check_config
from pipeline.config_file import format_config, load_config
from pipeline.errors import ConfigError, PipelineError
from pipeline.layout import with_absolute_paths

DEFAULT_CONFIG = "configs/tiny.toml"
USER_ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """A job's command line: the configuration after all overrides, and what to do with it."""

    config: str = DEFAULT_CONFIG
    """TOML file with the configuration; every key can be overridden below."""
    dry_run: bool = False
    """Print the resolved configuration, the steps and a memory estimate; start nothing."""
    overwrite: bool = False
    """Repeat the stage even if its output is there."""
    run_config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)


def run_job(stage: str, argv: Sequence[str] | None = None) -> int:
    """Run ``pipeline.<stage>`` with the command line ``argv``; the exit code of the process.

    0: done, or there was nothing to do; 2: something the user can mend, printed without traceback;
    130: interrupted.
    Each stage module offers ``run(config, overwrite=...)`` and ``describe(config) -> str``.
    """

    def work(invocation: Invocation) -> int:
        module = importlib.import_module(f"pipeline.{stage}")
        if invocation.dry_run:
            print(format_config(invocation.run_config))
            print(module.describe(invocation.run_config))
        else:
            module.run(with_absolute_paths(invocation.run_config), overwrite=invocation.overwrite)
        return 0

    return _guarded(stage, argv, work)


def run_pipeline(argv: Sequence[str] | None = None) -> int:
    """Run ``pipeline.graph`` with the command line ``argv``; the exit code, as of ``run_job``."""

    def work(invocation: Invocation) -> int:
        graph = importlib.import_module("pipeline.graph.stage")
        if invocation.dry_run:
            print(format_config(invocation.run_config))
            print(graph.describe(invocation.run_config, file=invocation.config))
            return 0
        code: int = graph.run(
            invocation.run_config, file=invocation.config, overwrite=invocation.overwrite
        )
        return code

    return _guarded("pipeline", argv, work)


def _guarded(stage: str, argv: Sequence[str] | None, work: Callable[[Invocation], int]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("pipeline").setLevel(logging.INFO)
    is_anew = False
    try:
        invocation = parse_arguments(stage, sys.argv[1:] if argv is None else argv)
        is_anew = invocation.overwrite
        return work(invocation)
    except KeyboardInterrupt:
        how = "without --overwrite the same command" if is_anew else "the same command"
        print(f"{stage}: interrupted; {how} goes on from there", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except PipelineError as error:
        return _report(error)
    except Exception as error:
        cause = _user_error_behind(error)
        if cause is None:
            raise
        return _report(cause)


def parse_arguments(stage: str, argv: Sequence[str]) -> Invocation:
    """Defaults, then the file behind ``--config``, then the rest of ``argv``; all checked."""
    path = _config_path(argv)
    config = load_config(path)
    invocation = tyro.cli(
        Invocation,
        prog=f"jobs/{stage}.py",
        description=f"Stage {stage}. Precedence: defaults < configuration file < command line.",
        args=list(argv),
        default=Invocation(config=path, run_config=config),
        config=(tyro.conf.ConsolidateSubcommandArgs, tyro.conf.AvoidSubcommands),
    )
    check_config(invocation.run_config)
    return invocation


def _config_path(argv: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append")
    try:
        paths = parser.parse_known_args(list(argv))[0].config or [_default_config()]
    except argparse.ArgumentError as error:
        raise ConfigError("--config: wanted a file, got nothing") from error
    if len(paths) > 1:
        raise ConfigError(f"--config: wanted one file, got {', '.join(paths)}")
    return str(paths[0])


def _default_config() -> str:
    here = Path(DEFAULT_CONFIG)
    beside_the_code = Path(__file__).resolve().parent.parent / DEFAULT_CONFIG
    return str(here if here.exists() else beside_the_code)


def _user_error_behind(error: BaseException) -> PipelineError | None:
    """The error of ours inside Ray's wrappers, which carry it as cause or attribute."""
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, PipelineError):
            return current
        seen.add(id(current))
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        queue += list(getattr(current, "worker_failures", {}).values())
    return None


def _report(error: PipelineError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return USER_ERROR_EXIT_CODE
