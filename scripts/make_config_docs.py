"""Write docs/configuration.md from the dataclasses of pipeline/config/ and their docstrings.

Run ``python scripts/make_config_docs.py`` after a change of the configuration; a test fails
while the page is out of date.
"""

import ast
import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline import config as schema

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"

_PREAMBLE = """\
# Configuration

This page is made by `python scripts/make_config_docs.py` from `pipeline/config/`; edit it there.

A run is described by one TOML file, such as [configs/tiny.toml](../configs/tiny.toml). A key that
the file leaves out has the default below. Precedence: defaults < file < command line.

- Every job reads the whole file and checks all of it before Ray starts. An unknown key, a wrong
  type, a value out of range or a combination that cannot run is refused with exit code 2; the
  message names the key, what was wanted, what it got and the nearest valid name. The ranges and
  combinations are in `pipeline/config_checks.py`.
- Every key is also a flag of every job: `--SECTION.KEY VALUE`, with dashes for underscores, as in
  `--train.num-workers 2`. A boolean key has two: `--train.use-gpu` and `--train.no-use-gpu`. A key
  of a source that the file lists is reached by its number: `--data.sources.0.count 500`.
- `--dry-run` prints the whole resolved configuration as TOML, and starts nothing.
- A key marked *how* says how a stage is run and not what it computes. It can be changed without
  making an existing output one of another configuration; see [artifacts.md](artifacts.md).
"""


def render() -> str:
    """The page as text; the same for the same ``pipeline/config/``."""
    docstrings = _attribute_docstrings()
    parts = [_PREAMBLE]
    for section in dataclasses.fields(schema.RunConfig):
        kind: Any = section.type
        parts.append(_section(f"[{section.name}]", kind, docstrings))
        for field in dataclasses.fields(kind):
            element = _element_of(get_type_hints(kind)[field.name])
            if element is not None:
                parts.append(_section(f"[[{section.name}.{field.name}]]", element, docstrings))
    return "\n".join(parts)


def _attribute_docstrings() -> dict[tuple[str, str], str]:
    """The string below each attribute, by (class, attribute): Python itself throws them away."""
    files = sorted(Path(schema.__file__).parent.glob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    found = {}
    for node in (node for tree in trees for node in tree.body):
        if not isinstance(node, ast.ClassDef):
            continue
        for attribute, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
                found[node.name, attribute.target.id] = _string(text)
    return found


def _string(node: ast.stmt) -> str:
    is_string = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return " ".join(str(node.value.value).split()) if is_string else ""  # type: ignore[attr-defined]


def _section(title: str, kind: Any, docstrings: dict[tuple[str, str], str]) -> str:
    hints = get_type_hints(kind)
    lines = [f"## `{title}`", "", _one_line(kind.__doc__), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        meaning = docstrings.get((kind.__name__, field.name), "")
        if not meaning:
            raise ValueError(f"pipeline/config/: {kind.__name__}.{field.name} has no docstring")
        how = " *(how)*" if field.metadata.get("resource") else ""
        cells = (f"`{field.name}`", _type(hints[field.name]), _default(field), meaning + how)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _element_of(kind: Any) -> Any:
    """The dataclass of an array of tables, else None."""
    element = get_args(kind)[0] if get_origin(kind) is tuple else None
    return element if dataclasses.is_dataclass(element) else None


def _type(kind: Any) -> str:
    """The type in TOML's words."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        is_table = _element_of(kind) is not None
        return f"array of {'tables' if is_table else _type(get_args(kind)[0]) + 's'}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_type(k) for k in get_args(kind) if k is not type(None))
    return {str: "string", int: "integer", float: "float", bool: "boolean"}[kind]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_toml(field.default)}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{_toml(field.default_factory())}`"
    return "required"


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if dataclasses.is_dataclass(value):
        given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        defaults = {f.name: f.default for f in dataclasses.fields(value)}
        pairs = [f"{k} = {_toml(v)}" for k, v in given.items() if v != defaults[k]]
        return "{" + ", ".join(pairs) + "}"
    return json.dumps(value)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
