"""Reading a configuration: TOML text to a checked RunConfig, and back to printable TOML."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from weft.suggest import did_you_mean

_ADAPTER: TypeAdapter[RunConfig] = TypeAdapter(RunConfig)


def load_config(path: str | Path) -> RunConfig:
    """The configuration in the TOML file ``path``, any fsspec address, types checked strictly.

    Raises ConfigError naming file, key, wanted, got and the nearest valid key. Combinations are
    checked later, by ``check_config``, once the command line has had its say.
    """
    try:
        is_address = "://" in str(path)
        content = storage.read_bytes(str(path)) if is_address else Path(path).read_bytes()
        values = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); see configs/") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return parse_config(values, where=str(path))


def parse_config(values: dict[str, Any], *, where: str) -> RunConfig:
    """The configuration of nested ``values``; ``where`` names their origin in errors."""
    try:
        # JSON mode: arrays fill tuples and integers fill floats, but nothing else is converted.
        # A date or a time, which TOML has and no key wants, is refused where it stands.
        text = json.dumps(values, default=lambda value: {type(value).__name__: str(value)})
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e, where) for e in error.errors())) from error


def _explain(error: Any, where: str) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        valid = _valid_keys(location[:-1])
        return f"{where}: unknown key {key}{did_you_mean(location[-1], valid)}"
    if error["type"] == "missing":
        return f"{where}: {key} is missing; it has no default"
    wanted = error["msg"].removeprefix("Input should be ")
    return f"{where}: {key}: wanted {wanted}, got {error['input']!r}"


def _valid_keys(location: list[str]) -> list[str]:
    kind: Any = RunConfig
    for part in location:
        if part.isdigit():
            continue
        kind = next((f.type for f in dataclasses.fields(kind) if f.name == part), None)
        kind = _element(kind)
        if not dataclasses.is_dataclass(kind):
            return []
    return [f.name for f in dataclasses.fields(kind)]


def _element(kind: Any) -> Any:
    arguments = getattr(kind, "__args__", None)
    return arguments[0] if arguments and dataclasses.is_dataclass(arguments[0]) else kind


def format_config(config: RunConfig) -> str:
    """``config`` as TOML text that ``load_config`` reads back to an equal configuration."""
    values = dataclasses.asdict(config)
    lines: list[str] = []
    for section, fields in values.items():
        tables = {k: v for k, v in fields.items() if _is_tables(v)}
        lines.append(f"[{section}]")
        lines += [f"{k} = {_toml(v)}" for k, v in fields.items() if k not in tables]
        for key, rows in tables.items():
            for row in rows:
                lines += [
                    "",
                    f"[[{section}.{key}]]",
                    *(f"{k} = {_toml(v)}" for k, v in row.items()),
                ]
        lines.append("")
    return "\n".join(lines)


def _is_tables(value: Any) -> bool:
    return isinstance(value, tuple | list) and bool(value) and isinstance(value[0], dict)


def _toml(value: Any) -> str:
    # A JSON string, number, boolean or array of these is TOML as well; 1e-05 is a TOML float.
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON leaves as it is
