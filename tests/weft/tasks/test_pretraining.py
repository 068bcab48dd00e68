"""What the generated text promises: true, repeatable, and free of the held-out equations."""

import functools
import re

import numpy as np
import pytest

from weft.tasks import pretraining, sudoku

_EQUATION = re.compile(r"(\d+)([+\-*])(\d+)=(\d+)(?![\d+\-*])")


def _documents(count: int, topic: pretraining.Topic = "all") -> list[pretraining.Document]:
    make = functools.partial(pretraining.pretraining_document, seed=0, topic=topic)
    return [make(index=index) for index in range(count)]


def _equations(text: str) -> list[tuple[int, str, int, int]]:
    return [(int(a), o, int(b), int(c)) for a, o, b, c in _EQUATION.findall(text)]


def test_document_depends_on_seed_and_index_alone() -> None:
    in_order = _documents(20)
    assert pretraining.pretraining_document(seed=0, index=17) == in_order[17]
    assert pretraining.pretraining_document(seed=1, index=17) != in_order[17]


@pytest.mark.parametrize("topic", ["all", "arithmetic"])
def test_documents_are_true_and_hold_no_held_out_equation(topic: pretraining.Topic) -> None:
    seen = 0
    for document in _documents(500, topic):
        for a, operator, b, value in _equations(document.given + document.text):
            assert value == {"+": a + b, "-": a - b, "*": a * b}[operator]
            assert not pretraining.is_held_out(a, operator, b)
            seen += 1
    assert seen > 300


def test_topics_share_no_draws() -> None:
    later = [pretraining.pretraining_document(seed=0, index=(1 << 32) + n) for n in range(200)]
    long = {d.given for d in later if len(d.given) > 20}
    assert len(long) > 50
    assert not long & {d.given for d in _documents(200, "arithmetic")}


def test_documents_complete_their_grids() -> None:
    texts = [d.given + d.text for d in _documents(500)]
    pairs = [re.findall(r"\d{16}", text) for text in texts if re.search(r"\d{16}=", text)]
    assert len(pairs) > 50
    assert all(sudoku.is_valid_solution(puzzle, solution) for puzzle, solution in pairs)
    assert all(1 <= puzzle.count("0") <= 6 for puzzle, _ in pairs)


def test_documents_list_the_candidates_of_rows() -> None:
    num_lines = 0
    for document in _documents(400):
        text = (document.given + document.text).split("\n")
        for line in (line for line in text if ">" in line):
            puzzle = next(part for part in text if re.fullmatch(r"\d{16}", part))
            row = int(line[0]) - 1
            assert line == sudoku.row_line(puzzle, row, sudoku.row_candidates(puzzle, row))
            num_lines += 1
    assert num_lines > 50


def test_documents_name_the_problem_that_they_contain() -> None:
    kinds = set()
    for document in _documents(1000):
        text = document.given + document.text
        grids = re.findall(r"(?<!\d)\d{16}(?=[=\n])", text)
        brackets = re.findall(r"(?m)^[\d+-]*\([\d+-]+\)[\d+-]*=\d+$", text)
        if re.fullmatch(r"\d+[+*-]\d+=\d+[+*-]\d+", document.text):
            numbers = sorted(map(int, re.findall(r"\d+", document.text)))
            assert len(document.problems) == 4
            for reading in document.problems:
                parts = [*reading.data["numbers"], reading.data["target"]]
                assert sorted(parts) == numbers
            continue
        found = document.problems[0] if document.problems else None
        if found is None:
            assert grids + brackets == []
        elif found.task == "sudoku":
            assert grids[0] == found.data["puzzle"]
        else:
            numbers, target = brackets[0].split("=")
            assert sorted(map(int, re.findall(r"\d+", numbers))) == sorted(found.data["numbers"])
            assert int(target) == found.data["target"]
        kinds.add(found and found.task)
    assert kinds == {None, "sudoku", "countdown"}


def test_half_of_the_documents_begin_with_other_text() -> None:
    documents = [d for d in _documents(1000) if d.given]
    share = np.mean(["\n" in re.sub(r"\d{16}\n.*", "", d.given) for d in documents])
    assert 0.45 < share < 0.55  # standard error 1.6 points


def test_documents_pair_the_equations_of_equal_results() -> None:
    pairs = [d for d in _documents(500) if re.fullmatch(r"\d+[+*-]\d+=\d+[+*-]\d+", d.text)]
    assert len(pairs) > 10
    for document in pairs:
        listed = document.given.split("\n")[-2].split(" ")
        values = dict(equation.split("=") for equation in listed)
        first, second = document.text.split("=")
        assert [left for left in values if values[left] == values[first]] == [first, second]


def test_brackets_are_worth_what_they_say() -> None:
    pattern = re.compile(r"(?:\((\d+)([+-])(\d+)\)([+-])(\d+)|(\d+)([+-])\((\d+)([+-])(\d+)\))=")
    brackets = [d for d in _documents(300) if "(" in d.given]
    found = [(pattern.fullmatch(d.given.split("\n")[-1]), int(d.text)) for d in brackets]
    assert len(found) > 10
    for match, value in found:
        assert match is not None
        a, inner, b, outer, c, d, outer2, e, inner2, f = match.groups()
        if a is not None:
            left, right = _apply(a, inner, b), int(c)
        else:
            left, right, outer = int(d), _apply(e, inner2, f), outer2
        assert value == _apply(left, outer, right)
        assert not pretraining.is_held_out(left, outer, right)


def _apply(a: int | str, operator: str, b: int | str) -> int:
    return int(a) + int(b) if operator == "+" else int(a) - int(b)


@pytest.mark.parametrize("topic", ["all", "arithmetic"])
def test_worksheets_compute_with_the_numbers_that_are_given(topic: pretraining.Topic) -> None:
    sheets = [d for d in _documents(300, topic) if d.given.endswith(": ")]
    assert len(sheets) > 30
    for sheet in sheets:
        numbers = {int(n) for n in re.findall(r"\d+", sheet.given.split("\n")[-1])}
        for a, _, b, _ in _equations(sheet.text):
            assert {a, b} <= numbers


def test_arithmetic_is_free_of_grids_and_names_its_problems() -> None:
    documents = _documents(500, "arithmetic")
    assert not any(re.search(r"\d{16}", d.given + d.text) for d in documents)
    assert {p.task for d in documents for p in d.problems} == {"countdown"}
    assert sum("*" in d.text for d in documents) > 20


def test_is_held_out_takes_about_one_pair_in_twenty() -> None:
    pairs = [(a, b) for a in range(100) for b in range(100)]
    for operator, low, high in (("+", 0.03, 0.07), ("-", 0.03, 0.07)):
        share = np.mean([pretraining.is_held_out(a, operator, b) for a, b in pairs])
        assert low < share < high  # sums: 5,050 free draws, standard error 0.3 points


def test_is_held_out_treats_a_sum_and_its_mirror_alike() -> None:
    assert all(
        pretraining.is_held_out(a, "+", b) == pretraining.is_held_out(b, "+", a)
        for a in range(40)
        for b in range(a)
    )


def test_held_out_equations_are_the_other_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, right = pretraining.equation(rng, held_out=True)
        ((a, operator, b, _),) = _equations(f"{left}={right}")
        assert pretraining.is_held_out(a, operator, b)
