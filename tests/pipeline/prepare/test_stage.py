"""Stage prepare without Ray: the plan, single shards, and the stage over shards made in turn."""

import contextlib
import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import artifacts, prepare, storage
from pipeline.config import DataSection, ModelSection, RunConfig, RunSection, SourceSection
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.layout import layout, shard_name
from pipeline.prepare import shards, stage
from pipeline.prepare.shards import (
    DRAFTS,
    PREPARED_SCHEMA,
    REJECTED_SCHEMA,
    Piece,
    draft_shard,
    finish_shard,
    write_dropped,
)
from pipeline.prepare.stage import plan_shards
from pipeline.sources import Part, open_source
from pipeline.tokenizers import open_tokenizer_at


@pytest.fixture
def in_this_process(monkeypatch):
    """Let the stage make its shards one after another, here."""

    def run_shards(make_task, rows, workers):
        return map(make_task(), rows)

    monkeypatch.setattr(stage, "run_shards", run_shards)
    monkeypatch.setattr(stage, "ray_session", lambda **resources: contextlib.nullcontext())


@pytest.fixture
def configure(tmp_path):
    """Make the configuration of a run over a file of the given rows (or lines of text)."""

    def make(rows, **data):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
        sources = (SourceSection(kind="files", path=str(path)),)
        section = DataSection(**({"sources": sources, "max_length": 40, "num_shards": 3} | data))
        run = RunSection(output_dir=str(tmp_path / "run"))
        return RunConfig(run=run, data=section, model=ModelSection(path="tiny"))

    return make


def pair(number, length=1):
    return {"prompt": f"p{number}", "response": str(number % 10) * length}


def read_prepared(config):
    folder = f"{config.run.output_dir}/prepared"
    manifest = artifacts.require(folder, "prepare", hint="")
    artifacts.verify_files(folder, manifest)
    accepted, refused = [], []
    for name in sorted(manifest.files):
        if not name.endswith(".parquet"):
            continue
        table = storage.read_table(f"{folder}/{name}")
        (refused if "/" in name else accepted).extend(table.to_pylist())
    return manifest, accepted, refused


def response_texts(rows):
    tokenizer = open_tokenizer_at("tiny")
    return [tokenizer.decode(row["response_ids"][:-1]) for row in rows]


def parts_of(counts):
    """A source of one part for each of ``counts``."""
    return [[Part("", count, "")] for count in counts]


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(sum),
    num_shards=st.integers(1, 60),
)
def test_plan_covers_every_row_once_in_order_and_evenly(counts, num_shards):
    plan = plan_shards(parts_of(counts), num_shards)
    rows = [(p.source, n) for pieces in plan for p in pieces for n in range(p.start, p.stop)]
    assert rows == [(source, n) for source, count in enumerate(counts) for n in range(count)]
    sizes = [sum(piece.stop - piece.start for piece in pieces) for pieces in plan]
    assert len(plan) == min(num_shards, sum(counts))
    assert max(sizes) - min(sizes) <= 1


def test_plan_cuts_the_sources_laid_end_to_end():
    # Rows 0-2 of the first source and 0-3 of the second, by hand: 7 rows cut at 3 and 7 * 2 / 3.
    (three,), (four,) = surveyed = parts_of([3, 4])
    assert plan_shards(surveyed, 2) == [[Piece(0, three, 0, 3)], [Piece(1, four, 0, 4)]]
    (two,), (five,) = surveyed = parts_of([2, 5])
    assert plan_shards(surveyed, 2) == [
        [Piece(0, two, 0, 2), Piece(1, five, 0, 1)],
        [Piece(1, five, 1, 5)],
    ]


def test_plan_cuts_the_files_of_a_source_laid_end_to_end():
    a, b = Part("a", 3, ""), Part("b", 1, "")
    assert plan_shards([[a, b]], 2) == [
        [Piece(0, a, 0, 2)],
        [Piece(0, a, 2, 3), Piece(0, b, 0, 1)],
    ]


def shard_facts(config, folder, number, pieces):
    """Make one shard, nothing dropped; what its two halves count."""
    draft = draft_shard(config, str(folder), number, pieces)
    write_dropped(str(folder), number, {})
    return draft, finish_shard(str(folder), number)


def test_a_shard_always_has_the_same_bytes(configure, tmp_path):
    sources = (
        SourceSection(kind="task", task="countdown", count=20),
        SourceSection(kind="pretraining", count=20),
    )
    config = configure([], sources=sources, max_length=192)
    (first, second) = plan_shards(parts_of([20, 20]), 2)
    facts = [shard_facts(config, tmp_path / "a", n, p) for n, p in enumerate([first, second])]
    # Again, alone and elsewhere.
    assert shard_facts(config, tmp_path / "b", 1, second) == facts[1]
    for name in (shard_name(1), f"rejected/{shard_name(1)}"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_of_the_users_own_is_left_alone(configure, in_this_process):
    config = configure([pair(1)])
    own = Path(layout(config).prepared) / "thesis.tex"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(ArtifactError, match="move it away"):
        prepare.run(config)
    assert own.read_text() == "mine"


def test_a_shard_has_the_published_columns_even_when_empty(configure, tmp_path):
    config = configure(["broken"])
    (part,) = open_source(config.data, config.data.sources[0]).survey()
    shard_facts(config, tmp_path / "out", 0, [Piece(0, part, 0, 1)])
    accepted = storage.read_table(str(tmp_path / "out" / shard_name(0)))
    refused = storage.read_table(str(tmp_path / "out" / "rejected" / shard_name(0)))
    assert (accepted.schema, accepted.num_rows) == (PREPARED_SCHEMA, 0)
    assert (refused.schema, refused.num_rows) == (REJECTED_SCHEMA, 1)


def test_prepare_writes_every_row_as_the_chat_template_has_it(configure, in_this_process):
    config = configure([pair(n) for n in range(7)])
    prepare.run(config)
    manifest, accepted, refused = read_prepared(config)
    assert (manifest.num_rows, manifest.rejected, refused) == (7, {}, [])
    assert response_texts(accepted) == [str(n) for n in range(7)]
    assert {row["source"] for row in accepted} == {"rows.jsonl"}
    assert len({row["example_id"] for row in accepted}) == 7
    tokenizer = open_tokenizer_at("tiny")
    assert tokenizer.decode(accepted[3]["prompt_ids"]) == "<|user|>p3<|assistant|>"


def test_prepare_keeps_refused_rows_with_their_place_and_reason(configure, in_this_process):
    empty, masked = {"prompt": "p", "response": ""}, {"prompt": "p", "response": "<|mask|>"}
    rows = [pair(0), "{broken", {"prompt": "p"}, pair(1, length=99), empty, masked, pair(2)]
    config = configure(rows)
    prepare.run(config)
    manifest, accepted, refused = read_prepared(config)
    reasons = [
        (2, "malformed_json"),
        (3, "malformed_row"),
        (4, "too_long"),
        (5, "empty_response"),
        (6, "mask_token_in_text"),
    ]
    assert [(row["position"], row["reason"]) for row in refused] == reasons
    assert manifest.rejected == {reason: 1 for _, reason in reasons}
    assert refused[0]["line"] == "{broken\n"
    assert refused[2]["response"] == "1" * 99
    assert len(accepted) + len(refused) == len(rows)


def test_prepare_cuts_long_rows_if_told_to_and_counts_them(configure, in_this_process):
    config = configure([pair(0), pair(1, length=99)], too_long="truncate")
    prepare.run(config)
    manifest, accepted, _ = read_prepared(config)
    assert manifest.facts["num_truncated"] == 1
    assert [len(r["prompt_ids"]) + len(r["response_ids"]) for r in accepted] == [6, 40]
    assert manifest.rejected == {}
    # Only of the examples that there are.
    repeated = configure([pair(0), pair(1, length=99), pair(1, length=99)], too_long="truncate")
    prepare.run(repeated, overwrite=True)
    manifest, accepted, _ = read_prepared(repeated)
    assert (manifest.facts["num_truncated"], manifest.num_rows) == (1, 2)


def test_prepare_keeps_the_first_of_equal_rows_over_all_shards(configure, in_this_process):
    order = [0, 1, 0, 2, 1, 0, 3, 3]
    config = configure([pair(n) for n in order], num_shards=4)
    prepare.run(config)
    manifest, accepted, refused = read_prepared(config)
    assert response_texts(accepted) == ["0", "1", "2", "3"]
    assert manifest.num_rows == 4
    assert manifest.rejected == {"duplicate": 4}
    assert Counter(row["reason"] for row in refused) == {"duplicate": 4}
    assert sorted(row["position"] for row in refused) == [3, 5, 6, 8]
    kept = {row["example_id"] for row in accepted}
    assert all(re.search("example ([0-9a-f]+)", row["detail"])[1] in kept for row in refused)


def test_equal_responses_to_other_prompts_are_no_duplicates(configure, in_this_process):
    config = configure([{"prompt": p, "response": "r"} for p in "abc"])
    prepare.run(config)
    assert read_prepared(config)[0].num_rows == 3


def test_repeated_pretraining_text_is_kept(configure, in_this_process):
    sources = (SourceSection(kind="pretraining", count=1200),)
    config = configure([], sources=sources, max_length=256)
    prepare.run(config)
    manifest, accepted, _ = read_prepared(config)
    texts = Counter((tuple(r["prompt_ids"]), tuple(r["response_ids"])) for r in accepted)
    assert max(texts.values()) > 1
    assert manifest.num_rows == 1200
    assert set(manifest.rejected) <= {"benchmark_item", "held_out_item"}


def test_prepare_counts_the_problems_kept_for_evaluation(configure, in_this_process):
    sources = (SourceSection(kind="task", task="countdown", count=120),)
    config = configure([], sources=sources, max_length=256)
    prepare.run(config)
    manifest, _, refused = read_prepared(config)
    held_out = [row for row in refused if row["reason"] == "held_out_item"]
    assert manifest.rejected["held_out_item"] == len(held_out) > 0
    assert all(row["prompt"].startswith("countdown") for row in held_out)


def test_prepare_of_nothing_usable_is_an_error_without_manifest(configure, in_this_process):
    config = configure(["broken", pair(1, length=99)])
    with pytest.raises(DataError, match="not one example could be used") as caught:
        prepare.run(config)
    assert "'malformed_json': 1" in str(caught.value)
    assert "'too_long': 1" in str(caught.value)
    assert artifacts.read_manifest(f"{config.run.output_dir}/prepared") is None


def test_prepare_of_an_empty_or_missing_file_is_an_error_that_creates_nothing(
    configure, in_this_process, tmp_path
):
    with pytest.raises(DataError, match="empty file"):
        prepare.run(configure([]))
    sources = (SourceSection(kind="files", path=str(tmp_path / "none.jsonl")),)
    with pytest.raises(DataError, match="cannot be read"):
        prepare.run(configure([], sources=sources))
    assert not (tmp_path / "run").exists()


def test_prepare_is_done_once_and_repeats_on_demand(configure, in_this_process, capsys):
    config = configure([pair(n) for n in range(5)])
    prepare.run(config)
    before = read_prepared(config)[0]
    prepare.run(config)
    assert "already finished" in capsys.readouterr().out
    prepare.run(config, overwrite=True)
    after = read_prepared(config)[0]
    assert after.content == before.content


def test_prepare_refuses_to_replace_another_configuration(configure, in_this_process):
    config = configure([pair(n) for n in range(5)])
    prepare.run(config)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, max_length=50))
    with pytest.raises(ArtifactError, match=r"config\.data\.max_length: there 40, here 50"):
        prepare.run(other)
    padded = dataclasses.replace(config, data=dataclasses.replace(config.data, tail_max=7))
    prepare.run(padded)  # how training pads is no part of what is prepared
    changed = configure([pair(n) for n in range(6)])
    with pytest.raises(ArtifactError, match=r"inputs\.source_0"):
        prepare.run(changed)


def test_prepare_starts_anew_over_remains_of_an_interrupted_run(configure, in_this_process):
    config = configure([pair(n) for n in range(5)])
    stale = f"{config.run.output_dir}/prepared/{shard_name(77)}"
    storage.write_bytes(stale, b"half a shard")
    storage.write_json(f"{config.run.output_dir}/prepared/{artifacts.RECIPE}", "another")
    prepare.run(config)
    assert not storage.exists(stale)
    assert read_prepared(config)[0].num_rows == 5


def test_prepare_continues_from_the_drafts_that_are_there(configure, in_this_process, monkeypatch):
    config = configure([pair(n) for n in range(9)])
    prepare.run(config)
    whole = read_prepared(config)[0]
    folder = layout(config).prepared
    artifacts.clear(folder)
    made = []

    def draft_two(config, folder, shard, pieces):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(shard)
        return draft_shard(config, folder, shard, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "draft_shard", draft_two)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(config)
    # One of the two is damaged: it is made again, the other is left as it is.
    drafts = [Path(folder) / DRAFTS / shard_name(shard) for shard in made]
    drafts[0].write_bytes(b"torn")
    before = drafts[1].stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", lambda path: None)  # look at the drafts afterwards
        prepare.run(config)
        assert drafts[1].stat().st_mtime_ns == before
    assert read_prepared(config)[0].content == whole.content


def test_prepare_leaves_no_drafts(configure, in_this_process):
    config = configure([pair(n) for n in range(3)])
    prepare.run(config)
    assert not (Path(layout(config).prepared) / DRAFTS).exists()


def test_a_shard_larger_than_a_row_group_has_all_its_rows(configure, in_this_process, monkeypatch):
    monkeypatch.setattr(shards, "_GROUP_ROWS", 4)
    order = [0, 1, 2, 3, 4, 5, 1, 6, 7, 8, 0, 9]
    config = configure([pair(n) for n in order] + ["broken"] * 6, num_shards=1)
    prepare.run(config)
    manifest, accepted, refused = read_prepared(config)
    assert [row["prompt_ids"][1:-1] for row in accepted] == [
        open_tokenizer_at("tiny").encode(f"p{n}") for n in range(10)
    ]
    assert manifest.rejected == {"duplicate": 2, "malformed_json": 6}
    assert [row["position"] for row in refused] == [13, 14, 15, 16, 17, 18, 7, 11]


def test_prepare_mixes_sources_and_keeps_what_it_leaves_out(configure, in_this_process, tmp_path):
    for name, count in (("a", 12), ("b", 30)):
        lines = [json.dumps({"prompt": f"{name}{n}", "response": "r"}) for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    sources = tuple(
        SourceSection(kind="files", path=str(tmp_path / f"{name}.jsonl"), name=name, weight=weight)
        for name, weight in (("a", 2.0), ("b", 1.0))
    )
    config = configure([], sources=sources, num_shards=5)
    prepare.run(config)
    manifest, accepted, refused = read_prepared(config)
    assert Counter(row["source"] for row in accepted) == {"a": 12, "b": 6}
    assert manifest.rejected == {"not_chosen": 24}
    assert {row["file"] for row in refused} == {str(tmp_path / "b.jsonl")}
    card = json.loads((Path(layout(config).prepared) / "card.json").read_text())["sources"]
    assert (card["a"]["num_examples"], card["b"]["rejected"]) == (12, {"not_chosen": 24})


def test_the_card_says_what_the_examples_are(configure, in_this_process):
    config = configure([pair(n, length=length) for n, length in enumerate([1, 15, 16, 99, 99])])
    prepare.run(config)
    manifest, accepted, _ = read_prepared(config)
    card = json.loads((Path(layout(config).prepared) / "card.json").read_text())
    (source,) = card["sources"].values()
    responses = [len(row["response_ids"]) for row in accepted]
    assert responses == [2, 16, 17]  # with the closing EOS
    assert source["response_tokens"] == sum(responses)
    assert source["response_lengths"][:3] == [1, 2, 0]
    assert source["rejected"] == {"too_long": 2}
    assert source["longest"] == manifest.facts["longest"] == 17 + len(accepted[2]["prompt_ids"])
    tokens = sum(len(row["prompt_ids"]) for row in accepted) + sum(responses)
    assert manifest.facts["num_tokens"] == tokens


def test_rows_that_say_what_they_must_not_are_kept_out_and_listed(
    configure, in_this_process, shared_data
):
    lines = (shared_data / "benchmarks" / "gsm8k_test.jsonl").read_text().splitlines()
    question = json.loads(lines[3])["question"]
    config = configure([{"prompt": question, "response": "r"}, pair(1)], max_length=500)
    prepare.run(config)
    manifest, _, refused = read_prepared(config)
    assert manifest.rejected == {"benchmark_overlap": 1}
    assert refused[0]["prompt"] == question
    card = json.loads((Path(layout(config).prepared) / "card.json").read_text())
    (overlap,) = card["benchmark_overlaps"]
    assert (overlap["position"], overlap["source"]) == (1, "rows.jsonl")
    assert "100 % of item 3 of gsm8k" in overlap["detail"]


def test_short_responses_are_kept_out_on_demand(configure, in_this_process):
    config = configure([pair(n, length=n) for n in range(1, 6)], min_response_tokens=4)
    prepare.run(config)
    assert read_prepared(config)[0].rejected == {"too_short": 2}


def test_an_unknown_language_is_refused_with_the_known_ones(configure, in_this_process):
    with pytest.raises(ConfigError, match=r"data\.languages: wanted some of .*en.*, got english"):
        prepare.run(configure([pair(1)], languages=("english",)))
