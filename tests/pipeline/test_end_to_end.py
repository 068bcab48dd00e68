"""All stages on a local Ray, through the command line, on a denoiser with random weights."""

import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import artifacts, storage
from pipeline.claim import claimed
from pipeline.cli import run_job
from pipeline.evaluate.rows import read_rows
from pipeline.models import weights_fingerprint

CONFIG = """
[run]
output_dir = "{root}/run"

[data]
max_length = 192
num_shards = 3

[[data.sources]]
kind = "task"
task = "sudoku"
count = 10

[[data.sources]]
kind = "task"
task = "countdown"
count = 10

[model]
path = "{model}"

[rates]
entropies = "refreshed"
refresh_lag = 0

[reference]
tail = 4
num_cpus = 1

[train]
epochs = 2
batch_size = 10
warmup_steps = 1
cpus_per_worker = 1
checkpoint_every = 2

[evaluate]
num_items = 3
gen_lengths = [16]
block_length = 8
steps = 4
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    root = tmp_path_factory.mktemp("end_to_end")
    path = root / "config.toml"
    path.write_text(CONFIG.format(root=root, model=tiny_checkpoint))
    return path


def job(stage: str, config: Path, *arguments: str) -> int:
    return run_job(stage, ["--config", str(config), *arguments])


SFT = ("--train.name", "sft", "--rates.gamma", "0", "--rates.entropies", "frozen")


@pytest.fixture(scope="module")
def finished(local_ray: None, config: Path) -> Path:
    """The run's folder after every stage: base and two fine-tuned denoisers, side by side."""
    assert job("prepare", config) == 0
    assert job("reference", config) == 0
    assert job("train", config, *SFT) == 0
    assert job("train", config) == 0
    for names in ([], ["--checkpoint", "sft", "weft"]):
        assert job("evaluate", config, *names) == 0
    assert job("drift", config, "--drift.checkpoint", "weft", "--drift.num-examples", "7") == 0
    assert job("report", config) == 0
    return config.parent / "run"


def test_every_stage_leaves_a_whole_artifact(finished: Path) -> None:
    folders = ["prepared", "entropies", "checkpoints/sft", "checkpoints/weft", "report"]
    folders += [f"evaluations/{name}" for name in ("base", "sft", "weft")]
    for folder in folders:
        manifest = artifacts.read_manifest(str(finished / folder))
        assert manifest is not None
        artifacts.verify_files(str(finished / folder), manifest)
    board = EventAccumulator(str(finished / "checkpoints" / "weft" / "tensorboard")).Reload()
    assert {"train/loss", "train/clamp_rate", "train/nll_bin_9"} <= {*board.Tags()["scalars"]}
    assert board.Scalars("train/loss")[-1].step == 4
    lines = (finished / "checkpoints" / "weft" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4


def test_entropies_stand_beside_the_prepared_rows(finished: Path) -> None:
    for path in sorted((finished / "prepared").glob("part-*.parquet")):
        prepared = storage.read_table(str(path)).to_pylist()
        entropies = storage.read_table(str(finished / "entropies" / path.name)).to_pylist()
        assert [row["example_id"] for row in entropies] == [row["example_id"] for row in prepared]
        for row, found in zip(prepared, entropies, strict=True):
            assert len(found["entropy"]) == len(row["response_ids"])
            assert len(found["tail_entropy"]) == 4
            assert min(found["entropy"]) >= 0


def test_the_second_epoch_has_the_entropies_of_the_weights_after_the_first(finished: Path) -> None:
    checkpoint = finished / "checkpoints" / "weft"
    kept, refreshed = checkpoint / "exports/step-0000002", checkpoint / "refresh/after-step-0000002"
    manifest = artifacts.require(str(refreshed), "reference", hint="")
    artifacts.verify_files(str(refreshed), manifest)
    assert manifest.inputs["weights"] == weights_fingerprint(str(kept))
    assert artifacts.require(str(kept), "train", hint="").facts["steps"] == 2
    assert not (finished / "checkpoints" / "sft" / "exports").exists()
    # What the first epoch trained with is of the base model, and not the same.
    for name in manifest.shards:
        tables = [storage.read_table(str(f / name)) for f in (refreshed, finished / "entropies")]
        assert tables[0]["example_id"] == tables[1]["example_id"]
        assert tables[0]["entropy"] != tables[1]["entropy"]


def test_the_drift_is_that_of_the_kept_and_the_last_weights(finished: Path) -> None:
    rows = storage.read_json(str(finished / "drift" / "weft" / "drift.json"))
    assert [(row["step"], row["num_examples"]) for row in rows] == [(2, 7), (4, 7)]
    assert all(0 < row["rank_correlation"] < 1 and row["rate_change"] > 0 for row in rows)
    # After step 2 they are those that the second epoch was trained with.
    found = storage.read_table(str(finished / "drift" / "weft" / "step-0000002.parquet"))
    folder = finished / "checkpoints" / "weft" / "refresh" / "after-step-0000002"
    refreshed = {
        row["example_id"]: row["entropy"]
        for path in sorted(folder.glob("part-*.parquet"))
        for row in storage.read_table(str(path)).to_pylist()
    }
    for row in found.to_pylist():
        assert row["entropy"] == pytest.approx(refreshed[row["example_id"]], abs=1e-4)
    assert "Drift in training" in (finished / "report" / "index.html").read_text()


def test_sft_and_weft_end_with_different_weights(finished: Path) -> None:
    sums = {
        storage.sha256(str(finished / "checkpoints" / name / "model.safetensors"))
        for name in ("sft", "weft")
    }
    assert len(sums) == 2


def test_evaluations_have_one_row_an_item_and_the_report_names_them(finished: Path) -> None:
    for name in ("base", "sft", "weft"):
        rows = read_rows(str(finished / "evaluations" / name))
        assert len({(row["task"], row["item_id"]) for row in rows}) == len(rows) == 6
        metrics = storage.read_json(str(finished / "evaluations" / name / "metrics.json"))
        assert 1 <= metrics["tasks"]["sudoku"]["nfe"] <= 4  # they may stop early
        assert not (finished / "evaluations" / name / "parts").exists()
    page = (finished / "report" / "index.html").read_text()
    assert all(f">{name}<" in page for name in ("base", "sft", "weft"))


@pytest.mark.parametrize("stage", ["prepare", "reference", "train", "evaluate", "report"])
def test_a_finished_stage_says_so_and_does_nothing(
    finished: Path, config: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert job(stage, config) == 0
    assert "already finished" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("prepare", ["--data.seed", "1"], "config.data.seed: there 0, here 1"),
        ("reference", ["--reference.tail", "5"], "config.reference.tail: there 4, here 5"),
        ("train", ["--rates.gamma", "0.25"], "config.rates.gamma: there 0.5, here 0.25"),
        ("train", ["--data.max-length", "128"], "prepared with data.max_length = 192"),
        ("reference", ["--data.num-shards", "2"], "prepared with data.num_shards = 3"),
        ("evaluate", ["--evaluate.steps", "8"], "decoding.sudoku.steps: there 4, here 8"),
    ],
)
def test_a_changed_configuration_never_reuses_an_output(
    finished: Path,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    change: list[str],
    message: str,
) -> None:
    assert job(stage, config, *change) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "--overwrite" in error
    assert "Traceback" not in error


def test_damaged_and_foreign_inputs_are_refused(
    finished: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Entropies of other data, and a truncated Parquet file; on a copy of the run."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("checkpoints", "evaluations"))
    here = ("--run.output-dir", str(copy))
    shard = copy / "prepared" / "part-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    assert job("train", config, *here) == 2
    assert "part-00000.parquet: truncated or changed" in capsys.readouterr().err
    shard.write_bytes(whole)
    assert job("prepare", config, *here, "--overwrite", "--data.seed", "7") == 0
    assert job("train", config, *here, "--data.seed", "7") == 2
    assert "entropies were computed for other data" in capsys.readouterr().err
    assert not (copy / "checkpoints").exists()


def test_entropies_of_another_model_or_chat_template_are_refused(
    finished: Path,
    config: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other_model = ("--reference.checkpoint", str(finished / "checkpoints" / "sft"))
    assert job("train", config, "--train.name", "other", *other_model) == 2
    assert "entropies were computed for another reference model" in capsys.readouterr().err
    copy, checkpoint = tmp_path / "run", tmp_path / "checkpoint"
    shutil.copytree(finished / "entropies", copy / "entropies")
    shutil.copytree(tiny_checkpoint, checkpoint)
    template = checkpoint / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    here = ("--run.output-dir", str(copy), "--model.path", str(checkpoint))
    assert job("prepare", config, *here) == 0
    assert job("train", config, *here) == 2
    assert "entropies: made with chat template" in capsys.readouterr().err


def test_a_folder_that_no_training_wrote_is_spared(
    finished: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = finished / "checkpoints" / "mine" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"mine")
    assert job("train", config, "--train.name", "mine") == 2
    assert "got model.safetensors, which no stage wrote" in capsys.readouterr().err
    assert weights.read_bytes() == b"mine"


def test_the_unfinished_state_of_another_configuration_is_refused(
    finished: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = finished / "checkpoints" / "unfinished" / "state" / "0123456789abcdef"
    state.mkdir(parents=True)
    assert job("train", config, "--train.name", "unfinished") == 2
    assert "an unfinished run of another configuration" in capsys.readouterr().err
    assert job("evaluate", config, "--checkpoint", "unfinished") == 2
    assert "run jobs/train.py to the end" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["reference", "evaluate"])
def test_weights_that_only_a_worker_finds_damaged_are_one_line(
    stage: str,
    finished: Path,
    config: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy, checkpoint = tmp_path / "run", tmp_path / "checkpoint"
    shutil.copytree(finished / "prepared", copy / "prepared")
    shutil.copytree(tiny_checkpoint, checkpoint)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    option = "--reference.checkpoint" if stage == "reference" else "--checkpoint"
    assert job(stage, config, "--run.output-dir", str(copy), option, str(checkpoint)) == 2
    (line,) = [li for li in capsys.readouterr().err.splitlines() if li.startswith("error: ")]
    assert "model.safetensors: not a whole safetensors file" in line
    assert not list(copy.rglob("*/manifest.json"))[1:]  # that of the prepared data alone


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("prepare", ["--data.max-length", "4096"], "data.max_length: wanted at most the"),
        ("reference", ["--reference.tail", "4096"], "data.max_length and reference.tail: wanted"),
        (
            "evaluate",
            ["--evaluate.gen-lengths", "4096", "--evaluate.steps", "4096"],
            "evaluate.gen_lengths 4096 behind the longest prompt of",
        ),
        (
            "train",
            ["--train.name", "late", "--train.warmup-steps", "4"],
            "train.warmup_steps: wanted fewer than the 4 optimizer steps of this run (20 examples",
        ),
    ],
)
def test_more_tokens_than_the_context_and_steps_than_there_are_are_refused_early(
    finished: Path,
    config: Path,
    stage: str,
    change: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert job(stage, config, *change) == 2
    assert message in capsys.readouterr().err


def test_reference_runs_only_the_missing_shards(
    finished: Path, config: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished / "prepared", copy / "prepared")
    shutil.copytree(finished / "entropies", copy / "entropies")
    folder = copy / "entropies"
    (folder / "manifest.json").unlink()
    (folder / "part-00001.parquet").unlink()
    damaged = folder / "part-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    kept = (folder / "part-00000.parquet").stat().st_mtime_ns
    assert job("reference", config, "--run.output-dir", str(copy)) == 0
    assert (folder / "part-00000.parquet").stat().st_mtime_ns == kept
    for path in sorted(folder.glob("part-*.parquet")):
        assert path.read_bytes() == (finished / "entropies" / path.name).read_bytes()


def test_evaluate_decodes_only_the_items_without_a_row(
    finished: Path, config: Path, tmp_path: Path
) -> None:
    """What a run leaves that was killed: two rows of one task, and half a file of the other."""
    copy = tmp_path / "run"
    shutil.copytree(finished / "evaluations" / "base", copy / "evaluations" / "base")
    folder = copy / "evaluations" / "base"
    (folder / "manifest.json").unlink()
    (folder / "parts").mkdir()
    sudoku, countdown = folder / "sudoku.parquet", folder / "countdown.parquet"
    kept = storage.read_table(str(sudoku)).slice(1, 2)
    storage.write_table(str(folder / "parts" / "sudoku-000001.parquet"), kept)
    (folder / "parts" / "countdown-000000.parquet").write_bytes(countdown.read_bytes()[:-20])
    sudoku.unlink()
    countdown.unlink()
    assert job("evaluate", config, "--run.output-dir", str(copy)) == 0
    rows = read_rows(str(folder))
    original = read_rows(str(finished / "evaluations" / "base"))
    timeless = {"seconds": 0, "latency": 0}
    pairs = zip(rows, original, strict=True)
    assert all(ours | timeless == theirs | timeless for ours, theirs in pairs)
    latencies = {row["item_id"]: row["latency"] for row in rows}
    assert {row["item_id"] for row in original if latencies[row["item_id"]] == row["latency"]} == {
        *kept["item_id"].to_pylist()
    }
    assert not (folder / "parts").exists()


@pytest.mark.parametrize("stage", ["reference", "train", "evaluate"])
def test_overwrite_without_the_resources_loses_nothing(
    finished: Path, config: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    gpus = ["--train.use-gpu"] if stage == "train" else [f"--{stage}.num-gpus", "1"]
    assert job(stage, config, "--overwrite", *gpus) == 2
    assert "wants 1 GPUs, but the local Ray sees 0" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == before


ADAPTER = (
    *("--train.name", "adapter", "--lora.enabled", "--lora.rank", "4", "--lora.alpha", "8"),
    *("--train.num-workers", "2", "--train.learning-rate", "0.1"),
    *("--rates.entropies", "frozen"),
)


def test_an_adapter_trained_by_two_workers_is_evaluated_and_merged(
    finished: Path, config: Path
) -> None:
    """The last test: the report that others look at is out of date behind it."""
    assert job("train", config, *ADAPTER) == 0
    folder = finished / "checkpoints" / "adapter"
    assert artifacts.read_manifest(str(folder)).facts["world_size"] == 2
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    assert job("merge", config, "--merge.checkpoint", "adapter") == 0
    merged = finished / "checkpoints" / "adapter-merged"
    manifest = artifacts.read_manifest(str(merged))
    assert manifest is not None
    artifacts.verify_files(str(merged), manifest)
    assert 0 < manifest.facts["logit_change"] < 1e-4
    # Never into a training that is not finished, or that runs.
    busy = finished / "checkpoints" / "busy"
    (busy / "state").mkdir(parents=True)
    (busy / "recipe.json").write_text("{}")
    into_busy = ("--merge.checkpoint", "adapter", "--merge.name", "busy")
    assert job("merge", config, *into_busy) == 2
    with claimed(str(busy)):
        assert job("merge", config, *into_busy, "--overwrite") == 2
    assert (busy / "state").is_dir()
    assert job("evaluate", config, "--checkpoint", "adapter", "adapter-merged") == 0
    found = [
        [row["generation"] for row in read_rows(str(finished / "evaluations" / name))]
        for name in ("base", "adapter", "adapter-merged")
    ]
    assert found[1] == found[2]
    assert found[0] != found[1]
