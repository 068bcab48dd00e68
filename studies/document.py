"""Put a study's tables and figures into a document: ``python -m studies.document studies/tiny``.

A table stands between ``<!-- study: NAME -->`` and ``<!-- end -->``; the figures are written beside
the document, as ``images/study-NAME.svg``. What is said of them is for people to write.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.report.drawing import GREY
from studies.figures import all_figures
from studies.plan import Study, load_study
from studies.results import Results, with_choices
from studies.tables import all_tables

_PLACE = re.compile(r"<!-- study: (?P<name>[a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is written where."""

    study: tyro.conf.Positional[Path]
    """Folder with study.toml, methods.toml and results."""
    document: Path | None = None
    """Markdown; left out: all tables are printed."""


def main(settings: Settings) -> None:
    """See the module."""
    study, results = open_study(settings.study)
    tables = all_tables(study, results) | {"origin": origin(study, results)}
    if settings.document is None:
        for name, table in tables.items():
            print(f"### {name}\n\n{table or 'nothing yet'}\n")
        return
    path = settings.document
    path.write_text(filled(path.read_text(encoding="utf-8"), tables), encoding="utf-8")
    for name, svg in all_figures(study, results).items():
        figure = path.parent / "images" / f"study-{name}.svg"
        figure.write_text(str(svg).replace("currentColor", GREY), encoding="utf-8")


def origin(study: Study, results: Results) -> str:
    """What the tables are made of: how many trainings, by the code of which commits."""
    runs = list(study.runs())
    num_done = sum(results.has(run, study.config_of(run)) for run in runs)
    commits = ", ".join(f"`{commit}`" for commit in results.commits())
    return f"{num_done} of {len(runs)} trainings; code of {commits}."


def open_study(folder: Path) -> tuple[Study, Results]:
    """The study with what its searches chose, and its results."""
    results = Results(folder / "results")
    if not results.folder.exists():
        sys.exit(f"{results.folder}: no results yet; python -m studies.run {folder} makes them")
    return with_choices(load_study(folder), results), results


def filled(text: str, tables: dict[str, str]) -> str:
    """``text`` with every table in its place.

    Raises SystemExit for a place of an unknown name.
    """

    def place(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in tables:
            sys.exit(f"<!-- study: {name} -->: wanted one of {', '.join(tables)}")
        return f"<!-- study: {name} -->\n{tables[name] or 'Nothing yet.'}\n<!-- end -->"

    return _PLACE.sub(place, text)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
