"""A study: which trainings it has, and the tables that are made of its results."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config_checks import check_config
from pipeline.errors import ConfigError
from pipeline.search_space import arms, refuse_impossible
from studies import tables
from studies.plan import TUNED, Run, Study, load_study
from studies.results import Results

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


# Right items of ten, by seed; the third seed of sft has no counterpart.
RIGHT = {"sft": [4, 5, 3], "weft": [6, 6]}


def add_run(folder: Path, method: str, seed: int, num_right: int) -> None:
    own = folder / "n1000" / f"{method}-{seed}"
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
    # The last one is the finished checkpoint.
    lines = [
        {"step": step, "epoch": epoch, "tokens": 1000.0, "extra_tokens": 0.0, "seconds": 2.0}
        for epoch, step in enumerate((63, 126))
    ]
    (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rates = {"entropies": "frozen"} | ({"estimator": "full_mask"} if method == "weft" else {})
    training = {
        "facts": {"held_out_nelbo": 0.125, "num_examples": 10, "steps": 126},
        "config": {"rates": rates},
    }
    (own / "training.json").write_text(json.dumps(training))
    (own / "run.json").write_text("{}")


@pytest.fixture
def found(study: Study, tmp_path: Path) -> dict:
    for method, counts in RIGHT.items():
        for seed, count in enumerate(counts):
            add_run(tmp_path, method, seed, count)
    return tables.read_study(study, tmp_path)


def test_differences_are_of_the_same_seed_and_item(found: dict) -> None:
    weft, sft = found["weft", 1000], found["sft", 1000]
    values = tables.differences(weft, sft, "real", "sudoku")
    # Seed 0: items 4 and 5 more; seed 1: item 5.
    expected = np.zeros((2, 10))
    expected[0, 4:6] = expected[1, 5] = 1.0
    assert (values == expected).all()
    comparison = tables.compare(weft, sft)[0]
    assert comparison.mean == pytest.approx(0.6)
    assert comparison.difference == pytest.approx(0.15)
    assert comparison.num_seeds == 2
    assert comparison.low <= 0.15 <= comparison.high
    # t = 0.15 / (0.0707 / sqrt 2) = 3 with one degree of freedom: p 0.205, four times in a row.
    assert comparison.p_value == pytest.approx(min(1.0, 4 * 0.2048), abs=1e-3)


def test_tables_say_what_was_found(study: Study, found: dict) -> None:
    table = tables.accuracy_table(found, 1000)
    assert "| sft | 3 | 40.0 ± 10.0 |" in table
    assert "| weft | 2 | 60.0 ± 0.0; +15.0 (" in table
    assert "| 0.1250 |" in table
    cost = tables.cost_table(study, found, 1000)
    # Two epochs of 1,000 tokens, forward and backward, and one forward pass over an epoch.
    assert "| sft | 4 | 500 | 0.00 | 1.00 |" in cost
    assert "| weft | 4 | 500 | 0.00 | 1.17 |" in cost
    convergence = tables.convergence_table(study, found, 1000)
    assert "| sft | 20.0 | 40.0 | 126 |" in convergence
    assert "| weft | 30.0 | 60.0 | 126 |" in convergence
    assert "| 1000 | 2 | +15.0 (" in tables.size_table(found)
    assert "| weft | " in tables.power_table(found, 1000)


def test_evaluations_of_other_items_are_not_compared(found: dict) -> None:
    weft, sft = found["weft", 1000], found["sft", 1000]
    rows = [{"task": "sudoku", "item_id": "other", "correct": True}]
    pq.write_table(pa.Table.from_pylist(rows), weft[0].folder / "real.parquet")
    with pytest.raises(ValueError, match="other items"):
        tables.differences(weft, sft, "real", "sudoku")
