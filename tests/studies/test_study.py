"""A study: which trainings it has, and the tables that are made of its results."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config_checks import check_config
from pipeline.errors import ConfigError
from pipeline.evaluate.metrics import METRICS_FILE
from pipeline.evaluate.rows import ROW_SCHEMA
from pipeline.search_space import arms, refuse_impossible
from studies import document, figures, tables
from studies.found import Found, compare, differences, read_study, smallest_shown
from studies.plan import TUNED, Run, Study, load_study
from studies.results import Results, with_choices

FOLDER = Path(__file__).resolve().parents[2] / "studies" / "tiny"


@pytest.fixture
def study() -> Study:
    return load_study(FOLDER)


def test_every_training_of_the_study_can_be_trained(study: Study) -> None:
    runs = list(study.runs())
    assert len(runs) == len(set(runs))
    for run in runs:
        check_config(study.config_of(run))
    for config in (study.learning_rate_search(), study.objective_search()):
        check_config(config)
        refuse_impossible(config, check_config)
    # At least five seeds of the main three, three of the others.
    for method in [*study.plan.methods, TUNED]:
        seeds = {run.seed for run in runs if run.method == method and run.size == 1000}
        assert seeds == set(range(5 if method in ("sft", "weft", "weft-online") else 3)), method
    assert {run.size for run in runs if run.method == "weft"} == {250, 1000, 4000}
    # The first seed of everything comes before the second of anything.
    base = [run.seed for run in runs if run.size == 1000]
    assert base == sorted(base)


def test_methods_differ_in_what_they_say_and_in_nothing_else(study: Study) -> None:
    sft, weft = (study.config_of(Run(name, 1000, 2)) for name in ("sft", "weft"))
    assert (sft.rates.gamma, weft.rates.gamma) == (0.0, 0.5)
    assert (sft.run.seed, sft.train.name, weft.train.name) == (2, "sft-2", "weft-2")
    assert sft.data == weft.data
    assert study.config_of(Run("weft-nll", 1000, 0)).reference.name == "entropies-nll"
    large = study.config_of(Run("sft", 4000, 0))
    assert [source.count for source in large.data.sources] == [4100, 4100]
    assert large.run.output_dir.endswith("n4000")


def test_what_was_searched_is_not_what_is_judged(study: Study) -> None:
    search, run = study.learning_rate_search(), study.config_of(Run("sft", 1000, 0))
    assert search.evaluate.skip_items + search.evaluate.num_items <= run.evaluate.skip_items
    assert run.evaluate.num_items >= 1000
    names = [arm.name for arm in arms(search)]
    assert names == list(study.plan.methods)


def test_the_searches_decide_the_learning_rate_and_the_tuned_method(study: Study) -> None:
    chosen = {"sft": {"train.muon_learning_rate": 0.04}, TUNED: {"rates.gamma": 1.0}}
    found = Study(study.folder, study.base, study.plan, chosen)
    assert found.config_of(Run("sft", 1000, 0)).train.muon_learning_rate == 0.04
    assert found.config_of(Run("weft", 1000, 0)).train.muon_learning_rate == 0.02
    assert found.config_of(Run(TUNED, 1000, 0)).rates.gamma == 1.0


def test_a_study_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    for name in ("study.toml", "methods.toml"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    with (tmp_path / "methods.toml").open("a") as file:
        file.write("\n[methods.x]\nseed = 3\n")
    with pytest.raises(ConfigError, match=r"methods\.toml.*"):
        load_study(tmp_path)


def test_results_are_there_once_they_are_whole_and_made_alike(study: Study, tmp_path: Path) -> None:
    results, run = Results(tmp_path), Run("sft", 1000, 1)
    config = study.config_of(run)
    assert not results.has(run, config)
    (tmp_path / "n1000" / "sft-1").mkdir(parents=True)
    results.finish(run, config)
    assert results.has(run, config)
    assert not results.has(run, study.config_of(Run("weft", 1000, 1)))
    other = Study(study.folder, study.base, study.plan, {"sft": {"train.epochs": 9}})
    assert not results.has(run, other.config_of(run))


def test_an_evaluation_is_kept_as_its_stage_wrote_it(study: Study, tmp_path: Path) -> None:
    folder, run = tmp_path / "evaluation", Run("sft", 1000, 0)
    folder.mkdir()
    blank = dict.fromkeys(ROW_SCHEMA.names)
    rows = [blank | {"task": "sudoku", "item_id": f"{k}", "correct": k == 0} for k in range(2)]
    pq.write_table(pa.Table.from_pylist(rows, ROW_SCHEMA), folder / "sudoku.parquet")
    measures = {"tasks": {"sudoku": {"accuracy": 0.5}}}
    (folder / METRICS_FILE).write_text(json.dumps(measures))
    results = Results(tmp_path / "results")
    results.add_evaluation(run, "real", str(folder))
    found = Found(run, results.folder_of(run), [], {})
    assert found.accuracy("real") == {"sudoku": 0.5}
    assert found.verdicts("real", "sudoku") == {"0": True, "1": False}


# Right items of ten, by seed; the third seed of sft has no counterpart.
RIGHT = {"sft": [4, 5, 3], "weft": [6, 6]}


def add_run(
    study: Study, results: Results, method: str, seed: int, num_right: int, size: int = 1000
) -> None:
    run = Run(method, size, seed)
    own = results.folder_of(run)
    own.mkdir(parents=True)
    for items in ("generated", "real", "step-63", "step-126"):
        num = num_right if items != "step-63" else num_right // 2
        rows = [
            {"task": task, "item_id": f"{task}-{k}", "correct": k < num}
            for task in ("sudoku", "countdown")
            for k in range(10)
        ]
        pq.write_table(pa.Table.from_pylist(rows), own / f"{items}.parquet")
        measures = {task: {"accuracy": num / 10} for task in ("sudoku", "countdown")}
        (own / f"{items}.json").write_text(json.dumps({"tasks": measures}))
    # The last one is the finished checkpoint; the third seed had a slow machine.
    seconds = 20.0 if seed == 2 else 2.0
    lines = [
        {"step": step, "epoch": epoch, "tokens": 1000.0, "extra_tokens": 0.0, "seconds": seconds}
        | {"held_out_nelbo": 1.0 / step}
        for epoch, step in enumerate((63, 126))
    ]
    (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rates = {"entropies": "frozen"} | ({"estimator": "full_mask"} if method == "weft" else {})
    training = {
        "facts": {"held_out_nelbo": 0.125, "num_examples": 10, "steps": 126},
        "config": {"rates": rates},
    }
    (own / "training.json").write_text(json.dumps(training))
    results.finish(run, study.at(size) if method == "base" else study.config_of(run))


@pytest.fixture
def results(study: Study, tmp_path: Path) -> Results:
    found = Results(tmp_path)
    for method, counts in RIGHT.items():
        for seed, count in enumerate(counts):
            add_run(study, found, method, seed, count)
    return found


@pytest.fixture
def found(study: Study, results: Results) -> dict:
    return read_study(study, results)


def test_differences_are_of_the_same_seed_and_item(found: dict) -> None:
    weft, sft = found["weft", 1000], found["sft", 1000]
    values = differences(weft, sft, "real", "sudoku")
    # Seed 0: items 4 and 5 more; seed 1: item 5.
    expected = np.zeros((2, 10))
    expected[0, 4:6] = expected[1, 5] = 1.0
    assert (values == expected).all()
    comparison = compare(weft, sft)[0]
    assert comparison.difference == pytest.approx(0.15)
    assert comparison.by_seed == pytest.approx((0.2, 0.1))
    assert comparison.low <= 0.15 <= comparison.high
    # t = 0.15 / (0.0707 / sqrt 2) = 3 with one degree of freedom: p 0.205, four times in a row.
    assert comparison.p_value == pytest.approx(min(1.0, 4 * 0.2048), abs=1e-3)
    # Means of the items: 0.5, 1, and eight times 0, so a deviation of 0.3375; ten pairs show one
    # deviation with a power of 80.3 % (Cohen 1988, table 2.3.5).
    assert smallest_shown(weft, sft)[0][1] == pytest.approx(0.3375, rel=0.01)


def test_tables_say_what_was_found(study: Study, results: Results, found: dict) -> None:
    made = tables.all_tables(study, results)
    assert "| sft | 3 | 40.0 ± 10.0 |" in made["accuracy"]
    assert "| weft | 2 | 60.0 ± 0.0 |" in made["accuracy"]
    assert "| 0.1250 |" in made["accuracy"]
    assert "| weft less sft | 2 | +15.0 (" in made["baseline"]
    assert "sft less" not in made["baseline"]
    assert made["pairs"] == ""
    # Two epochs of 1,000 tokens, forward and backward, and one forward pass over an epoch.
    assert "| sft | 4 | 500 | 0.00 | 1.00 |" in made["cost"]
    assert "| weft | 4 | 500 | 0.00 | 1.17 |" in made["cost"]
    assert "| sft | 20.0 | 40.0 | 126 |" in made["convergence"]
    assert "| weft | 30.0 | 60.0 | 126 |" in made["convergence"]
    assert "| 1,000 | 2 | 40.0: +15.0 (" in made["sizes"]
    assert "| weft | 81.7, 33.6 |" in made["power"]
    assert "base" not in made["accuracy"]
    add_run(study, results, "base", 0, 1)
    assert "| base | - | 10.0 | 10.0 |" in tables.all_tables(study, results)["accuracy"]


def test_trainings_of_other_settings_are_left_out_and_named(
    study: Study, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Study(study.folder, study.base, study.plan, {"sft": {"train.epochs": 9}})
    assert set(read_study(other, results)) == {("weft", 1000)}
    assert "sft-2: other settings, left out" in capsys.readouterr().err


def test_searches_and_drift_are_read_where_their_settings_are_the_same(
    study: Study, tmp_path: Path
) -> None:
    results, trained = Results(tmp_path), study.config_of(study.drift_run())
    params = {"train.muon_learning_rate": 0.01}
    trial = {"arm": "sft", "number": 0, "status": "finished", "nelbo": 0.5, "accuracy": 0.25}
    rows = [trial | {"params": json.dumps(params), "is_best_of_arm": True}]
    results.add_search("learning-rates", study.learning_rate_search(), rows)
    chosen = with_choices(study, results)
    assert chosen.chosen == {"sft": params}
    assert "| sft | muon_learning_rate 0.01 | finished | 0.5000 | 25.0 | chosen |" in (
        tables.search_table(results, "learning-rates")
    )
    drift = {"step": 63, "entropy": 1, "change": 0.5, "rank_correlation": 0.25, "rate_change": 2}
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "drift.json").write_text(json.dumps([drift]))
    assert results.drift(trained) is None
    results.add_drift(trained, str(tmp_path / "made"))
    assert "| 63 | 1.0000 | 0.5000 | 0.2500 | 2.0000 |" in tables.drift_table(chosen, results)
    assert "drift" in figures.all_figures(chosen, results)
    moved = Study(study.folder, study.base, study.plan, {"weft": {"train.epochs": 9}})
    assert tables.drift_table(moved, results) == ""


def test_figures_show_every_method_and_size(study: Study, results: Results) -> None:
    made = figures.all_figures(study, results)
    assert set(made) == {"accuracy", "curves"}
    for name in ("sft", "weft"):
        assert f">{name}<" in made["curves"]
    assert ">weft<" in made["accuracy"]
    add_run(study, results, "sft", 0, 4, size=250)
    add_run(study, results, "weft", 0, 5, size=250)
    assert ">250<" in figures.all_figures(study, results)["sizes"]


def test_a_document_gets_the_tables_in_their_places(
    study: Study, results: Results, tmp_path: Path
) -> None:
    text = "Before.\n<!-- study: accuracy -->\nold\n<!-- end -->\nAfter.\n"
    made = tables.all_tables(study, results)
    assert document.origin(study, results).startswith("5 of 63 trainings; code of `")
    filled = document.filled(text, made)
    assert filled == text.replace("old", made["accuracy"])
    assert document.filled(filled, made) == filled
    with pytest.raises(SystemExit, match=r"nonsense.*accuracy, baseline"):
        document.filled("<!-- study: nonsense -->\n<!-- end -->", made)


def test_evaluations_of_other_items_are_not_compared(found: dict) -> None:
    weft, sft = found["weft", 1000], found["sft", 1000]
    rows = [{"task": "sudoku", "item_id": "other", "correct": True}]
    pq.write_table(pa.Table.from_pylist(rows), weft[0].folder / "real.parquet")
    with pytest.raises(ValueError, match="other items"):
        differences(weft, sft, "real", "sudoku")


def test_the_results_page_has_the_tables_of_the_committed_results() -> None:
    study, results = document.open_study(FOLDER)
    made = tables.all_tables(study, results) | {"origin": document.origin(study, results)}
    text = (FOLDER.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    assert document.filled(text, made) == text
