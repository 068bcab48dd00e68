import json
from pathlib import Path

import numpy as np
import pytest

from weft.tasks import PUZZLE_NAMES, get_puzzle, get_task
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
GSM8K_ROW = {"question": "How many?", "answer": "1,000 + 2 = <<1000+2=1002>>\n#### 1,002"}
MATH_ROW = {"problem": "What?", "answer": "\\frac12", "unique_id": "test/a/1.json", "level": 2}
HUMANEVAL_ROW = {
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n",
    "test": "def check(g):\n    assert g(1) == 1\n",
    "entry_point": "f",
}
MBPP_ROW = {"task_id": 11, "prompt": "Write f.", "test_list": ["assert f(1) == 1"]}
ROWS: dict[str, dict[str, object]] = {
    "sudoku": SUDOKU_ROW,
    "countdown": COUNTDOWN_ROW,
    "gsm8k": GSM8K_ROW,
    "math500": MATH_ROW,
    "humaneval": HUMANEVAL_ROW,
    "mbpp": MBPP_ROW,
}


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


@pytest.mark.parametrize("name", PUZZLE_NAMES)
def test_published_items_have_traces_that_solve_them(name: str, shared_data: Path) -> None:
    task = get_puzzle(name)
    for item in task.load_benchmark(str(shared_data / "benchmarks"))[:100]:
        assert task.grade(item, task.response(item)).correct


@pytest.mark.parametrize("name", PUZZLE_NAMES)
def test_load_benchmark_keeps_order_and_needs_no_last_newline(name: str, tmp_path: Path) -> None:
    rows = [json.dumps(ROWS[name] | {"id": item_id}) for item_id in ("z", "a")]
    folder = write(tmp_path, name, "\n".join(rows))
    assert [item.item_id for item in get_task(name).load_benchmark(folder)] == ["z", "a"]


@pytest.mark.parametrize("name", PUZZLE_NAMES)
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
        ("gsm8k", {"answer": "#### some"}, "wanted a number, alone or behind ####, as 'answer'"),
        ("gsm8k", {"question": ""}, "as 'question', got ''"),
        ("math500", {"answer": None}, "as 'answer', got None"),
        ("math500", {"unique_id": 7}, "as 'unique_id', got 7"),
        ("humaneval", {"test": ""}, "as 'test', got ''"),
        ("mbpp", {"test_list": []}, "wanted assertions as a list 'test_list'"),
    ],
)
def test_malformed_rows_are_refused_with_file_line_and_remedy(
    name: str, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    good, bad = json.dumps(ROWS[name]), json.dumps(ROWS[name] | change)
    folder = write(tmp_path, name, good + "\n", bad + "\n")
    with pytest.raises(ValueError, match=rf"{get_task(name).benchmark_file}, line 2: .*{message}"):
        get_task(name).load_benchmark(folder)


@pytest.mark.parametrize("name", ROWS)
def test_a_file_with_other_columns_is_refused_with_those_it_has(name: str, tmp_path: Path) -> None:
    wanted = "assertions" if name == "mbpp" else "a column|3 whole numbers"
    row = json.dumps({"input": "1 + 1", "output": "2"})
    with pytest.raises(ValueError, match=rf"line 1: wanted ({wanted})"):
        get_task(name).load_benchmark(write(tmp_path, name, row))
    with pytest.raises(ValueError, match="a column 'puzzle', got the columns id, input, output"):
        get_task("sudoku").load_benchmark(write(tmp_path, "sudoku", row))


def test_rows_without_an_id_are_known_by_their_place(tmp_path: Path) -> None:
    line = json.dumps(GSM8K_ROW) + "\n"
    items = get_task("gsm8k").load_benchmark(write(tmp_path, "gsm8k", line, line))
    assert [item.item_id for item in items] == ["gsm8k-test-0", "gsm8k-test-1"]
    assert items[0].data == {"question": "How many?", "answer": "1002"}


def test_published_questions_are_read(shared_data: Path) -> None:
    folder = str(shared_data / "benchmarks")
    gsm8k, math = (get_task(name).load_benchmark(folder) for name in ("gsm8k", "math500"))
    assert (len(gsm8k), len(math)) == (1319, 500)
    assert gsm8k[0].item_id == "gsm8k-test-0"
    assert gsm8k[0].data["answer"] == "18"
    assert (math[0].data["subject"], math[0].data["level"]) == ("Precalculus", 2)


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
