"""The report's part on searches: their trials as tables and figures."""

import json
from typing import Any

from pipeline.report import search_figures
from pipeline.report.data import Search
from pipeline.report.search_figures import TrialCurve
from pipeline.tables import TRIAL_COLUMNS, trial_rows

_FEWEST = 4
"""Finished trials of an arm from which an importance says something."""


def searches(found: list[Search]) -> list[dict[str, Any]]:
    """A table and the figures of each search."""
    return [_search(search) for search in found]


def _search(search: Search) -> dict[str, Any]:
    trials = _curves(search)
    failed = [row for row in search.rows if row["status"] == "failed"]
    importance = _importance(trials)
    facts = search.manifest.facts
    return {
        "name": search.name,
        "columns": TRIAL_COLUMNS,
        "rows": trial_rows(search.rows),
        "summary": ", ".join(
            f"{facts[status]} {status}"
            for status in ("finished", "stopped", "failed")
            if status in facts
        ),
        "best": facts["best"],
        "curves": search_figures.nelbo_curves(search.name, trials),
        "parallel": search_figures.parallel_coordinates(search.name, trials),
        "importance": search_figures.importance_bars(search.name, importance) if importance else "",
        "pareto": search_figures.pareto(search.name, trials),
        "failures": [(row["trial"], row["reason"]) for row in failed],
    }


def _curves(search: Search) -> list[TrialCurve]:
    """The trials that were measured."""
    by_name = {row["trial"]: row for row in search.rows}
    return [
        TrialCurve(
            arm=row["arm"],
            params=json.loads(row["params"]),
            percents=[report["percent"] for report in reports],
            nelbos=[report["held_out_nelbo"] for report in reports],
            seconds=row["seconds"],
            accuracy=row["accuracy"],
            is_finished=row["status"] == "finished",
        )
        for trial, reports in search.reports.items()
        if reports and (row := by_name[trial])
    ]


def _importance(trials: list[TrialCurve]) -> dict[str, dict[str, float]]:
    """Importance of the parameters that all finished trials of an arm have, the first the largest.

    Optuna's default evaluator, PED-ANOVA (arXiv 2304.10255).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for arm in dict.fromkeys(trial.arm for trial in trials):
        own = [trial for trial in trials if trial.arm == arm and trial.is_finished]
        shared = [key for key in own[0].params if all(key in t.params for t in own)] if own else []
        varied = [key for key in shared if len({repr(t.params[key]) for t in own}) > 1]
        if len(own) < _FEWEST or len(varied) < 2:
            continue
        study = optuna.create_study(direction="minimize")
        distributions = {key: _distribution([t.params[key] for t in own]) for key in varied}
        for trial in own:
            study.add_trial(
                optuna.trial.create_trial(
                    params={key: trial.params[key] for key in varied},
                    distributions=distributions,
                    value=trial.nelbos[-1],
                )
            )
        found[arm] = dict(optuna.importance.get_param_importances(study))
    return found


def _distribution(values: list[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numeric and len(set(values)) > 3:
        return FloatDistribution(min(values), max(values), log=min(values) > 0)
    return CategoricalDistribution(list(dict.fromkeys(values)))
