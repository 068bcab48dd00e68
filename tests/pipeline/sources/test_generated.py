"""Generated sources: what each slice holds, and what is kept out of it."""

import pytest

from pipeline.config import DataSection, SourceSection
from pipeline.sources import open_source
from weft.tasks import fingerprints, get_task, pretraining, sudoku
from weft.tasks.pretraining import pretraining_document

DATA = DataSection()
SUDOKU = SourceSection(kind="task", task="sudoku", count=40)
TEXT = SourceSection(kind="pretraining", count=40)


def rows_of(section, start=0, stop=None, slice_index=0):
    source = open_source(DATA, section)
    (part,) = source.survey()
    return list(source.rows(part, slice_index, start, part.num_rows if stop is None else stop))


def source_fingerprint(data, section):
    (part,) = open_source(data, section).survey()
    return part.fingerprint


def test_names():
    named = SourceSection(kind="task", task="sudoku", count=1, name="grids")
    names = [open_source(DATA, section).name for section in (SUDOKU, TEXT, named)]
    assert names == ["sudoku", "pretraining", "grids"]


@pytest.mark.parametrize("source", [SUDOKU, TEXT])
def test_a_generated_source_is_known_by_what_its_generator_makes(source, monkeypatch):
    before = source_fingerprint(DATA, source)
    assert source_fingerprint(DATA, source) == before
    monkeypatch.setattr(pretraining, "_remains", lambda rng: "1+1=2\n")
    monkeypatch.setattr(sudoku, "solution_trace", lambda puzzle: ("guessed", "1" * 16))
    assert source_fingerprint(DATA, source) != before


def test_generated_problems_have_the_text_of_their_task():
    task = get_task("sudoku")
    rows = [row for row in rows_of(SUDOKU) if not row.reason]
    assert len(rows) == SUDOKU.count
    problem = task.generate(seed=DATA.seed, index=rows[0].position)
    assert rows[0].prompt == task.prompt(problem, "compact").text
    assert rows[0].response == task.response(problem)


@pytest.mark.parametrize("source", [SUDOKU, TEXT])
def test_generated_slices_need_nothing_of_the_others_and_differ(source):
    one, other = rows_of(source, 0, 8, slice_index=0), rows_of(source, 8, 16, slice_index=1)
    assert rows_of(source, 8, 16, slice_index=1) == other
    assert not {row.position for row in one} & {row.position for row in other}


def test_pretraining_text_is_partly_chat_and_may_repeat():
    rows = [row for row in rows_of(TEXT) if not row.reason]
    assert len(rows) == TEXT.count
    assert all(row.may_repeat for row in rows)
    assert all(row.is_chat == row.response.startswith("<reasoning>") for row in rows)
    assert {row.is_chat for row in rows} == {True, False}
    # The left side of an equation is given; what is to be learnt goes on from there.
    assert any(row.prompt.endswith("=") and row.response for row in rows)


@pytest.mark.parametrize("task", ["sudoku", "countdown"])
def test_held_out_problems_are_left_out_beside_the_full_count(task):
    source = SourceSection(kind="task", task=task, count=100)
    rows = rows_of(source)
    definition = get_task(task)
    for row in rows:
        problem = definition.generate(seed=DATA.seed, index=row.position)
        assert fingerprints.is_held_out(problem) == (row.reason == "held_out_item")
    assert sum(not row.reason for row in rows) == 100
    # About one in sixteen; none at all in a hundred has a chance of 0.2 %.
    assert any(row.reason == "held_out_item" for row in rows)


def test_pretraining_text_has_no_evaluation_items(monkeypatch):
    source = SourceSection(kind="pretraining", count=400)
    documents = [pretraining_document(seed=0, index=index) for index in range(400)]
    with_problem = [n for n, document in enumerate(documents) if document.problems]
    listed = with_problem[3]
    digest = fingerprints.fingerprint(documents[listed].problems[0])
    monkeypatch.setattr(fingerprints, "benchmark_fingerprints", lambda: frozenset([digest]))
    reasons = {row.position: row.reason for row in rows_of(source)}
    assert reasons[listed] == "benchmark_item"
    held_out = [
        n for n in with_problem if any(map(fingerprints.is_held_out, documents[n].problems))
    ]
    assert len(held_out) > 2
    assert {n for n in range(400) if reasons[n]} == {*held_out, listed}
    assert sum(not reason for reason in reasons.values()) == 400


def test_benchmark_items_are_left_out(monkeypatch):
    found = [row for row in rows_of(SUDOKU, 0, 5) if not row.reason]
    task = get_task("sudoku")
    listed = fingerprints.fingerprint(task.generate(seed=0, index=found[2].position))
    monkeypatch.setattr(fingerprints, "benchmark_fingerprints", lambda: frozenset([listed]))
    rows = rows_of(SUDOKU, 0, 5)
    refused = [row for row in rows if row.reason == "benchmark_item"]
    assert [row.position for row in refused] == [found[2].position]
    assert refused[0].response == found[2].response
    assert sum(not row.reason for row in rows) == 5
