"""Stage report: everything in the folders of some runs -> one HTML page that needs nothing else.

A report is derived from what is there: when its inputs have changed it is simply made anew.
"""

import base64
import dataclasses
import hashlib
import logging
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.config_file import format_config
from pipeline.errors import ArtifactError
from pipeline.layout import layout
from pipeline.report import browse, paint, results, searches, token_views, views
from pipeline.report.data import RunData, open_reader, read_entropies, read_runs
from pipeline.tables import METRIC_COLUMNS, text_table

logger = logging.getLogger(__name__)

PAGE = "index.html"
_TEMPLATE, _SCRIPT = "report.html.j2", "report.js"
_LAYOUT_VERSION = 2
"""Raised when the page shows something else of the same inputs, so that old pages are rebuilt."""


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write ``report/index.html`` unless it is up to date; print the table and the page's path.

    Raises ArtifactError when there is nothing to report, or when an artifact is damaged.
    """
    data = read_runs(config)
    _require_something(data)
    folder = layout(config).report
    wanted = _wanted(config, data)
    reason = "--overwrite was given" if overwrite else _why_rebuild(folder, wanted)
    if reason:
        logger.info("report is made, because %s", reason)
        _write(folder, wanted, render(config, data))
    else:
        print(f"report: {folder} is already finished; --overwrite repeats it")
    if data.evaluations:
        print(text_table(METRIC_COLUMNS, results.table_rows(data.evaluations)))
        over_seeds = views.seeds(data.evaluations, config.report.baseline)
        if over_seeds:
            print(text_table(views.SEED_COLUMNS, over_seeds))
    else:
        print("report: no evaluation yet; run jobs/evaluate.py")
    print(storage.join(folder, PAGE))


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    names = list(read_runs(config).manifests())
    found = ", ".join(names) or "nothing yet"
    return f"report: from {found} -> {storage.join(layout(config).report, PAGE)}"


def _require_something(data: RunData) -> None:
    if data.manifests():
        return
    unfinished = f" (unfinished: {', '.join(data.unfinished)})" if data.unfinished else ""
    raise ArtifactError(
        f"{data.root}: wanted at least one finished artifact of a run, got none{unfinished}; run "
        f"jobs/prepare.py, reference.py, train.py and evaluate.py first, or correct run.output_dir"
    )


def _wanted(config: RunConfig, data: RunData) -> Manifest:
    inputs = {name: manifest.content for name, manifest in data.manifests().items()}
    inputs |= {"facts": artifacts.fingerprint([m.facts for m in data.manifests().values()])}
    inputs |= {"unfinished": ", ".join(data.unfinished)}
    inputs |= {"template": artifacts.fingerprint([_source(_TEMPLATE), _source(_SCRIPT)])}
    # The page shows the whole configuration, so that any change of it changes the page.
    settings = dataclasses.asdict(config) | {"layout_version": _LAYOUT_VERSION}
    return Manifest(stage="report", config=settings, inputs=inputs)


def _why_rebuild(folder: str, wanted: Manifest) -> str:
    """Why the page must be made, in words; empty when it is up to date."""
    found = artifacts.read_manifest(folder)
    if found is None:
        return "there is none yet"
    names = sorted({*found.inputs, *wanted.inputs})
    changed = [n for n in names if found.inputs.get(n) != wanted.inputs.get(n)]
    if changed:
        return f"its inputs changed: {', '.join(changed)}"
    if found.recipe != wanted.recipe:
        return "the configuration changed"
    try:
        artifacts.verify_files(folder, found)
    except ArtifactError as error:
        return str(error)
    return ""


def _write(folder: str, wanted: Manifest, page: str) -> None:
    storage.remove(storage.join(folder, artifacts.MANIFEST))
    path = storage.join(folder, PAGE)
    storage.write_bytes(path, page.encode("utf-8", "replace"))
    artifacts.commit(folder, dataclasses.replace(wanted, files={PAGE: artifacts.file_entry(path)}))


def render(config: RunConfig, data: RunData) -> str:
    """The page as text; the same bytes for the same ``config`` and ``data``."""
    reader = open_reader(config.model)
    sample = read_entropies(config, data)
    script, script_hash = _script()
    values: dict[str, Any] = {
        "name": config.run.name,
        "script": script,
        "script_hash": script_hash,
        "palette": paint.palette_css(),
        "order_legend": paint.order_legend(),
        "baseline": config.report.baseline,
        "results": results.results(data) if data.evaluations else None,
        "comparison_columns": views.COMPARISON_COLUMNS,
        "comparisons": views.comparisons(data.evaluations, config.report.baseline),
        "seed_columns": views.SEED_COLUMNS,
        "seeds": views.seeds(data.evaluations, config.report.baseline),
        "data": views.data_card(data),
        "learning": views.learning(data),
        "drift": views.drift(data),
        "searches": searches.searches(data.searches),
        "entropies": None,
        "no_entropies": sample,
        "generations": [
            token_views.generations(e, config.report, reader.for_artifact(e.manifest))
            for e in data.evaluations
        ],
        "animations": [
            shown
            for e in data.evaluations
            for shown in browse.animations(
                e, token_views.shown_rows(e, config.report), reader.for_artifact(e.manifest)
            )
        ],
        "failures": browse.failures(data.evaluations, config.report.num_failures),
        "num_failures": config.report.num_failures,
        "unfinished": data.unfinished,
        "provenance": views.provenance(data),
        "config": format_config(config),
    }
    if not isinstance(sample, str) and data.prepared is not None:
        own_reader = reader.for_artifact(data.prepared)
        values["entropies"] = token_views.entropies(sample, config, own_reader)
    return _environment().get_template(_TEMPLATE).render(values)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _script() -> tuple[Markup, str]:
    """The page's own script, and its hash: no other script runs in the page."""
    source = _source(_SCRIPT)
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Markup(source), f"sha256-{digest}"
