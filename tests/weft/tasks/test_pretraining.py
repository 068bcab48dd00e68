"""What the generated text promises: true, repeatable, and free of the held-out equations."""

import dataclasses
import re

import numpy as np

from weft.tasks import arithmetic, pretraining, sudoku
from weft.tasks.base import Problem

_EQUATION = re.compile(r"(\d+)([+\-*/])(\d+)=(\d+)(?![\d+\-*/(])")


_CHAIN = re.compile(r"(\d+)([+\-*/])(\d+)=(\d+)((?: \d+[+\-*/]\d+=\d+){1,2})")


def _documents(count: int) -> list[pretraining.Document]:
    """The first documents, the padding of aligned numbers taken out."""
    made = [pretraining.pretraining_document(seed=0, index=index) for index in range(count)]
    return [_plain(document) for document in made]


def _plain(document: pretraining.Document) -> pretraining.Document:
    """Without what alignment puts before a number; where a text was cut, the cut stays."""
    whole, place = document.given + document.text, len(document.given)
    padding = {
        k
        for run in re.finditer(r" +(?=\d)", whole)
        for k in range(run.start() + _separators(whole, run.start()), run.end())
    }
    kept = [k for k in range(len(whole)) if k not in padding]
    given = "".join(whole[k] for k in kept if k < place)
    return dataclasses.replace(
        document, given=given, text="".join(whole[k] for k in kept if k >= place)
    )


def _separators(text: str, start: int) -> int:
    """Spaces at ``start`` that separate: one behind words, numbers and some marks, or none."""
    before = text[:start]
    return int(before[-1:].isalnum() or before.endswith((":", ",", ")", " =")))


def _last_line(document: pretraining.Document) -> str:
    return (document.given + document.text).split("\n")[-1]


def _equations(text: str) -> list[tuple[int, str, int, int]]:
    return [(int(a), o, int(b), int(c)) for a, o, b, c in _EQUATION.findall(text)]


def test_document_depends_on_seed_and_index_alone() -> None:
    in_order = _documents(20)
    assert _plain(pretraining.pretraining_document(seed=0, index=17)) == in_order[17]
    assert _plain(pretraining.pretraining_document(seed=1, index=17)) != in_order[17]


def test_documents_are_true_and_hold_no_held_out_equation() -> None:
    seen = 0
    for document in _documents(1000):
        for a, operator, b, value in _equations(document.given + document.text):
            assert value == {"+": a + b, "-": a - b, "*": a * b, "/": a // (b or 1)}[operator]
            assert not arithmetic.is_held_out(a, operator, b)
            seen += 1
    assert seen > 1000


def test_documents_complete_their_grids() -> None:
    texts = [d.given + d.text for d in _documents(2000)]
    pairs = [re.findall(r"\d{16}", text) for text in texts if re.search(r"\d{16}=", text)]
    assert len(pairs) > 50
    assert all(sudoku.is_valid_solution(puzzle, solution) for puzzle, solution in pairs)
    assert all(1 <= puzzle.count("0") <= 6 for puzzle, _ in pairs)


def test_documents_list_the_candidates_of_rows() -> None:
    num_lines = 0
    for document in (d for d in _documents(1000) if not d.is_chat):
        text = (document.given + document.text).split("\n")
        for line in (line for line in text if ">" in line):
            puzzle = next(part for part in text if re.fullmatch(r"\d{16}", part))
            row = int(line[0]) - 1
            assert line == sudoku.row_line(puzzle, row, sudoku.row_candidates(puzzle, row))
            num_lines += 1
    assert num_lines > 50


def test_documents_name_the_problems_that_they_contain() -> None:
    kinds = set()
    for document in _documents(1000):
        text = document.given + document.text
        grids = re.findall(r"(?<!\d)\d{16}(?=[=\n<])", text)[:1]
        named = {_key(p.data["numbers"], p.data["target"]) for p in document.problems if not grids}
        if grids:
            assert [p.data["puzzle"] for p in document.problems] == [grids[0]]
            kinds.add("grid")
        for left, value in re.findall(r"(?m)^([\d+\-]*\([\d+\-]+\)[\d+\-]*)=(\d+)$", text):
            assert named == {_key(re.findall(r"\d+", left), value)}
            kinds.add("brackets")
        if document.problems and not grids and "(" not in document.given:
            found = {
                key
                for part in re.split("\n|: |>", text)
                for chain in [_CHAIN.fullmatch(part)]
                if chain is not None
                for key in _problems_of(*chain.groups())
            }
            assert set() < named <= found  # equations before may go together by chance
            kinds.add("chain")
    assert kinds == {"grid", "brackets", "chain"}


def _identity(problem: Problem) -> tuple[int, ...]:
    return _key(problem.data["numbers"], problem.data["target"])


def _key(numbers: list[int] | list[str], target: int | str) -> tuple[int, ...]:
    return (*sorted(map(int, numbers)), int(target))


def _problems_of(a: str, _: str, b: str, pair: str, rest: str) -> set[tuple[int, ...]]:
    """Of ``a ? b = pair`` and the equations after it; none if they have nothing to do with it."""
    operands = re.findall(r"\d+", rest)[:2]
    if pair not in operands:
        return set()
    operands.remove(pair)
    return {_key([a, b, *operands], value) for value in re.findall(r"=(\d+)", rest)}


def test_half_of_the_documents_begin_with_other_text() -> None:
    singles = [d for d in _documents(3000) if re.fullmatch(r"\d+[+\-*]\d+=\d+", _last_line(d))]
    assert len(singles) > 500
    share = np.mean(["\n" in d.given for d in singles])
    assert 0.4 < share < 0.6  # standard error 2 points


def test_chains_join_a_pair_with_a_third_number() -> None:
    sheets = [d for d in _documents(500) if re.search(r"\d+[+\-*/]\d+ \d+: ", d.given)]
    assert len(sheets) > 30
    for sheet in sheets:
        pair, leftover, chain = re.split(r" (?=\d+: )|: ", _last_line(sheet))
        first, *others = chain.split(" ")
        assert first.startswith(f"{pair}=")
        for equation in others:
            operands = re.findall(r"\d+", equation)[:2]
            assert sorted(operands) == sorted([first.split("=")[1], leftover])


def test_lookups_ask_for_the_equation_of_a_result() -> None:
    lookups = [d for d in _documents(1500) if re.fullmatch(r"\d+=\d+[+*-]\d+", _last_line(d))]
    assert len(lookups) > 40
    for document in lookups:
        value, left = _last_line(document).split("=")
        assert f"{left}={value}" in (document.given + document.text).split("\n")[-2].split(" ")


def test_compositions_unfold_the_chain_that_has_the_value() -> None:
    compositions = [d for d in _documents(1000) if re.match(r"\d+=.*\(", _last_line(d))]
    assert len(compositions) > 40
    for document in compositions:
        value, expression = _last_line(document).split("=")
        assert _worth(expression) == int(value)
        inner = expression[expression.index("(") + 1 : expression.index(")")]
        assert f"{inner}=" in document.given + document.text
        assert expression.startswith("(") or "+(" not in expression  # of a sum, the pair is first


def test_brackets_are_worth_what_they_say() -> None:
    lines = [_last_line(d) for d in _documents(1500) if not d.is_chat]
    brackets = [line.split("=") for line in lines if re.fullmatch(r"\S*\(\S+\)\S*=\d+", line)]
    assert len(brackets) > 10
    assert all(_worth(expression) == int(value) for expression, value in brackets)


def _worth(expression: str) -> int:
    """Value of ``a?(b?c)`` or ``(a?b)?c``."""
    inner = re.search(r"\((\d+)(.)(\d+)\)", expression)
    assert inner is not None
    flat = expression.replace(inner[0], str(_apply(*inner.groups())))
    a, operator, b = re.fullmatch(r"(\d+)(.)(\d+)", flat).groups()
    assert not arithmetic.is_held_out(int(a), operator, int(b))
    return _apply(a, operator, b)


def _apply(a: str, operator: str, b: str) -> int:
    x, y = int(a), int(b)
    return {"+": x + y, "-": x - y, "*": x * y, "/": x // (y or 1)}[operator]


_RESPONSE = re.compile(
    r"<reasoning>(.*)</reasoning>\n<answer>(?:\\boxed\{)?(.*?)\}?</answer>", re.S
)


def _chats(count: int) -> list[tuple[str, str, str, tuple[Problem, ...]]]:
    """Question, reasoning, answer and problems of the chats among the first documents."""
    chats = [document for document in _documents(count) if document.is_chat]
    parts = [_RESPONSE.fullmatch(chat.text) for chat in chats]
    assert all(parts)
    return [(c.given, *p.groups(), c.problems) for c, p in zip(chats, parts, strict=True)]


def test_exercises_answer_in_a_chat_with_steps_and_a_boxed_value() -> None:
    exercises = [chat for chat in _chats(1500) if not re.search("grid| = ", chat[0])]
    assert len(exercises) > 10
    for question, steps, answer, problems in exercises:
        assert steps.endswith(f"={answer}")
        if "(" in question:
            assert _worth(question) == int(answer)
            assert [_identity(problem) for problem in problems] == [
                _key(re.findall(r"\d+", question), answer)
            ]
        else:
            assert steps == f"{question}={answer}"


def test_trials_try_what_the_question_names_and_more() -> None:
    trials = [chat for chat in _chats(500) if " = " in chat[0]]
    assert len(trials) > 40
    lengths = set()
    for question, steps, answer, _ in trials:
        named, value = question.split(" = ")
        *lines, last = steps.split("\n")
        tried = [line.split("=")[0] for line in lines]
        asked = [pair.split(" ")[0] for pair in named.split(", ")]
        assert [pair for pair in tried if pair in asked] == asked
        lengths.add((len(asked), len(tried)))
        assert any(line.endswith(f"={value}") or f"={value} " in line for line in lines)
        assert last == f"{value}={answer}"
        assert _worth(answer) == int(value)
    # What is asked leaves open how much is tried.
    assert lengths == {(a, b) for a in (1, 2) for b in range(a, 5)}


def test_chats_about_grids_list_their_rows_and_complete_them() -> None:
    grids = [chat for chat in _chats(1000) if chat[0].startswith("grid ")]
    assert len(grids) > 20
    for question, steps, answer, (problem,) in grids:
        puzzle = question.removeprefix("grid ")
        assert problem.data["puzzle"] == puzzle
        assert sudoku.is_valid_solution(puzzle, answer)
        assert steps.split("\n") == [
            sudoku.row_line(puzzle, row, sudoku.row_candidates(puzzle, row)) for row in range(4)
        ]


def test_a_fifth_of_the_longer_documents_is_given_up_to_anywhere() -> None:
    grids = [d for d in _documents(4000) if re.fullmatch(r"\d{16}=\d{16}", _last_line(d))]
    given = [d for d in grids if d.given]
    assert len(given) > 100
    share = np.mean([len(d.text) < 16 for d in given])
    assert 0.1 < share < 0.3  # standard error 3 points


def test_worksheets_compute_with_the_numbers_that_are_given() -> None:
    sheets = [d for d in _documents(700) if re.search(r"(?:^|\n)[\d ]+: ", d.given)]
    assert len(sheets) > 30
    for sheet in sheets:
        given, computed = _last_line(sheet).split(": ")
        numbers = {int(n) for n in given.split(" ")}
        for a, _, b, _ in _equations(computed):
            assert {a, b} <= numbers


def test_is_held_out_takes_about_one_pair_in_twenty() -> None:
    pairs = [(a, b) for a in range(100) for b in range(100)]
    for operator, low, high in (("+", 0.03, 0.07), ("-", 0.03, 0.07)):
        share = np.mean([arithmetic.is_held_out(a, operator, b) for a, b in pairs])
        assert low < share < high  # sums: 5,050 free draws, standard error 0.3 points


def test_is_held_out_treats_a_sum_and_its_mirror_alike() -> None:
    assert all(
        arithmetic.is_held_out(a, "+", b) == arithmetic.is_held_out(b, "+", a)
        for a in range(40)
        for b in range(a)
    )


def test_held_out_equations_are_the_other_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, right = arithmetic.equation(rng, held_out=True)
        ((a, operator, b, _),) = _equations(f"{left}={right}")
        assert arithmetic.is_held_out(a, operator, b)


def test_aligned_numbers_take_three_places() -> None:
    assert arithmetic.aligned("93-(100-7)=0") == " 93-(100-  7)=  0"
    num_aligned = 0
    for document in (pretraining.pretraining_document(seed=0, index=n) for n in range(500)):
        whole, plain = document.given + document.text, _plain(document)
        text = plain.given + plain.text
        assert whole in (text, arithmetic.aligned(text))
        assert whole != text or len(document.problems) <= 1  # chains have more
        num_aligned += whole != text
    assert num_aligned > 200
