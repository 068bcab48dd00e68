"""What the generated text promises: true, repeatable, and free of the held-out equations."""

import re

import numpy as np

from weft.tasks import pretraining, sudoku

_EQUATION = re.compile(r"(\d+)([+\-*])(\d+)=(\d+)")


def _documents(count: int) -> list[pretraining.Document]:
    return [pretraining.pretraining_document(seed=0, index=index) for index in range(count)]


def _equations(text: str) -> list[tuple[int, str, int, int]]:
    return [(int(a), o, int(b), int(c)) for a, o, b, c in _EQUATION.findall(text)]


def test_document_depends_on_seed_and_index_alone() -> None:
    in_order = _documents(20)
    assert pretraining.pretraining_document(seed=0, index=17) == in_order[17]
    assert pretraining.pretraining_document(seed=1, index=17) != in_order[17]


def test_documents_are_true_and_hold_no_held_out_equation() -> None:
    seen = 0
    for document in _documents(500):
        for a, operator, b, value in _equations(document.given + document.text):
            assert value == {"+": a + b, "-": a - b, "*": a * b}[operator]
            assert not pretraining.is_held_out(a, operator, b)
            seen += 1
    assert seen > 300


def test_documents_complete_their_grids() -> None:
    grids = [re.findall(r"\d{16}", d.given + d.text) for d in _documents(500)]
    pairs = [found for found in grids if found]
    assert len(pairs) > 50
    assert all(sudoku.is_valid_solution(puzzle, solution) for puzzle, solution in pairs)
    assert all(1 <= puzzle.count("0") <= 6 for puzzle, _ in pairs)


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
