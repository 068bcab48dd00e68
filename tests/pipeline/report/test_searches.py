"""What the report says of a search."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from pipeline import report, storage
from pipeline.artifacts import RECIPE, Manifest
from pipeline.config import RunConfig, RunSection
from pipeline.config_file import parse_config
from pipeline.report.data import read_run
from pipeline.report.search_figures import TrialCurve, parallel_coordinates
from pipeline.report.searches import _importance, _search
from pipeline.tune.records import TrialRecord, write_record
from pipeline.tune.results import WANTED, write_results

SPACE = [
    {"key": "rates.gamma", "values": [0.25, 0.5]},
    {"key": "train.learning_rate", "low": 1e-4, "high": 1e-2, "log": True},
    {"key": "objective.weighting", "values": ["paper", "elbo"], "when": "rates.gamma = 0.5"},
]


def records() -> list[TrialRecord]:
    """Six trials of which one was stopped and one failed; the NELBO follows the learning rate."""
    found = []
    for number in range(6):
        rate = 1e-4 * 10 ** (number / 2.5)
        params = {"rates.gamma": 0.5 if number % 2 else 0.25, "train.learning_rate": rate}
        if number % 2:
            params["objective.weighting"] = "elbo"
        end = abs(math.log10(rate / 1e-3))
        status = {2: "stopped", 5: "failed"}.get(number, "finished")
        reports = [
            {
                "step": float(k),
                "percent": 25.0 * k,
                "held_out_nelbo": end + 1 / k,
                "seconds": 9.0 * k,
            }
            for k in range(1, {"finished": 5, "stopped": 3, "failed": 1}[status])
        ]
        reason = "weights <b>that</b> are not finite" if status == "failed" else ""
        found.append(TrialRecord("weft", number, params, status, reason, reports))  # type: ignore[arg-type]
    return found


def add_search(config: RunConfig, name: str = "objective") -> None:
    """A search of two finalists in the run of ``config``."""
    tuned = parse_config(
        {"tune": {"name": name, "space": SPACE, "arms": [{"name": "weft"}]}}, where=""
    )
    tuned = dataclasses.replace(tuned, run=config.run)
    folder = f"{config.run.output_dir}/tune/{name}"
    trials = records()
    for record in trials:
        write_record(folder, record)
    for file in (WANTED, RECIPE):
        storage.write_json(f"{folder}/{file}", {})
    wanted = Manifest(stage="tune", config={}, inputs={})
    accuracies = {trials[3].trial: {"sudoku": 0.5}, trials[1].trial: {"sudoku": 0.75}}
    write_results(tuned, folder, wanted, trials, accuracies, 60.0)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    found = RunConfig(run=RunSection(name="small", output_dir=str(tmp_path / "run")))
    add_search(found)
    return found


def test_a_search_is_shown_with_its_trials_and_figures(config: RunConfig) -> None:
    report.run(config)
    page = Path(config.run.output_dir, "report", "index.html").read_text()
    assert "objective: 4 finished, 1 stopped, 1 failed" in page
    assert f"The best, {records()[1].trial}, is marked" in page
    assert f"<td>{records()[1].trial} *</td><td>finished</td>" in page
    for label in ("held-out NELBO of the trials", "parameters of the trials", "importance of the"):
        assert f'aria-label="{label}' in page
    assert 'aria-label="NELBO and accuracy of the trials of objective by training time"' in page
    assert "weights &lt;b&gt;that&lt;/b&gt; are not finite" in page


def test_trials_are_read_with_all_their_measures(config: RunConfig) -> None:
    (search,) = read_run(config).searches
    assert [len(reports) for reports in search.reports.values()].count(4) == 4
    assert {row["status"] for row in search.rows} == {"finished", "stopped", "failed"}
    assert _search(search)["failures"] == [(records()[5].trial, records()[5].reason)]


def curve(params: dict, nelbo: float, *, is_finished: bool = True) -> TrialCurve:
    return TrialCurve("a", params, [100.0], [nelbo], 1.0, None, is_finished)


def test_what_decides_the_measure_is_important() -> None:
    trials = [curve({"x": k / 10, "y": "ab"[k % 2], "z": 1}, float(k)) for k in range(40)]
    found = _importance(trials)["a"]
    assert found.keys() == {"x", "y"}  # what never varies says nothing
    assert found["x"] > 0.8
    assert math.isclose(sum(found.values()), 1.0)
    assert list(found) == ["x", "y"]
    assert _importance(trials[:3]) == {}
    assert _importance([curve({"x": 1}, 1.0, is_finished=False)] * 9) == {}


def test_parameters_that_some_trials_lack_leave_gaps() -> None:
    trials = [
        curve({"rates.gamma": 0.5, "objective.weighting": "paper"}, 0.25),
        curve({"rates.gamma": 1.0}, 0.5),
        curve({"rates.gamma": 0.5, "objective.weighting": "elbo"}, 1.0),
    ]
    svg = str(parallel_coordinates("x", trials))
    for text in ("paper", "elbo", "0.5", "NELBO", "gamma"):
        assert f">{text}</text>" in svg, text
    assert json.dumps(svg) == json.dumps(str(parallel_coordinates("x", trials)))
