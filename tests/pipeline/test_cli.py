"""The command line of the jobs: exit codes, precedence, dry runs, and a help without torch."""

import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from pipeline import artifacts, cli
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.config_file import parse_config
from pipeline.errors import ArtifactError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[a-z]*.py"))


@pytest.fixture
def stage(monkeypatch):
    """Stand in for a stage module: notes how it is called, or raises ``stage.error``."""
    seen = types.SimpleNamespace(calls=[], error=None)

    def run(config: RunConfig, *, overwrite: bool) -> None:
        seen.calls.append((config, overwrite))
        if seen.error is not None:
            raise seen.error

    seen.run, seen.describe = run, lambda config: "described"
    monkeypatch.setitem(sys.modules, "pipeline.fake", seen)
    return seen


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(
        f'run = {{name = "from file", output_dir = "{tmp_path}/run"}}\ntrain.epochs = 4\n'
    )
    return str(path)


def assert_one_line_of_error(capsys, *parts):
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err + captured.out
    assert all(part in captured.err for part in parts), captured.err


def test_there_is_a_job_for_every_stage():
    assert JOBS == [
        "drift",
        "evaluate",
        "merge",
        "pipeline",
        "prepare",
        "reference",
        "report",
        "traces",
        "train",
        "tune",
    ]


def test_run_job_hands_the_configuration_to_the_stage(stage, config_file):
    assert cli.run_job("fake", ["--config", config_file]) == 0
    ((config, overwrite),) = stage.calls
    assert (config.run.name, overwrite) == ("from file", False)
    assert cli.run_job("fake", ["--config", config_file, "--overwrite"]) == 0
    assert stage.calls[1][1] is True


def test_run_job_makes_local_paths_absolute(stage, config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run_job("fake", ["--config", "small.toml", "--run.output-dir", "here"]) == 0
    assert stage.calls[0][0].run.output_dir == str(tmp_path / "here")
    assert stage.calls[0][0].model.path == "tiny"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config", "none.toml"], ["none.toml: cannot be read"]),
        (["--config"], ["--config: wanted a file, got nothing"]),
        (["--config", "a.toml", "--config=b.toml"], ["wanted one file, got a.toml, b.toml"]),
        (["--train.batch-size", "0"], ["train.batch_size: wanted at least 1, got 0"]),
        (["--evaluate.batch-size", "0"], ["evaluate.batch_size: wanted at least 1, got 0"]),
    ],
)
def test_mistakes_in_the_configuration_exit_with_2(arguments, parts, stage, capsys):
    assert cli.run_job("fake", arguments) == 2
    assert stage.calls == []
    assert_one_line_of_error(capsys, *parts)


def test_mistakes_in_the_file_exit_with_2(tmp_path, capsys):
    path = tmp_path / "typo.toml"
    path.write_text("[train]\nepoch = 1\n")
    assert cli.run_job("train", ["--config", str(path)]) == 2
    assert_one_line_of_error(capsys, str(path), "unknown key train.epoch (did you mean epochs?)")


@pytest.mark.parametrize(
    "arguments",
    [["--train.epoch", "3"], ["--trian.epochs", "3"], ["--train.epochs", "x"], ["stray"]],
)
def test_options_that_do_not_exist_exit_with_2(arguments, stage, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run_job("fake", arguments)
    assert caught.value.code == 2
    assert stage.calls == []
    captured = capsys.readouterr()
    assert arguments[0] in captured.err or "epochs" in captured.err
    assert captured.out == ""


def wrapped_as_cause():
    try:
        raise RuntimeError("task failed") from ArtifactError("folder: damaged")
    except RuntimeError as error:
        return error


def wrapped_as_attribute():
    error = RuntimeError("task failed")
    error.cause = ArtifactError("folder: damaged")
    return error


def wrapped_by_worker_failures():
    error = RuntimeError("training failed")
    error.worker_failures = {0: wrapped_as_cause()}
    return error


@pytest.mark.parametrize(
    "error",
    [
        ArtifactError("folder: damaged"),
        wrapped_as_cause(),
        wrapped_as_attribute(),
        wrapped_by_worker_failures(),
    ],
    ids=["bare", "cause", "attribute", "worker failures"],
)
def test_user_errors_of_a_stage_exit_with_2(error, stage, config_file, capsys):
    stage.error = error
    assert cli.run_job("fake", ["--config", config_file]) == 2
    assert_one_line_of_error(capsys, "error: folder: damaged")


def test_an_interrupt_exits_with_130_and_says_how_to_go_on(stage, config_file, capsys):
    stage.error = KeyboardInterrupt()
    assert cli.run_job("fake", ["--config", config_file]) == 130
    assert capsys.readouterr().err == "fake: interrupted; the same command goes on from there\n"
    assert cli.run_job("fake", ["--config", config_file, "--overwrite"]) == 130
    assert "; without --overwrite the same command goes on" in capsys.readouterr().err


def test_other_errors_keep_their_traceback(stage, config_file):
    stage.error = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError, match="a defect"):
        cli.run_job("fake", ["--config", config_file])


def test_precedence_is_defaults_then_file_then_command_line(config_file):
    arguments = ["--config", config_file, "--train.batch-size", "7", "--train.epochs", "5"]
    config = cli.parse_arguments("train", arguments).run_config
    assert config.train.epochs == 5
    assert config.train.batch_size == 7
    assert config.run.name == "from file"
    assert config.train.warmup_steps == RunConfig().train.warmup_steps
    config = cli.parse_arguments("train", [f"--config={config_file}"]).run_config
    assert config.train.epochs == 4


def test_the_command_line_can_mend_what_the_file_makes_impossible(tmp_path):
    path = tmp_path / "zero.toml"
    path.write_text("train.epochs = 0\n")
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        cli.parse_arguments("train", ["--config", str(path)])
    config = cli.parse_arguments("train", ["--config", str(path), "--train.epochs", "1"])
    assert config.run_config.train.epochs == 1


def test_short_names_of_checkpoint_and_data_dir(config_file):
    arguments = ["--config", config_file, "--checkpoint", "weft", "--data-dir", "benchmarks"]
    evaluate = cli.parse_arguments("evaluate", arguments).run_config.evaluate
    assert (evaluate.checkpoints, evaluate.data_dir) == (("weft",), "benchmarks")
    arguments[2::2] = ["--evaluate.checkpoints", "--evaluate.data-dir"]
    assert cli.parse_arguments("evaluate", arguments).run_config.evaluate == evaluate


DESCRIBED = {
    "prepare": [r"prepare: 2000 rows of 2 sources in 8 shards", r"of one task: about 700\.0 MiB"],
    "reference": [r"2000 examples", r"1 forward passes an example", r"total +[\d.,]+ MiB"],
    # 2000 examples by 64 are 32 steps an epoch, the last ones smaller.
    "train": [r"2000 examples", r"32 steps an epoch, 128 steps", r"at the peak +[\d.,]+ MiB"],
    "evaluate": [
        r"sudoku \(128 items\), countdown \(128 items\)",
        r"64 forward passes an item",
        r"total +[\d.,]+ MiB",
    ],
    "drift": [r"drift: nothing yet; --drift\.checkpoint names a training"],
    "merge": [r"merge: nothing yet; --merge\.checkpoint names an adapter"],
    "report": [r"report: from nothing yet"],
    "pipeline": [r"pipeline: 6 jobs; no cluster", r"evaluate-weft +train +jobs/evaluate\.py"],
    "traces": [r"traces: nothing yet; traces\.model names a model"],
    "tune": [r"tune: nothing yet; \[\[tune\.space\]\] names what is searched"],
}


@pytest.mark.parametrize("job", JOBS)
def test_dry_run_describes_the_stage_and_creates_nothing(
    job, config_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--config", config_file, "--train.beta1", "0.8", "--dry-run"]
    assert (cli.run_pipeline(arguments) if job == "pipeline" else cli.run_job(job, arguments)) == 0
    assert sorted(tmp_path.rglob("*")) == before
    out = capsys.readouterr().out
    # The configuration, as TOML, ends where the description names its stage.
    (description,) = re.findall(rf"^{job}: .*", out, flags=re.DOTALL | re.MULTILINE)
    printed = tomllib.loads(out.removesuffix(description))
    assert parse_config(printed, where="printed").train.beta1 == 0.8
    for pattern in DESCRIBED[job]:
        assert re.search(pattern, description), f"{pattern} is not in {description}"


def test_dry_run_reports_user_errors_as_well(config_file, capsys):
    arguments = ["--config", config_file, "--dry-run", "--model.path", "no-such-model"]
    assert cli.run_job("train", arguments) == 2
    assert_one_line_of_error(capsys, "no-such-model: wanted a checkpoint folder")


@pytest.mark.parametrize(
    ("job", "option", "value", "message"),
    [
        ("prepare", "data.max_length", "4096", "data.max_length: wanted at most the"),
        ("reference", "reference.tail", "4096", "data.max_length and reference.tail: wanted at"),
        ("train", "data.max_length", "4096", "data.max_length: wanted at most the"),
        ("train", "train.warmup_steps", "5000", "train.warmup_steps: wanted fewer than the"),
        ("train", "train.num_workers", "5000", "train.num_workers"),
        ("train", "train.device_memory_gib", "0.4", "train.micro_batch_tokens: 4096 tokens needs"),
        ("train", "train.device_memory_gib", "0.2", "of 256 alone is too large; try"),
        (
            "evaluate",
            "evaluate.gen_lengths",
            "4096",
            "evaluate.gen_lengths 4096 behind the longest",
        ),
    ],
)
def test_dry_run_refuses_what_the_run_refuses(job, option, value, message, config_file, capsys):
    arguments = ["--config", config_file, f"--{option.replace('_', '-')}", value, "--dry-run"]
    if job == "evaluate":
        arguments += ["--evaluate.block-length", value, "--evaluate.steps", value]
    assert cli.run_job(job, arguments) == 2
    assert_one_line_of_error(capsys, message)


def test_dry_run_refuses_data_of_another_configuration(config_file, tmp_path, capsys):
    folder = str(tmp_path / "run" / "prepared")
    artifacts.commit(folder, Manifest(stage="prepare", config={}, inputs={}, num_rows=3))
    arguments = ["--config", config_file, "--run.output-dir", str(tmp_path / "run"), "--dry-run"]
    for job in ("reference", "train"):
        assert cli.run_job(job, arguments) == 2
        assert_one_line_of_error(capsys, "was prepared with data.")


def test_no_driver_imports_what_only_a_worker_needs():
    stages = ("prepare", "reference", "train", "evaluate", "tune", "report", "graph.stage")
    modules = ", ".join(f"pipeline.{stage}" for stage in (*stages, "train.job"))
    code = f"import sys, {modules}; print({{'transformers', 'ray'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("job", JOBS)
def test_help_imports_neither_torch_nor_ray(job):
    command = [sys.executable, "-X", "importtime", f"jobs/{job}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: jobs/{job}.py")
    assert "--train.learning-rate" in done.stdout
    imported = set(re.findall(r"\| +(\w+)[.\w]*$", done.stderr, flags=re.MULTILINE))
    assert "tyro" in imported
    assert not imported & {"torch", "ray", "transformers", "pyarrow", "datasets"}
