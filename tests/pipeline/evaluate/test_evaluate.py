"""Evaluation without Ray: names, shards, the held-out set, items that do not touch each other."""

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline import artifacts
from pipeline.artifacts import Manifest
from pipeline.config import EvaluateSection, RatesSection, RunConfig, RunSection, TrainSection
from pipeline.errors import ArtifactError, CheckpointError, ConfigError, DataError
from pipeline.evaluate.actor import evaluate_items
from pipeline.evaluate.decoders import Answer, _with_known_end, open_decoder
from pipeline.evaluate.items import held_out_problems, load_items
from pipeline.evaluate.metrics import training_facts
from pipeline.evaluate.plan import (
    Target,
    checkpoint_path,
    evaluation_name,
    plan_shards,
    plan_targets,
)
from pipeline.evaluate.rows import PARTS, ROW_SCHEMA, PartReader, PartWriter
from pipeline.layout import STATE_FOLDER, layout
from pipeline.models import weights_fingerprint
from pipeline.protocols import decoding
from pipeline.tokenizers import open_tokenizer_at
from pipeline.train import stage
from weft.tasks.base import Problem
from weft.tasks.fingerprints import fingerprint, is_benchmark_item, is_held_out
from weft.tasks.grading.limits import Graders


def make_config(**changes: object) -> RunConfig:
    settings = {"gen_lengths": (16,), "block_length": 8, "steps": 8, "batch_size": 4} | changes
    return dataclasses.replace(
        RunConfig(),
        evaluate=dataclasses.replace(EvaluateSection(), **settings),  # type: ignore[arg-type]
    )


def rows_of(config: RunConfig, problems: list[Any], checkpoint: Path) -> list[dict[str, Any]]:
    """The result rows in the order of the problems."""
    section = config.evaluate
    how = decoding(section, problems[0].task, section.gen_lengths[0])
    with Graders() as graders:
        found = evaluate_items(open_decoder(str(checkpoint), section), problems, how, graders)
        return [row for _, row in sorted(found, key=lambda pair: pair[0])]


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 1.0},
        {"remasking": "random"},
        {"cfg_scale": 0.5},
        {"threshold": 0.02, "cache": "dual", "temperature": 1.0},
    ],
    ids=["greedy", "temperature", "random", "guidance", "fast"],
)
def test_batch_independence_of_result_rows(
    tiny_checkpoint: Path, sampling: dict[str, object]
) -> None:
    """Prompts of several lengths; the random denoiser's confidences lie far apart."""
    items = held_out_problems("countdown", 6)
    together = rows_of(make_config(**sampling), items, tiny_checkpoint)
    single = make_config(batch_size=1, **sampling)
    alone = rows_of(single, items[::-1], tiny_checkpoint)[::-1]
    columns = ("item_id", "generation", "tokens", "unmask_step", "correct", "extracted", "nfe")
    for first, second in zip(together, alone, strict=True):
        assert {name: first[name] for name in columns} == {name: second[name] for name in columns}


def test_rows_say_what_was_decoded_and_how(tiny_checkpoint: Path) -> None:
    tokenizer = open_tokenizer_at(str(tiny_checkpoint))
    items = held_out_problems("sudoku", 5)
    config = make_config(steps=4, temperature=0.5, early_stop=False)
    rows = rows_of(config, items, tiny_checkpoint)
    assert [row["item_id"] for row in rows] == [item.item_id for item in items]
    for row, item in zip(rows, items, strict=True):
        assert item.data["puzzle"] in row["prompt"]
        assert row["generation"] == tokenizer.decode(row["tokens"])
        assert (row["nfe"], row["whole_passes"], row["gen_length"]) == (4, 4, 16)
        assert sorted(set(row["unmask_step"])) == [0, 1, 2, 3]
        assert (row["protocol"], row["prompt_style"], row["steps"]) == ("own", "compact", 4)
        assert (row["temperature"], row["cache"], row["early_stop"]) == (0.5, "none", False)
        assert json.loads(row["details"])["num_blanks"] == 8
        assert 0 < row["seconds"] <= row["latency"]
        assert set(row) < set(ROW_SCHEMA.names)


@pytest.mark.parametrize(
    ("wanted", "changes", "name"),
    [
        ("base", {}, "base"),
        ("sft", {}, "sft"),
        ("/models/LLaDA-8B/", {}, "LLaDA-8B"),
        ("base", {"data_dir": "/data/benchmarks"}, "base-benchmarks"),
        ("weft", {"data_dir": "/data/benchmarks/"}, "weft-benchmarks"),
        ("weft", {"name": "mine"}, "mine"),
        ("weft", {"name": "mine", "checkpoints": ("sft", "weft")}, "mine-weft"),
        ("weft", {"gen_lengths": (16, 32)}, "weft-16"),
    ],
)
def test_an_evaluation_is_named_after_checkpoint_data_and_length(
    wanted: str, changes: dict[str, object], name: str
) -> None:
    assert evaluation_name(make_config(**changes), wanted, 16) == name


TARGET = Target("base", "tiny", 16, "folder", Manifest(stage="evaluate", config={}, inputs={}))


def test_items_can_be_kept_for_another_purpose() -> None:
    section = EvaluateSection(num_items=4)
    first, rest = (
        load_items(section, "sudoku"),
        dataclasses.replace(section, num_items=3, skip_items=4),
    )
    assert load_items(rest, "sudoku") == held_out_problems("sudoku", 7)[4:]
    assert not {p.item_id for p in first} & {p.item_id for p in load_items(rest, "sudoku")}


@pytest.mark.parametrize("num_items", [1, 4, 5, 16, 37])
@pytest.mark.parametrize("num_actors", [1, 3])
def test_shards_cover_the_missing_items_once_in_whole_batches(
    num_items: int, num_actors: int
) -> None:
    section = make_config(num_actors=num_actors).evaluate
    missing = {"sudoku": range(num_items), "countdown": [2, 5], "gsm8k": []}
    lengths = {
        "sudoku": [7 * k % 5 for k in range(num_items)],
        "countdown": [1] * 6,
        "gsm8k": [1] * 4,
    }
    shards = list(plan_shards(section, TARGET, missing, lengths))
    for task, positions in missing.items():
        mine = [shard for shard in shards if shard.task == task]
        covered = [k for shard in mine for k in shard.positions]
        assert sorted(covered) == list(positions)
        assert [lengths[task][k] for k in covered] == sorted(lengths[task][k] for k in positions)
        assert all(len(shard.positions) % 4 == 0 for shard in mine[:-1])
        assert len(mine) <= 2 * num_actors


def test_every_checkpoint_at_every_length_is_an_evaluation(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    config = make_config(checkpoints=("base", str(other)), gen_lengths=(16, 32), tasks=("sudoku",))
    items = {"sudoku": held_out_problems("sudoku", 2)}
    targets = plan_targets(config, items)
    assert [t.name for t in targets] == ["base-16", "base-32", "other-16", "other-32"]
    assert len({t.wanted.recipe for t in targets}) == 4
    # One of them alone is the same evaluation.
    alone = make_config(checkpoints=("base",), gen_lengths=(32,), tasks=("sudoku",), batch_size=1)
    assert plan_targets(alone, items)[0].wanted.recipe == targets[1].wanted.recipe


def test_checkpoints_of_one_name_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folders = [tmp_path / seed / "weft" for seed in ("0", "1")]
    for folder in folders:
        shutil.copytree(tiny_checkpoint, folder)
    config = make_config(checkpoints=tuple(map(str, folders)))
    with pytest.raises(
        ConfigError, match=r"names of their own, got weft for several; .*one by one"
    ):
        plan_targets(config, {"sudoku": held_out_problems("sudoku", 2)})


def test_what_is_asked_for_in_other_words_is_the_same_evaluation(tiny_checkpoint: Path) -> None:
    path = str(tiny_checkpoint)
    items = {"sudoku": held_out_problems("sudoku", 3)}
    settings = {"checkpoints": (path,), "gen_lengths": (64,), "tasks": ("sudoku",)}
    one = make_config(**settings, block_length=0, steps=0)
    other = make_config(**settings, block_length=32, steps=32)
    backwards = {"sudoku": items["sudoku"][::-1]}
    recipes = {plan_targets(c, i)[0].wanted.recipe for c, i in ((one, items), (other, backwards))}
    assert len(recipes) == 1


def row(task: str, position: int) -> dict[str, Any]:
    return {"task": task, "position": position, "item_id": f"{task}-{position}", "correct": True}


def test_rows_are_there_once_they_are_written_and_read_once(tmp_path: Path) -> None:
    folder = str(tmp_path)
    writer, reader = PartWriter(folder), PartReader(folder)
    assert reader.poll() == []
    for position in (3, 1):
        writer.add(row("sudoku", position))
    writer.flush()
    writer.add(row("countdown", 3))
    writer.flush()
    writer.flush()  # nothing more
    assert [r["item_id"] for r in reader.poll()] == ["countdown-3", "sudoku-3", "sudoku-1"]
    assert reader.poll() == []
    assert len(PartReader(folder).poll()) == 3


def test_rows_that_come_together_are_all_written_within_a_second(tmp_path: Path) -> None:
    """Also those behind which no other one comes: a batch that ends at once, and then a kill."""
    writer, reader = PartWriter(str(tmp_path)), PartReader(str(tmp_path))
    for position in range(16):
        writer.add(row("sudoku", position))
    deadline = time.monotonic() + 30
    found: list[dict[str, Any]] = []
    while len(found) < 16 and time.monotonic() < deadline:
        found += reader.poll()
        time.sleep(0.05)
    assert [r["position"] for r in found] == list(range(16))
    assert len(list((tmp_path / PARTS).iterdir())) == 1


def test_rows_that_cannot_be_written_end_the_job(tmp_path: Path) -> None:
    (tmp_path / PARTS).write_text("no folder")
    writer = PartWriter(str(tmp_path))
    writer.add(row("sudoku", 0))
    with pytest.raises(ArtifactError, match="cannot be written"):
        writer.flush()


def test_a_file_of_rows_that_is_cut_in_the_middle_counts_as_not_there(tmp_path: Path) -> None:
    writer = PartWriter(str(tmp_path))
    for task in ("sudoku", "countdown"):
        writer.add(row(task, 0))
        writer.flush()
    (cut,) = (tmp_path / PARTS).glob("sudoku-*")
    cut.write_bytes(cut.read_bytes()[:-10])
    reader = PartReader(str(tmp_path))
    assert [r["task"] for r in reader.poll()] == ["countdown"]
    writer.add(row("sudoku", 0))
    writer.flush()  # again, under the same name
    assert [r["task"] for r in reader.poll()] == ["sudoku"]


@pytest.mark.parametrize("task", ["sudoku", "countdown"])
def test_held_out_problems_are_distinct_and_no_benchmark_items(task: str) -> None:
    problems = held_out_problems(task, 40)
    assert len({fingerprint(problem) for problem in problems}) == 40
    assert all(is_held_out(p) and not is_benchmark_item(p) for p in problems)
    assert held_out_problems(task, 10) == problems[:10]


def test_a_benchmark_folder_without_its_file_is_named(tmp_path: Path) -> None:
    section = make_config(data_dir=str(tmp_path)).evaluate
    with pytest.raises(DataError, match=r"evaluate\.data_dir: .*sudoku_4x4_test\.jsonl"):
        load_items(section, "sudoku")


def test_benchmark_items_are_all_or_the_first(shared_data: Path) -> None:
    folder = str(shared_data / "benchmarks")
    everything = load_items(make_config(data_dir=folder, num_items=3).evaluate, "countdown")
    first = load_items(make_config(data_dir=folder, benchmark_items=7).evaluate, "countdown")
    assert len(everything) == 256
    assert first == everything[:7]


def test_the_protocol_d1_takes_its_items_in_its_order(shared_data: Path) -> None:
    folder = str(shared_data / "benchmarks")
    section = make_config(data_dir=folder, protocol="d1").evaluate
    sudoku, countdown, gsm8k = (load_items(section, t) for t in ("sudoku", "countdown", "gsm8k"))
    assert (len(sudoku), len(countdown), len(gsm8k)) == (256, 256, 1319)
    assert sudoku[0].item_id == "sudoku4x4-361"  # the first of the oracle
    assert sudoku[0] != load_items(make_config(data_dir=folder).evaluate, "sudoku")[0]
    assert gsm8k[0].item_id == "gsm8k-test-0"
    first = dataclasses.replace(section, benchmark_items=2)
    assert load_items(first, "sudoku") == sudoku[:2]


def test_the_protocol_d1_refuses_a_file_with_fewer_items(shared_data: Path, tmp_path: Path) -> None:
    name = "countdown_cd3_test.jsonl"
    lines = (shared_data / "benchmarks" / name).read_text().splitlines(keepends=True)
    (tmp_path / name).write_text("".join(lines[:255]))
    section = make_config(data_dir=str(tmp_path), protocol="d1").evaluate
    with pytest.raises(
        DataError, match="at least the 256 items that the protocol d1 draws, got 255"
    ):
        load_items(section, "countdown")


def test_an_end_of_another_name_ends_a_text_for_the_graders(tiny_checkpoint: Path) -> None:
    class Chatty:
        def decode(self, prompts: Any, item_ids: Any, how: Any) -> Any:
            text = "\\boxed{4}<|im_end|>\n\\boxed{5}"
            gradable = _with_known_end(text, "<|im_end|>")
            numbers = {"num_tokens": 1, "nfe": 1, "whole_passes": 1, "seconds": 1.0, "latency": 1.0}
            yield Answer(0, text, gradable, tokens=[1], unmask_step=[0], **numbers)

    problem = Problem("gsm8k", "g", {"question": "?", "answer": "4"})
    how = decoding(make_config().evaluate, "gsm8k", 16)
    with Graders() as graders:
        ((_, found),) = evaluate_items(Chatty(), [problem], how, graders)
    assert (found["extracted"], found["correct"]) == ("4", True)
    assert found["generation"].endswith("\\boxed{5}")


def test_a_hub_that_cannot_be_reached_says_how_to_do_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    what, remedy = (
        r"benchmark gsm8k: datasets cannot",
        r"put gsm8k_test\.jsonl .* as evaluate\.data_dir",
    )
    message = rf"openai/gsm8k .*{what} .*{remedy}"
    with pytest.raises(DataError, match=message):
        load_items(make_config().evaluate, "gsm8k")


def test_a_checkpoint_that_was_never_trained_is_named(tmp_path: Path) -> None:
    config = make_config()  # weft is also the name of a folder of the source tree
    config = dataclasses.replace(
        config, run=dataclasses.replace(config.run, output_dir=str(tmp_path))
    )
    (tmp_path / "checkpoints" / "sft").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"wanted one of sft, tiny.*got weft; jobs/train\.py"):
        checkpoint_path(config, "weft")
    assert checkpoint_path(config, "tiny") == "tiny"
    assert checkpoint_path(config, "base") == config.model.path


def test_training_facts_tell_a_seed_from_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Manifest(stage="prepare", config={}, inputs={}, num_rows=8)
    monkeypatch.setattr(stage, "require_prepared", lambda config: prepared)

    def facts(name: str, seed: int, epochs: int) -> dict[str, object]:
        config = RunConfig(
            run=RunSection(seed=seed, output_dir=str(tmp_path)),
            train=TrainSection(name=name, epochs=epochs, batch_size=1, warmup_steps=0),
            rates=RatesSection(gamma=0.0),
        )
        folder = layout(config).checkpoint(name)
        artifacts.commit(folder, stage.wanted_manifest(config))
        return training_facts(folder)

    first, again, longer = facts("a", 0, 5), facts("b", 1, 5), facts("c", 0, 6)
    assert (first["path"], first["seed"], again["seed"]) == ("a", 0, 1)
    assert first["recipe"] != again["recipe"]
    assert first["recipe_but_seed"] == again["recipe_but_seed"] != longer["recipe_but_seed"]


def test_an_unfinished_or_damaged_checkpoint_of_ours_is_no_model(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(tiny_checkpoint, ours)
    whole = weights_fingerprint(str(ours))
    (ours / STATE_FOLDER).mkdir()
    with pytest.raises(ArtifactError, match=r"run jobs/train\.py to the end"):
        weights_fingerprint(str(ours))
    weights = ours / "model.safetensors"
    files = {weights.name: artifacts.file_entry(str(weights))}
    artifacts.commit(str(ours), Manifest(stage="train", config={}, inputs={}, files=files))
    assert weights_fingerprint(str(ours)) == whole
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        weights_fingerprint(str(ours))
