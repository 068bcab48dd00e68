"""The report over a small run folder, written with the artifact functions: no Ray, no training."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import artifacts, report, storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig, RunSection
from pipeline.errors import ArtifactError
from pipeline.evaluate.rows import ROW_SCHEMA
from pipeline.prepare.card import SourceCard, write_card
from pipeline.prepare.shards import PREPARED_SCHEMA
from pipeline.reference.entropies import ENTROPY_SCHEMA
from pipeline.report import stage
from pipeline.report.data import TokenReader, read_run
from pipeline.report.results import objective_name
from pipeline.tables import METRIC_COLUMNS

EOS = 3
WEIGHTS = b"weights"
RESPONSES = {"sudoku": "12<34", "countdown": "9-4\n=5"}


def char_reader(model: object = None) -> TokenReader:
    """One character a token, its code point as id; EOS reads <eos>."""

    def decode(ids: list[int]) -> str:
        return "".join("<eos>" if i == EOS else chr(i) for i in ids)

    return TokenReader(decode, EOS, "characters")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(stage, "open_reader", char_reader)
    return RunConfig(run=RunSection(name="small", output_dir=str(tmp_path / "run")))


def commit(folder: str, stage: str, **values: Any) -> Manifest:
    names = [name for name in storage.list_files(folder) if name != artifacts.MANIFEST]
    files = {name: artifacts.file_entry(storage.join(folder, name)) for name in names}
    inputs = {"tokenizer": "characters"} | values.pop("inputs", {})
    config = values.pop("config", {})
    manifest = Manifest(stage=stage, config=config, inputs=inputs, files=files, **values)
    artifacts.commit(folder, manifest)
    return manifest


def add_data(config: RunConfig) -> None:
    """Prepared examples and entropies: one example of each source."""
    root = config.run.output_dir
    rows = [
        {
            "example_id": f"id-{source}",
            "prompt_ids": [ord(c) for c in f"solve {source}"],
            "response_ids": [*map(ord, text), EOS],
            "source": source,
        }
        for source, text in RESPONSES.items()
    ]
    table = pa.Table.from_pylist(rows, schema=PREPARED_SCHEMA)
    storage.write_table(f"{root}/prepared/part-00000.parquet", table)
    rejected = {"too_long": 7}
    cards = SourceCard.of_table(table)
    overlaps = [{"source": "sudoku", "file": "a.jsonl", "position": 3, "detail": "<b>shared</b>"}]
    counts = {"sudoku": {"too_long": 7, "benchmark_overlap": 1}}
    write_card(f"{root}/prepared", cards, counts, overlaps)
    prepared = commit(f"{root}/prepared", "prepare", num_rows=2, rejected=rejected)
    values = [
        {
            "example_id": row["example_id"],
            # Entropies 1, 4, 9, ...: their square roots 1, 2, 3, ... have a mean known by hand.
            "entropy": [float((k + 1) ** 2) for k in range(len(row["response_ids"]))],
            "tail_entropy": [0.0],
        }
        for row in rows
    ]
    entropies = pa.Table.from_pylist(values, schema=ENTROPY_SCHEMA)
    storage.write_table(f"{root}/entropies/part-00000.parquet", entropies)
    inputs = {"prepared": prepared.content}
    commit(f"{root}/entropies", "reference", num_rows=2, inputs=inputs, facts={"seconds": 12.5})


def add_checkpoint(config: RunConfig, name: str) -> Manifest:
    folder = f"{config.run.output_dir}/checkpoints/{name}"
    history = [
        {"step": k, "epoch": 0, "loss": 3.25 / k, "nll": 2.0 / k, "clamp_rate": 0.01}
        | {"tokens_per_second": 900.0, "nll_bin_0": 0.5, "nll_bin_9": 1.5}
        for k in (1, 2, 4)
    ]
    lines = "".join(json.dumps(values) + "\n" for values in history)
    storage.write_bytes(f"{folder}/metrics.jsonl", lines.encode())
    storage.write_bytes(f"{folder}/config.json", b"{}")
    storage.write_bytes(f"{folder}/model.safetensors", WEIGHTS)
    recipe, _, seed = name.partition("-")
    return commit(folder, "train", config={"train": recipe, "run": {"seed": int(seed or 0)}})


def add_evaluation(
    config: RunConfig,
    name: str,
    correct: list[bool],
    *,
    generation: str = "<script>alert(1)</script>",
    checkpoint: str = "",
    recipe: str = "",
    seed: int = 0,
    is_of_this_run: bool = True,
    weights: bytes = WEIGHTS,
    gen_length: int = 32,
) -> None:
    folder = f"{config.run.output_dir}/evaluations/{name}"
    tokens = [*map(ord, generation), EOS, EOS, EOS]
    rows = [
        {
            "task": "sudoku",
            "item_id": f"item-{number}",
            "prompt": "sudoku <b>1</b>",
            "generation": generation,
            "extracted": "1234",
            "correct": verdict,
            "d1_correct": verdict,
            "timed_out": False,
            "tokens": tokens,
            "unmask_step": list(range(len(tokens))),
            "nfe": 64,
            "seconds": 0.5,
            "gen_length": len(tokens),
            "seed": 0,
        }
        for number, verdict in enumerate(correct)
    ]
    table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
    storage.write_table(f"{folder}/sudoku-00000.parquet", table)
    accuracy = sum(correct) / len(correct)
    values = {
        "num_items": len(correct),
        "accuracy": accuracy,
        "interval": [max(0.0, accuracy - 0.125), min(1.0, accuracy + 0.125)],
        "headline": "solved",
        "d1_accuracy": 0.8125,
        "nfe": 64,
        "seconds": 0.5 * len(correct),
        "tokens_per_second": 222.2,
        "latency": 2.25,
        "cell_accuracy": 0.9375,
        "valid_rate": 0.7,
        "unique_only": {"num_items": 3, "accuracy": 0.3333},
    }
    trained = {"path": checkpoint or name, "seed": seed}
    trained |= {"eos_policy": "random_tail", "tail_max": 192}
    trained |= {"recipe_but_seed": name.partition("-")[0], "is_of_this_run": is_of_this_run}
    trained |= {"rates": {"gamma": 0.5}, "objective": {"normalizer": "tokens"}}
    trained |= {"recipe": recipe} if recipe else {}
    metrics = {
        "name": name,
        "checkpoint": {"path": "tiny"} if name == "base" else trained,
        "sampler": {"gen_length": gen_length, "steps": 64},
        "tasks": {"sudoku": values},
    }
    storage.write_json(f"{folder}/metrics.json", metrics)
    contents = {"config.json": b"{}", "model.safetensors": weights}
    checksums = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    inputs = {
        "items_sudoku": artifacts.fingerprint("held-out"),
        "weights": artifacts.weights_identity(checksums, ""),
    }
    commit(folder, "evaluate", num_rows=len(rows), inputs=inputs, facts={"seconds": 3.0})


def page_of(config: RunConfig) -> str:
    return Path(config.run.output_dir, "report", "index.html").read_text(encoding="utf-8")


class _Balance(HTMLParser):
    """Fails on a closing tag that closes nothing or something else."""

    VOID = ("meta", "br", "path", "use", "link", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parse(page: str) -> _Balance:
    parser = _Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def full_run(config: RunConfig) -> RunConfig:
    fill(config)
    return config


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run, made once for the tests that only read it."""
    folder = str(tmp_path_factory.mktemp("report") / "run")
    config = RunConfig(run=RunSection(name="small", output_dir=folder))
    fill(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "open_reader", char_reader)
        report.run(config)
    return page_of(config)


def fill(config: RunConfig) -> None:
    add_data(config)
    add_checkpoint(config, "sft")
    add_checkpoint(config, "weft")
    add_evaluation(config, "base", [False] * 16)
    add_evaluation(config, "sft", [True] * 8 + [False] * 8)
    add_evaluation(config, "weft", [True] * 14 + [False] * 2)


def test_report_is_one_page_that_needs_nothing_else(full_page: str) -> None:
    parsed = parse(full_page)
    assert parsed.links
    assert all(link.startswith("#") for link in parsed.links)
    assert not {"link", "img", "iframe", "object"} & parsed.tags
    assert "@import" not in full_page
    assert not re.search(r"url\((?!#)", full_page)


@pytest.mark.parametrize(
    ("rates", "objective", "name"),
    [
        ({"gamma": 0.5, "entropies": "frozen", "estimator": "full_mask"}, {"name": "weft"}, "weft"),
        ({"gamma": 0, "entropies": "frozen"}, {"name": "token_weights"}, "sft"),
        ({"gamma": 1, "entropies": "online"}, {"weighting": "elbo"}, "weft elbo online"),
        ({"gamma": 1, "estimator": "nll"}, {"name": "token_weights"}, "token_weights nll"),
        ({"gamma": 0.5}, {"name": "lift", "weighting": "paper"}, "lift"),
        (None, None, "-"),
    ],
)
def test_an_objective_has_a_name(rates, objective, name) -> None:
    trained = {"rates": rates, "objective": objective and objective | {"normalizer": "x"}}
    assert objective_name(trained) == name


def test_report_shows_results_with_policy_and_normaliser_in_each_row(full_page: str) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", full_page, re.S)
    weft = next(r for r in rows if "<td>weft</td><td>16</td>" in r)
    cells = re.findall(r"<td>(.*?)</td>", weft, re.S)
    assert cells[:5] == ["sudoku", "weft", "16", "87.5 %", "75.0 - 100.0 %"]
    assert cells[5:9] == ["64", "222", "0.500", "2.250"]
    assert cells[9] == "81.2 %"
    assert cells[10:] == ["weft", "0.5", "tokens", "random_tail 192", "0"]
    base = next(r for r in rows if "<td>base</td><td>16</td>" in r)
    assert base.count("<td>-</td>") == 5


def test_report_has_a_table_of_each_tasks_own_measures(full_page: str) -> None:
    heads = re.findall(r"<thead><tr>(.*?)</tr>", full_page, re.S)
    wanted = ["cell accuracy", "unique only accuracy", "unique only num items", "valid rate"]
    assert ["method", *wanted] in [re.findall(r"<th>(.*?)</th>", head) for head in heads]
    rows = [re.findall(r"<td>(.*?)</td>", r) for r in re.findall(r"<tr>(.*?)</tr>", full_page)]
    assert ["weft", "93.8 %", "33.3 %", "3", "70.0 %"] in rows


def scripts(page: str) -> list[tuple[str, str]]:
    """Attributes and content of every script element."""
    return re.findall(r"<script(.*?)>(.*?)</script>", page, re.S)


def test_the_page_runs_its_own_script_alone(full_page: str) -> None:
    data, others = [], []
    for attributes, content in scripts(full_page):
        (data if "application/json" in attributes else others).append(content)
    assert [isinstance(json.loads(content), list) for content in data] == [True, True]
    (own,) = others
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in full_page
    )
    assert "innerHTML" not in own


def test_report_escapes_text_of_the_data(full_page: str) -> None:
    assert "<script>alert" not in full_page
    assert "\\u003cscript\\u003ealert(1)" in full_page  # in the data of the wrong answers
    assert "sudoku &lt;b&gt;1&lt;/b&gt;" in full_page
    assert ">&lt;</span>" in full_page  # a token of the generations and of a trace


def test_report_paints_every_response_token_with_entropy_and_rate(full_page: str) -> None:
    titles = re.findall(r'<span class="t e\d+" title="(.*?)">', full_page)
    num_tokens = sum(len(text) + 1 for text in RESPONSES.values())
    assert len(titles) == num_tokens
    # sudoku: 6 tokens, square roots 1..6, mean 3.5; the last rate is 6 / 3.5.
    assert "36.0000 nats, relative rate 1.714" in titles
    # countdown: 7 tokens, square roots 1..7, mean 4.
    assert "1.0000 nats, relative rate 0.250" in titles


def test_report_paints_the_order_of_unmasking_and_folds_eos(config: RunConfig) -> None:
    add_evaluation(config, "sft", [True, False], generation="ab")
    report.run(config)
    page = page_of(config)
    shown = re.findall(r'<span class="t o\d+( eos)?" title="(.*?)">(.*?)</span>', page)
    eos = (" eos", "3 end-of-sequence tokens, unmasked in steps 2 to 4", "3 EOS")
    one = [("", "unmasked in step 0", "a"), ("", "unmasked in step 1", "b"), eos]
    assert shown == one + one
    assert page.count("✓ correct") == page.count("✗\nincorrect") == 1


def test_report_has_the_data_card(full_page: str) -> None:
    section = full_page[full_page.index('id="data"') : full_page.index('id="learning"')]
    length = len(RESPONSES["sudoku"]) + 1
    row = ["sudoku", "1", "12.0 each", f"{length:.1f} each", str(12 + length), "8 of 9"]
    assert "".join(f"<td>{cell}</td>" for cell in row) in section
    assert "<td>sudoku</td><td>too_long</td><td>7</td>" in section
    assert "<td>sudoku</td><td>a.jsonl 3</td><td>&lt;b&gt;shared&lt;/b&gt;</td>" in section
    assert section.count("<svg") == 1


def test_report_shows_curves_counts_and_times(full_page: str) -> None:
    # Data, learning (2), entropies, rates, accuracies and accuracies by forward passes.
    assert full_page.count("<svg") == 7
    assert "<td>0.8125</td>" in full_page  # last loss, 3.25 / 4
    assert "too_long 7" in full_page
    assert "<td>12.5</td>" in full_page  # seconds of the reference pass


def test_report_of_evaluations_only_says_what_is_missing(config: RunConfig) -> None:
    add_evaluation(config, "base", [True, False])
    storage.write_bytes(f"{config.run.output_dir}/checkpoints/weft/metrics.jsonl", b"")
    report.run(config)
    page = page_of(config)
    parse(page)
    assert "There are no prepared data in this run" in page
    assert "There are no finished checkpoints" in page
    assert "Unfinished or out of date, and left out: checkpoints/weft." in page
    assert "nothing named sft ran on the same items" in page


def test_report_leaves_out_evaluations_of_a_checkpoint_that_was_trained_anew(
    config: RunConfig,
) -> None:
    manifest = add_checkpoint(config, "weft")
    add_evaluation(config, "weft", [True, False], recipe=manifest.recipe)
    add_evaluation(config, "weft-again", [True], checkpoint="weft", recipe="another")
    # The same recipe on another machine may come to other weights.
    again = {"checkpoint": "weft", "recipe": manifest.recipe}
    add_evaluation(config, "weft-repeated", [True], weights=b"former", **again)
    # A checkpoint of that name from elsewhere is another one.
    add_evaluation(config, "foreign", [True], checkpoint="weft", recipe="x", is_of_this_run=False)
    found = read_run(config)
    assert [e.name for e in found.evaluations] == ["foreign", "weft"]
    assert found.unfinished == [
        f"evaluations/weft-{name} (its checkpoint was trained anew since)"
        for name in ("again", "repeated")
    ]


def test_report_takes_seeds_together(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (sft, weft) in enumerate((([True, False], [True, True]), ([False] * 2, [True] * 2))):
        add_evaluation(config, f"sft-{seed}", sft, seed=seed)
        add_evaluation(config, f"weft-{seed}", weft, seed=seed)
    report.run(config)
    row = ("sudoku", "weft", "0, 1", "100.0 %", "100.0, 100.0", "sft", "+75.0 points")
    assert "".join(f"<td>{cell}</td>" for cell in row) in page_of(config)
    assert "Over seeds" in page_of(config)
    assert "+50.0, +100.0" in capsys.readouterr().out


def test_report_of_data_only(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    add_data(config)
    report.run(config)
    parse(page_of(config))
    assert "There are no evaluations in this run" in page_of(config)
    assert "no evaluation yet" in capsys.readouterr().out


def test_report_of_nothing_says_what_to_run(config: RunConfig) -> None:
    with pytest.raises(ArtifactError, match=r"got none; run jobs/prepare\.py"):
        report.run(config)
    assert not Path(config.run.output_dir, "report").exists()
    assert "nothing yet" in report.describe(config)


def test_report_prints_table_and_path_last(
    full_run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    report.run(full_run)
    lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == list(METRIC_COLUMNS)
    assert [line.split()[1] for line in lines[2:5]] == ["base", "sft", "weft"]
    assert lines[-1] == f"{full_run.run.output_dir}/report/index.html"
    assert len(lines) == 6


def test_report_is_reused_until_its_inputs_change(
    full_run: RunConfig, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report.run(full_run)
    before = page_of(full_run)
    report.run(full_run)
    assert "already finished" in capsys.readouterr().out
    assert caplog.messages == ["report is made, because there is none yet"]
    add_evaluation(full_run, "weft-s1", [True] * 16)
    report.run(full_run)
    assert "its inputs changed: evaluations/weft-s1" in caplog.messages[-1]
    assert "weft-s1" in page_of(full_run)
    assert "weft-s1" not in before


def test_report_is_made_again_with_overwrite_or_when_damaged_to_the_same_bytes(
    full_run: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report.run(full_run)
    before = page_of(full_run)
    path = f"{full_run.run.output_dir}/report/index.html"
    storage.write_bytes(path, b"half")
    report.run(full_run)
    assert "truncated or changed" in caplog.messages[-1]
    assert page_of(full_run) == before
    report.run(full_run, overwrite=True)
    assert page_of(full_run) == before
    assert len(caplog.messages) == 3


def test_report_refuses_a_damaged_artifact(full_run: RunConfig) -> None:
    storage.write_bytes(f"{full_run.run.output_dir}/entropies/part-00000.parquet", b"PAR1")
    with pytest.raises(ArtifactError, match="truncated or changed"):
        report.run(full_run)
    assert not Path(full_run.run.output_dir, "report").exists()


def test_report_does_not_paint_entropies_of_other_data(full_run: RunConfig) -> None:
    folder = f"{full_run.run.output_dir}/entropies"
    commit(folder, "reference", num_rows=2, inputs={"prepared": "another"})
    report.run(full_run)
    assert "The entropies were computed for other data" in page_of(full_run)


def test_report_shows_ids_where_the_tokenizer_is_another(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(char_reader(), fingerprint="another")
    monkeypatch.setattr(stage, "open_reader", lambda model: other)
    add_evaluation(config, "sft", [True], generation="<script>a")
    report.run(config)
    page = page_of(config)
    assert f">[{ord('a')}]</span>" in page
    assert "made with another tokenizer" in page
    # Without token texts, the row's own text is shown.
    assert "<pre>&lt;script&gt;a</pre>" in page
    assert "<script>a" not in page


def test_report_lists_what_either_grader_calls_wrong(full_page: str) -> None:
    (found,) = [json.loads(c) for a, c in scripts(full_page) if "failures-data" in a]
    assert {(row["evaluation"], row["item"]) for row in found if row["evaluation"] == "weft"} == {
        ("weft", "item-14"),
        ("weft", "item-15"),
    }
    assert found[0]["evaluation"] == "base"
    assert {"prompt", "generation", "extracted", "strict", "d1", "timed_out"} < found[0].keys()


def test_report_draws_accuracy_by_length_where_there_are_several(config: RunConfig) -> None:
    for length in (64, 128):
        name = f"weft-{length}"
        add_evaluation(config, name, [True, False], checkpoint="weft", gen_length=length)
    report.run(config)
    assert "accuracy by length of the canvas: sudoku" in page_of(config)


def test_report_draws_seeds_of_one_recipe_together(config: RunConfig) -> None:
    for name in ("sft-0", "sft-1", "weft-0"):
        add_checkpoint(config, name)
    report.run(config)
    assert "sft (mean of 2 seeds)" in page_of(config)
    assert "learning curves of sft, weft-0" in page_of(config)


def test_report_shows_further_runs_under_their_names(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(
        config, run=dataclasses.replace(config.run, output_dir=str(tmp_path / "other"))
    )
    add_evaluation(config, "sft", [True, False])
    add_evaluation(other, "weft", [True, True])
    add_checkpoint(other, "weft")
    section = dataclasses.replace(config.report, runs=(other.run.output_dir,))
    report.run(dataclasses.replace(config, report=section))
    assert "other/weft" in capsys.readouterr().out
    page = page_of(config)
    assert "<td>other/weft</td><td>sft</td>" in page  # compared over the runs
    assert "checkpoints/other/weft" in page
    nothing = dataclasses.replace(config.report, runs=(str(tmp_path / "none"),))
    with pytest.raises(ArtifactError, match=r"report\.runs: .*none: wanted the output folder"):
        report.run(dataclasses.replace(config, report=nothing))
