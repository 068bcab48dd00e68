"""Evaluation without Ray: names, shards, the held-out set, items that do not touch each other."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.artifacts import Manifest
from pipeline.config import EvaluateSection, RatesSection, RunConfig, RunSection, TrainSection
from pipeline.decode_shard import evaluate_items
from pipeline.errors import ArtifactError, CheckpointError, DataError
from pipeline.evaluate import (
    evaluation_name,
    plan_shards,
    resolve_checkpoint_name,
    training_facts,
)
from pipeline.items import held_out_problems, load_items
from pipeline.layout import STATE_FOLDER, layout
from pipeline.models import open_denoiser, weights_fingerprint
from pipeline.tokenizers import open_tokenizer_at
from pipeline.train import stage
from weft.tasks.fingerprints import fingerprint, is_benchmark_item, is_held_out


def make_config(**changes: object) -> RunConfig:
    settings = {"gen_length": 16, "block_length": 8, "steps": 8, "batch_size": 4} | changes
    return dataclasses.replace(
        RunConfig(),
        evaluate=dataclasses.replace(EvaluateSection(), **settings),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 1.0}, {"remasking": "random"}, {"cfg_scale": 0.5}],
    ids=["greedy", "temperature", "random", "guidance"],
)
def test_an_item_decodes_alike_alone_and_in_any_batch(
    tiny_checkpoint: Path, sampling: dict[str, object]
) -> None:
    """Prompts of several lengths; the random denoiser's confidences lie far apart."""
    path = str(tiny_checkpoint)
    denoiser, tokenizer = open_denoiser(path), open_tokenizer_at(path)
    items = held_out_problems("countdown", 6)
    together = evaluate_items(denoiser, tokenizer, "countdown", items, make_config(**sampling))
    single = make_config(batch_size=1, **sampling)
    alone = evaluate_items(denoiser, tokenizer, "countdown", items[::-1], single)[::-1]
    columns = ("item_id", "generation", "tokens", "unmask_step", "correct", "extracted", "nfe")
    for first, second in zip(together, alone, strict=True):
        assert {name: first[name] for name in columns} == {name: second[name] for name in columns}


def test_rows_say_what_was_decoded(tiny_checkpoint: Path) -> None:
    path = str(tiny_checkpoint)
    denoiser, tokenizer = open_denoiser(path), open_tokenizer_at(path)
    items = held_out_problems("sudoku", 5)
    rows = evaluate_items(denoiser, tokenizer, "sudoku", items, make_config(steps=4, seed=3))
    assert [row["item_id"] for row in rows] == [item.item_id for item in items]
    for row, item in zip(rows, items, strict=True):
        assert item.data["puzzle"] in row["prompt"]
        assert row["generation"] == tokenizer.decode(row["tokens"])
        assert (row["nfe"], row["gen_length"], row["seed"]) == (4, 16, 3)
        assert sorted(set(row["unmask_step"])) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "base"),
        ({"checkpoint": "sft"}, "sft"),
        ({"checkpoint": "/models/LLaDA-8B/"}, "LLaDA-8B"),
        ({"data_dir": "/data/benchmarks"}, "base-benchmarks"),
        ({"checkpoint": "weft", "data_dir": "/data/benchmarks/"}, "weft-benchmarks"),
        ({"checkpoint": "weft", "name": "mine"}, "mine"),
    ],
)
def test_an_evaluation_is_named_after_checkpoint_and_data(
    changes: dict[str, object], wanted: str
) -> None:
    assert evaluation_name(make_config(**changes)) == wanted


@pytest.mark.parametrize("num_items", [1, 4, 5, 16, 37])
@pytest.mark.parametrize("num_actors", [1, 3])
def test_shards_cover_the_items_once_in_whole_batches(num_items: int, num_actors: int) -> None:
    config = make_config(num_actors=num_actors)
    shards = list(plan_shards(config, {"a": [None] * num_items, "b": [None] * 3}))
    assert len({shard.name for shard in shards}) == len(shards)
    for task, count in (("a", num_items), ("b", 3)):
        mine = [shard for shard in shards if shard.task == task]
        covered = [i for shard in mine for i in range(shard.start, min(shard.stop, count))]
        assert covered == list(range(count))
        assert all((shard.stop - shard.start) % 4 == 0 for shard in mine)
        assert len(mine) <= 2 * num_actors


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


def test_a_checkpoint_that_was_never_trained_is_named(tmp_path: Path) -> None:
    config = make_config(checkpoint="weft")  # also the name of a folder of the source tree
    config = dataclasses.replace(
        config, run=dataclasses.replace(config.run, output_dir=str(tmp_path))
    )
    (tmp_path / "checkpoints" / "sft").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"wanted one of sft, tiny.*got weft; jobs/train\.py"):
        resolve_checkpoint_name(config)
    tiny = dataclasses.replace(config.evaluate, checkpoint="tiny")
    assert resolve_checkpoint_name(dataclasses.replace(config, evaluate=tiny)) == "tiny"


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
