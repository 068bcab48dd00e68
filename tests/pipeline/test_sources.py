"""What each kind of source holds, slice by slice, and what it keeps out."""

import gzip
import itertools
import json

import pytest

from pipeline.config import DataSection, SourceSection
from pipeline.errors import DataError
from pipeline.sources import Row, count_rows, read_rows, source_fingerprint, source_name
from weft.tasks import fingerprints, get_task, pretraining, sudoku
from weft.tasks.pretraining import pretraining_document

DATA = DataSection()
SUDOKU = SourceSection(kind="task", task="sudoku", count=40)
TEXT = SourceSection(kind="pretraining", count=40)


def jsonl(path, **columns):
    return SourceSection(kind="jsonl", path=str(path), **columns)


def write_lines(path, *lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return jsonl(path)


def rows_of(source, start=0, stop=None, slice_index=0):
    stop = count_rows(source) if stop is None else stop
    return list(read_rows(DATA, source, slice_index, start, stop))


@pytest.fixture
def numbered(tmp_path):
    lines = [json.dumps({"prompt": f"p{n}", "response": f"r{n}"}).encode() for n in range(10)]
    return write_lines(tmp_path / "ten.jsonl", *lines)


def test_jsonl_rows_carry_text_and_line_number(numbered):
    assert rows_of(numbered)[:2] == [
        Row("ten.jsonl", 1, prompt="p0", response="r0"),
        Row("ten.jsonl", 2, prompt="p1", response="r1"),
    ]


def test_jsonl_slices_make_up_the_file(numbered):
    parts = [rows_of(numbered, start, stop) for start, stop in [(0, 3), (3, 3), (3, 9), (9, 10)]]
    assert list(itertools.chain(*parts)) == rows_of(numbered)


def test_jsonl_columns_have_the_names_of_the_configuration(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "1+1", "answer": "2", "id": 7}\n')
    source = jsonl(path, prompt_column="question", response_column="answer")
    assert rows_of(source) == [Row("own.jsonl", 1, prompt="1+1", response="2")]
    plain = jsonl(path, prompt_column="", response_column="answer")
    assert rows_of(plain) == [Row("own.jsonl", 1, prompt="", response="2")]


GOOD = b'{"prompt": "p", "response": "r"}'


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"prompt": "p", ', "malformed_json", "Expecting"),
        (b"", "malformed_json", "Expecting value"),
        (b"prompt,response", "malformed_json", "Expecting value"),
        (b"[" * 100_000, "malformed_json", "recursion"),
        (b'{"prompt": ' + b"1" * 5000 + b"}", "malformed_json", "digits"),
        (b'["p", "r"]', "malformed_row", "wanted a JSON object, got list"),
        (b"null", "malformed_row", "got NoneType"),
        (b'{"prompt": "p"}', "malformed_row", "column 'response': wanted a string, got nothing"),
        (b'{"response": "r"}', "malformed_row", "column 'prompt': wanted a string, got nothing"),
        (b'{"prompt": "p", "response": 3}', "malformed_row", "wanted a string, got int"),
        (b'{"prompt": "p", "response": "\\ud83d"}', "malformed_row", "column 'response': half of"),
    ],
)
def test_lines_that_are_no_example_keep_their_number_and_the_reason(tmp_path, line, reason, detail):
    source = write_lines(tmp_path / "mixed.jsonl", GOOD, line, GOOD)
    first, second, third = rows_of(source)
    assert (first.reason, third.reason) == ("", "")
    assert (second.position, second.reason) == (2, reason)
    assert detail in second.detail
    assert len(second.detail) < 400
    assert second.line.rstrip("\n") == line.decode()


def test_lines_end_at_line_feeds_and_bytes_that_are_no_utf8_are_refused(tmp_path):
    source = write_lines(
        tmp_path / "odd.jsonl",
        '{"prompt": "a\u2028b", "response": "é😀"}'.encode() + b"\r",
        b'{"prompt": "p", "response": "\xff"}',
    )
    good, bad = rows_of(source)
    assert (good.prompt, good.response) == ("a\u2028b", "é😀")
    assert (bad.reason, bad.position) == ("malformed_row", 2)
    assert "bytes that are no UTF-8" in bad.detail
    assert bad.line.rstrip() == '{"prompt": "p", "response": "\ufffd"}'


def test_a_gzipped_file_reads_like_a_plain_one(numbered, tmp_path):
    packed = tmp_path / "ten.jsonl.gz"
    with open(numbered.path, "rb") as plain:
        packed.write_bytes(gzip.compress(plain.read()))
    rows = rows_of(jsonl(packed))
    assert [(r.position, r.prompt, r.response) for r in rows] == [
        (r.position, r.prompt, r.response) for r in rows_of(numbered)
    ]


def damaged_gzip(path):
    content = bytearray(gzip.compress(GOOD * 1000))
    content[10:14] = b"\xff" * 4  # where the deflate stream begins
    path.write_bytes(content)


def broken_gzip(path):
    path.write_bytes(gzip.compress(GOOD * 1000)[:-20])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.jsonl", lambda path: None, r"cannot be read .*\[\[data\.sources\]\]"),
        ("empty.jsonl", lambda path: path.touch(), "got an empty file"),
        ("empty.jsonl.gz", lambda path: path.write_bytes(gzip.compress(b"")), "got an empty file"),
        ("plain.jsonl.gz", lambda path: path.write_bytes(GOOD), "cannot be read"),
        ("cut.jsonl.gz", broken_gzip, "cannot be read"),
        ("damaged.jsonl.gz", damaged_gzip, "cannot be read"),
        ("folder.jsonl", lambda path: path.mkdir(), "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        count_rows(jsonl(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_files_without_a_checksum_are_user_errors(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        source_fingerprint(DATA, jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"Protocol not known: nosuch"):
        source_fingerprint(DATA, jsonl("nosuch://rows.jsonl"))


def test_a_file_is_known_by_its_content(numbered, tmp_path):
    before = source_fingerprint(DATA, numbered)
    with open(numbered.path, "ab") as file:
        file.write(GOOD)
    assert source_fingerprint(DATA, numbered) != before


@pytest.mark.parametrize("source", [SUDOKU, TEXT])
def test_a_generated_source_is_known_by_what_its_generator_makes(source, monkeypatch):
    before = source_fingerprint(DATA, source)
    assert source_fingerprint(DATA, source) == before
    monkeypatch.setattr(pretraining, "_remains", lambda rng: "1+1=2\n")
    monkeypatch.setattr(sudoku, "solution_trace", lambda puzzle: ("guessed", "1" * 16))
    assert source_fingerprint(DATA, source) != before


def test_source_names():
    names = [source_name(source) for source in (SUDOKU, TEXT, jsonl("s3://bucket/a/own.jsonl"))]
    assert names == ["sudoku", "pretraining", "own.jsonl"]


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
