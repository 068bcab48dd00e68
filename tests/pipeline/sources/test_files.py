"""Files of every kind: any slice of them, what is refused with its place, what is unreadable."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.config import DataSection, SourceSection
from pipeline.errors import DataError
from pipeline.sources import Row, open_source, readers

DATA = DataSection()
GOOD = b'{"prompt": "p", "response": "r"}'


def source_at(path, **keys):
    return open_source(DATA, SourceSection(kind="files", path=str(path), **keys))


def rows_at(path, start=0, stop=None, **keys):
    """Rows ``start`` to ``stop`` of all parts laid end to end."""
    source = source_at(path, **keys)
    rows = [row for part in source.survey() for row in source.rows(part, 0, 0, part.num_rows)]
    return rows[start:stop]


def write_lines(path, *lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def values(count):
    return [{"prompt": f"p{n}", "response": f'r{n}\n,"{n}'} for n in range(count)]


def as_csv(rows, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, ["response", "prompt"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows, group=7):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=group)
    return sink.getvalue()


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_array(rows):
    return b"\xef\xbb\xbf " + json.dumps(rows, indent=1).encode()


KINDS = {
    "rows.jsonl": as_lines,
    "rows.ndjson": as_lines,
    "lines.json": as_lines,
    "rows.json": as_array,
    "rows.csv": as_csv,
    "rows.tsv": lambda rows: as_csv(rows, "\t"),
    "rows.parquet": as_parquet,
    "rows.jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "rows.json.bz2": lambda rows: bz2.compress(as_array(rows)),
    "rows.csv.xz": lambda rows: lzma.compress(as_csv(rows)),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_its_rows_and_any_slice_of_them(name, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_MARK_EVERY", 8)
    monkeypatch.setattr(readers, "_CHUNK_BYTES", 50)
    monkeypatch.setattr(readers, "_BATCH_ROWS", 3)
    wanted = values(30)
    (tmp_path / name).write_bytes(KINDS[name](wanted))
    source = source_at(tmp_path / name)
    (part,) = source.survey()
    assert part.num_rows == 30
    rows = list(source.rows(part, 0, 0, 30))
    assert [{"prompt": row.prompt, "response": row.response} for row in rows] == wanted
    assert [row.position for row in rows] == list(range(1, 31))
    assert {(row.source, row.file, row.reason) for row in rows} == {(name, part.name, "")}
    for start, stop in itertools.combinations(range(0, 31, 3), 2):
        assert list(source.rows(part, 0, start, stop)) == rows[start:stop]


@given(
    lines=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\n\ufeff"), max_size=9),
        max_size=40,
    ),
    ends_with_line_feed=st.booleans(),
)
def test_lines_are_counted_and_found_by_their_marks(tmp_path_factory, lines, ends_with_line_feed):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    content = "\n".join(lines) + ("\n" if ends_with_line_feed and lines else "")
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_MARK_EVERY", 3)
        patch.setattr(readers, "_CHUNK_BYTES", 4)
        reader = readers.JsonLines()
        count, marks = reader.count(str(path))
        wanted = [line.rstrip("\n") for _, _, line in reader.read(str(path), (), 0)]
        assert wanted == content.split("\n")[: len(wanted)]
        assert count == len(wanted) == content.count("\n") + (content[-1:] not in ("", "\n"))
        for start in range(count):
            found = [line.rstrip("\n") for _, _, line in reader.read(str(path), marks, start)]
            assert found == wanted[start:]


def test_a_slice_of_plain_lines_is_read_without_what_is_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_MARK_EVERY", 8)
    lines = as_lines(values(40))
    (tmp_path / "a.jsonl").write_bytes(lines)
    source = source_at(tmp_path / "a.jsonl")
    (part,) = source.survey()
    # What is before the mark of row 16 is gone: it is not looked at.
    blanked = bytearray(lines)
    blanked[: part.marks[2]] = b"\x00" * part.marks[2]
    (tmp_path / "a.jsonl").write_bytes(blanked)
    assert [row.prompt for row in source.rows(part, 0, 17, 20)] == ["p17", "p18", "p19"]


def test_folders_and_patterns_are_all_their_files_in_order(tmp_path):
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "b.jsonl").write_bytes(as_lines(values(2)))
    (data / "a.parquet").write_bytes(as_parquet(values(3)))
    (data / "deep" / "c.csv").write_bytes(as_csv(values(1)))
    (data / "empty.jsonl").touch()
    (data / "README.md").write_text("what this is")
    (data / "_SUCCESS").touch()
    (data / ".hidden.jsonl").write_bytes(b"broken")
    names = [row.file.rsplit("/", 1)[-1] for row in rows_at(data)]
    assert names == ["a.parquet"] * 3 + ["b.jsonl"] * 2 + ["c.csv"]
    assert [row.position for row in rows_at(data)] == [1, 2, 3, 1, 2, 1]
    assert [row.prompt for row in rows_at(f"{data}/[ab].*")] == ["p0", "p1", "p2", "p0", "p1"]
    assert source_at(data).name == "data"
    assert source_at(data, name="mine").name == "mine"


def test_columns_have_the_names_of_the_configuration(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "1+1", "answer": "2", "id": 7}\n')
    row = Row("own.jsonl", 1, str(path), response="2", answer="2")
    (found,) = rows_at(path, prompt_column="question", response_column="answer")
    assert (found.prompt, found.question, found.response) == ("1+1", "1+1", "2")
    assert rows_at(path, prompt_column="", response_column="answer") == [row]


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
        (b'{"prompt": " ", "response": "r"}', "empty_question", "the question is empty"),
        (b'{"prompt": "p", "response": 3}', "malformed_row", "wanted a string, got int"),
        (b'{"prompt": "p", "response": "\\ud83d"}', "malformed_row", "column 'response': half of"),
    ],
)
def test_lines_that_are_no_example_keep_their_number_and_the_reason(tmp_path, line, reason, detail):
    path = write_lines(tmp_path / "mixed.jsonl", GOOD, line, GOOD)
    first, second, third = rows_at(path)
    assert (first.reason, third.reason) == ("", "")
    assert (second.position, second.reason) == (2, reason)
    assert detail in second.detail
    assert len(second.detail) < 400
    assert second.line.rstrip("\n") == line.decode()


def test_lines_end_at_line_feeds_and_bytes_that_are_no_utf8_are_refused(tmp_path):
    path = write_lines(
        tmp_path / "odd.jsonl",
        '{"prompt": "a\u2028b", "response": "é😀"}'.encode() + b"\r",
        b'{"prompt": "p", "response": "\xff"}',
    )
    good, bad = rows_at(path)
    assert (good.prompt, good.response) == ("a\u2028b", "é😀")
    assert (bad.reason, bad.position) == ("malformed_row", 2)
    assert "bytes that are no UTF-8" in bad.detail
    assert bad.line.rstrip() == '{"prompt": "p", "response": "\ufffd"}'


def test_a_record_with_other_values_than_the_header_is_refused_alone(tmp_path):
    path = write_lines(tmp_path / "a.csv", b"prompt,response", b"p,r", b"p", b"p,r,x", b"p,r")
    assert [row.reason for row in rows_at(path)] == ["", "malformed_row", "malformed_row", ""]
    assert rows_at(path)[2].detail == "wanted 2 values, got 3"
    assert rows_at(path)[2].line == "p,r,x"


def test_parquet_values_of_other_types_are_refused_row_by_row(tmp_path):
    (tmp_path / "a.parquet").write_bytes(
        as_parquet([{"prompt": "p", "response": None}, {"prompt": "p", "response": "r"}])
    )
    first, second = rows_at(tmp_path / "a.parquet")
    assert (first.reason, second.reason) == ("malformed_row", "")
    assert json.loads(first.line) == {"prompt": "p", "response": None}


def test_a_row_without_a_trace_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "p", "why": why, "response": "r"} for why in ("so", "\n", None)]
    path.write_bytes(as_lines(rows))
    found = rows_at(path, reasoning_column="why")
    assert [row.reason for row in found] == ["", "empty_trace", "malformed_row"]


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (True, ""),
        ("Yes", ""),
        (1, ""),
        (False, "marked_wrong"),
        ("no", "marked_wrong"),
        (0, "marked_wrong"),
        (None, "malformed_row"),
        ("perhaps", "malformed_row"),
    ],
)
def test_rows_that_their_column_calls_wrong_are_kept_out(tmp_path, verdict, reason):
    path = tmp_path / "graded.jsonl"
    path.write_bytes(as_lines([{"prompt": "p", "response": "r", "grade": verdict}]))
    assert [row.reason for row in rows_at(path, correct_column="grade")] == [reason]


def damaged_gzip(path):
    content = bytearray(gzip.compress(GOOD * 1000))
    content[10:14] = b"\xff" * 4  # where the deflate stream begins
    path.write_bytes(content)


def damaged_parquet(path):
    content = bytearray(as_parquet(values(1000), group=1000))
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.jsonl", lambda path: None, r"cannot be read .*\[\[data\.sources\]\]"),
        ("*.jsonl", lambda path: None, r"there is no such file"),
        ("empty.jsonl", lambda path: path.touch(), "got an empty file"),
        ("empty.csv", lambda path: path.touch(), "got an empty file"),
        ("header.csv", lambda path: path.write_text("prompt,response\n"), "got an empty file"),
        ("empty.json", lambda path: path.write_text("[]"), "got an empty file"),
        ("empty.jsonl.gz", lambda path: path.write_bytes(gzip.compress(b"")), "got an empty file"),
        ("plain.jsonl.gz", lambda path: path.write_bytes(GOOD), "cannot be read"),
        ("cut.jsonl.gz", lambda p: p.write_bytes(gzip.compress(GOOD * 99)[:-20]), "cannot be read"),
        ("damaged.jsonl.gz", damaged_gzip, "cannot be read"),
        ("folder", lambda path: path.mkdir(), "there is no such file"),
        ("rows.txt", lambda path: path.touch(), r"wanted a name that ends with \.jsonl"),
        ("rows.jsonl.zip", lambda path: path.touch(), r"wanted a name that ends with \.jsonl"),
        ("cut.json", lambda p: p.write_bytes(as_array(values(3))[:-2]), "behind element 3 of"),
        ("odd.json", lambda p: p.write_bytes(b'[{"a": 1}, {"a" 2}]'), "behind element 1 of"),
        ("open.csv", lambda p: p.write_text('prompt,response\n\np,r\n"p,r\n'), "in line 4 is brok"),
        ("cut.parquet", lambda p: p.write_bytes(as_parquet(values(3))[:-4]), "not a whole Parquet"),
        ("other.csv", lambda p: p.write_text("q,response\n1,2\n"), "the columns prompt, got q, re"),
        (
            "other.parquet",
            lambda path: path.write_bytes(as_parquet([{"question": "q", "answer": "a"}])),
            "wanted the columns prompt, response, got question, answer",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        source_at(tmp_path / name).survey()
    assert str(tmp_path / name) in str(caught.value)


def test_a_parquet_file_that_is_damaged_inside_is_named(tmp_path):
    damaged_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: .* cannot be read .Corrupt snappy"):
        rows_at(tmp_path / "a.parquet")


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", GOOD, GOOD)
    source = source_at(path)
    (part,) = source.survey()
    write_lines(path, GOOD)
    with pytest.raises(DataError, match="wanted 2 rows, got 1; it was changed"):
        list(source.rows(part, 0, 0, 2))


def test_unknown_addresses_are_user_errors():
    with pytest.raises(DataError, match=r"Protocol not known: nosuch"):
        source_at("nosuch://rows.jsonl").survey()


def test_a_file_is_known_by_its_content(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", GOOD)
    before = source_at(path).survey()[0].fingerprint
    write_lines(path, GOOD, GOOD)
    assert source_at(path).survey()[0].fingerprint != before


class Unsteady(MemoryFileSystem):
    """Object storage that fails the next ``failures`` times that something is opened or read."""

    protocol = "unsteady"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    failures = 0
    error: Exception = OSError("503 slow down")

    @classmethod
    def fail(cls):
        if cls.failures:
            cls.failures -= 1
            raise cls.error

    def _open(self, *args, **kwargs):
        self.fail()
        return super()._open(*args, **kwargs)

    def isdir(self, path):
        self.fail()
        return super().isdir(path)


@pytest.fixture
def unsteady(monkeypatch):
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    monkeypatch.setattr(storage, "_FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(storage, "_LONGEST_WAIT_S", 0.0)
    monkeypatch.setattr(Unsteady, "failures", 0)
    monkeypatch.setattr(Unsteady, "error", OSError("503 slow down"))
    return Unsteady


def test_storage_that_fails_for_a_while_is_tried_again(unsteady):
    storage.write_bytes("unsteady://bucket/a.jsonl", as_lines(values(200)))
    storage.write_bytes("unsteady://bucket/b.parquet", as_parquet(values(3)))
    unsteady.failures = 3
    source = source_at("unsteady://bucket")
    parts = source.survey()
    assert [part.name for part in parts] == [
        "unsteady://bucket/a.jsonl",
        "unsteady://bucket/b.parquet",
    ]
    rows = source.rows(parts[0], 0, 0, 200)
    first = [next(rows).prompt for _ in range(70)]
    unsteady.failures = 2
    assert first + [row.prompt for row in rows] == [f"p{n}" for n in range(200)]
    assert len(list(source.rows(parts[1], 0, 0, 3))) == 3


@pytest.mark.parametrize("error", [OSError("503 slow down"), PermissionError("access denied")])
def test_storage_that_fails_for_good_is_named(unsteady, error):
    storage.write_bytes("unsteady://bucket/a.jsonl", as_lines(values(2)))
    unsteady.error, unsteady.failures = error, 1000
    with pytest.raises(DataError, match=r"unsteady://bucket.*" + str(error)):
        source_at("unsteady://bucket").survey()
    # What is forbidden stays so: it is not asked for again.
    assert (1000 - unsteady.failures == 1) == isinstance(error, PermissionError)
