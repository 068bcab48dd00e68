import json
from pathlib import Path

import numpy as np
import pytest

from weft.tasks import TASK_NAMES, get_task
from weft.tasks import sudoku as solver
from weft.tasks.benchmarks import d1_selection

SUDOKU_ROW = {
    "id": "a",
    "puzzle": "3102200002100320",
    "solution": "3142243142131324",
    "n_blanks": 8,
    "n_solutions": 1,
}
COUNTDOWN_ROW = {
    "id": "b",
    "numbers": [30, 100, 93],
    "target": 23,
    "example_solution": "(93+(30-100))",
}
ROWS: dict[str, dict[str, object]] = {"sudoku": SUDOKU_ROW, "countdown": COUNTDOWN_ROW}


def write(folder: Path, name: str, *lines: str) -> str:
    (folder / get_task(name).benchmark_file).write_text("".join(lines), encoding="utf-8")
    return str(folder)


def test_load_benchmark_reads_the_published_files(shared_data: Path) -> None:
    folder = str(shared_data / "benchmarks")
    sudoku = get_task("sudoku").load_benchmark(folder)
    countdown = get_task("countdown").load_benchmark(folder)
    assert (len(sudoku), len(countdown)) == (500, 256)
    assert sudoku[0].item_id == "sudoku4x4-0"
    assert sum(item.data["n_solutions"] > 1 for item in sudoku) == 124
    for item in sudoku:
        assert len(solver.solve(item.data["puzzle"])) == item.data["n_solutions"]
    assert countdown[0].data["numbers"] == [30, 100, 93]


@pytest.mark.parametrize("name", TASK_NAMES)
def test_published_items_have_traces_that_solve_them(name: str, shared_data: Path) -> None:
    task = get_task(name)
    for item in task.load_benchmark(str(shared_data / "benchmarks"))[:100]:
        assert task.grade(item, task.response(item)).correct


@pytest.mark.parametrize("name", TASK_NAMES)
def test_load_benchmark_keeps_order_and_needs_no_last_newline(name: str, tmp_path: Path) -> None:
    rows = [json.dumps(ROWS[name] | {"id": item_id}) for item_id in ("z", "a")]
    folder = write(tmp_path, name, "\n".join(rows))
    assert [item.item_id for item in get_task(name).load_benchmark(folder)] == ["z", "a"]


@pytest.mark.parametrize("name", TASK_NAMES)
def test_missing_and_empty_files_are_named(name: str, tmp_path: Path) -> None:
    task = get_task(name)
    with pytest.raises(ValueError, match=rf"{task.benchmark_file}: wanted a readable .* data_dir"):
        task.load_benchmark(str(tmp_path))
    with pytest.raises(ValueError, match=rf"{task.benchmark_file}: .* got an empty file"):
        task.load_benchmark(write(tmp_path, name, ""))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sudoku", {"puzzle": "310220000210032"}, "wanted 16 characters 0-4 as 'puzzle'"),
        ("sudoku", {"puzzle": 3102200002100320}, "wanted a string .* as 'puzzle'"),
        ("sudoku", {"solution": "1342243142133124"}, "wanted a solution of 3102200002100320"),
        ("sudoku", {"n_solutions": 0}, "wanted a whole number of at least 1 as 'n_solutions'"),
        ("sudoku", {"n_solutions": True}, "as 'n_solutions', got True"),
        ("sudoku", {"id": None}, "as 'id', got None"),
        ("countdown", {"numbers": [30, 100]}, "wanted 3 whole numbers above 0"),
        ("countdown", {"numbers": [30, 100, "93"]}, "wanted 3 whole numbers above 0"),
        ("countdown", {"numbers": None}, "wanted 3 whole numbers above 0"),
        ("countdown", {"target": 23.0}, "as 'target', got 23.0"),
        ("countdown", {"example_solution": "30+100"}, "wanted 23 from"),
    ],
)
def test_malformed_rows_are_refused_with_file_line_and_remedy(
    name: str, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    good, bad = json.dumps(ROWS[name]), json.dumps(ROWS[name] | change)
    folder = write(tmp_path, name, good + "\n", bad + "\n")
    with pytest.raises(ValueError, match=rf"{get_task(name).benchmark_file}, line 2: .*{message}"):
        get_task(name).load_benchmark(folder)


@pytest.mark.parametrize("line", [b"{", b"[1]", b"", b"\xff\xfe{", b"[" * 100_000])
def test_lines_that_are_no_object_are_refused(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / get_task("sudoku").benchmark_file
    path.write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=r"line 1: wanted a JSON object, got .*as published"):
        get_task("sudoku").load_benchmark(str(tmp_path))


def test_an_id_may_occur_once_only(tmp_path: Path) -> None:
    line = json.dumps(SUDOKU_ROW) + "\n"
    with pytest.raises(ValueError, match="line 2: wanted an id of its own, got 'a' again"):
        get_task("sudoku").load_benchmark(write(tmp_path, "sudoku", line, line))


def test_d1_selection_equals_the_global_generator_and_leaves_it_alone() -> None:
    state = np.random.get_state()
    try:
        np.random.seed(42)
        wanted = np.random.choice(500, 256, replace=False).tolist()
        before = np.random.get_state()[2]
        assert d1_selection(500, 256) == wanted
        assert np.random.get_state()[2] == before
    finally:
        np.random.set_state(state)


def test_d1_selection_is_that_of_the_oracle(shared_data: Path) -> None:
    import gzip

    path = shared_data / "oracle" / "llada_8b_instruct_len128.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["task"] == "sudoku"]
    items = get_task("sudoku").load_benchmark(str(shared_data / "benchmarks"))
    selected = {items[position].item_id for position in d1_selection(len(items), 256)}
    assert selected == {row["bench_id"] for row in rows}


def test_d1_selection_refuses_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="at most 3 items, got 4"):
        d1_selection(3, 4)
