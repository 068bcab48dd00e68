"""The graph of a pipeline: its steps, what each waits for, and the command line of each."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import parse_arguments
from pipeline.config import RunConfig
from pipeline.config_file import format_config, load_config
from pipeline.errors import ConfigError
from pipeline.graph.arguments import arguments_of
from pipeline.graph.steps import Step, chosen_steps, steps_of

SOURCE = """
[run]
output_dir = "runs/graph"
[[data.sources]]
kind = "task"
task = "sudoku"
count = 8
"""
GRAPH = """
[[pipeline.jobs]]
stage = "report"
[[pipeline.jobs]]
stage = "prepare"
[[pipeline.jobs]]
stage = "reference"
[[pipeline.jobs]]
stage = "train"
name = "sft"
set = ["rates.gamma = 0.0", "train.use_gpu = true"]
seeds = [0, 1]
[[pipeline.jobs]]
stage = "train"
name = "weft"
[[pipeline.jobs]]
stage = "train"
name = "online"
set = ["rates.entropies = 'online'"]
[[pipeline.jobs]]
stage = "tune"
[[pipeline.jobs]]
stage = "merge"
set = ["merge.checkpoint = 'weft'", "merge.name = 'merged'"]
[[pipeline.jobs]]
stage = "drift"
set = ["drift.checkpoint = 'weft'"]
[[pipeline.jobs]]
stage = "evaluate"
each = ["evaluate.tasks = [['sudoku'], ['sudoku', 'countdown']]"]
"""


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str) -> tuple[str, RunConfig]:
        path = tmp_path / "graph.toml"
        path.write_text(SOURCE + text)
        return str(path), load_config(path)

    return written


def by_name(config: RunConfig) -> dict[str, Step]:
    return {step.name: step for step in steps_of(config)}


def test_a_step_waits_for_what_makes_its_inputs(write) -> None:
    steps = by_name(write(GRAPH)[1])
    waits = {name: set(step.after) for name, step in steps.items()}
    assert waits["prepare"] == set()
    assert waits["reference"] == {"prepare"}
    # Neither SFT nor online entropies read the reference artifact.
    assert waits["sft-0"] == waits["sft-1"] == waits["online"] == {"prepare"}
    assert waits["weft"] == waits["tune"] == {"prepare", "reference"}
    assert waits["merge"] == {"weft"}
    assert waits["drift"] == {"prepare", "reference", "weft"}
    assert waits["evaluate-sudoku-base"] == set()
    assert waits["evaluate-sudoku-sft-1"] == {"sft-1"}
    assert waits["evaluate-sudoku-countdown-merged"] == {"merge"}
    assert waits["report"] == steps.keys() - {"report"}
    order = list(steps)
    assert all(
        order.index(b) < order.index(name) for name, step in steps.items() for b in step.after
    )


def test_variants_have_names_and_settings_of_their_own(write) -> None:
    steps = by_name(write(GRAPH)[1])
    assert (steps["sft-1"].config.run.seed, steps["sft-1"].config.train.name) == (1, "sft-1")
    assert steps["sft-0"].config.rates.gamma == 0.0
    assert steps["online"].config.train.name == "online"
    evaluation = steps["evaluate-sudoku-countdown-online"].config.evaluate
    assert evaluation.tasks == ("sudoku", "countdown")
    assert evaluation.checkpoints == ("online",)
    names = [s.config.evaluate.name for s in steps.values() if s.stage == "evaluate"]
    assert len(names) == len(set(names)) == 2 * 6


def test_without_jobs_the_file_is_one_run_from_data_to_report(write) -> None:
    steps = by_name(write("[train]\nname = 'mine'\n")[1])
    assert list(steps) == [
        "prepare",
        "evaluate-base",
        "reference",
        "train",
        "evaluate-mine",
        "report",
    ]
    assert steps["evaluate-mine"].after == ("train",)
    # As by hand: each evaluation has the name of its checkpoint.
    assert steps["evaluate-mine"].config.evaluate.name == ""


def test_each_command_line_makes_the_configuration_of_its_step(write) -> None:
    file, config = write(GRAPH)
    for step in steps_of(config):
        found = arguments_of(step, file)
        made = parse_arguments(step.stage, found).run_config
        assert made == step.config, step.name
    assert arguments_of(by_name(config)["sft-1"], file)[2:] == [
        *("--run.seed", "1", "--rates.gamma", "0.0"),
        *("--train.name", "sft-1", "--train.use-gpu"),
    ]


def test_what_the_command_line_changed_reaches_every_step(write) -> None:
    file, _ = write(GRAPH)
    changed = ["--config", file, "--data.sources.0.count", "4", "--pipeline.only", "prepare"]
    config = parse_arguments("pipeline", changed).run_config
    (step,) = chosen_steps(steps_of(config), config.pipeline.only)
    assert arguments_of(step, file)[2:] == ["--data.sources.0.count", "4"]


def test_a_part_of_the_graph_is_chosen_by_name_job_or_stage(write) -> None:
    steps = steps_of(write(GRAPH)[1])
    assert [s.name for s in chosen_steps(steps, ["sft"])] == ["sft-0", "sft-1"]
    assert [s.name for s in chosen_steps(steps, ["weft", "reference"])] == ["reference", "weft"]
    assert len(chosen_steps(steps, ["evaluate"])) == 12
    assert len(chosen_steps(steps, [])) == len(steps)
    with pytest.raises(ConfigError, match=r"'wefd'.*weft"):
        chosen_steps(steps, ["wefd"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[pipeline.jobs]]\nstage = 'train'\n" * 2, "train is there twice"),
        (
            "[[pipeline.jobs]]\nstage = 'train'\nafter = ['prepar']\n",
            "train: after: no job 'prepar'",
        ),
        ("[[pipeline.jobs]]\nstage = 'train'\nset = ['train.nam = 1']\n", "unknown key train.nam"),
        (
            "[[pipeline.jobs]]\nstage = 'train'\nseeds = [0, 1]\nset = [\"train.name = 'q'\"]\n",
            "train-0 and train-1 write the same folder",
        ),
        ("[[pipeline.jobs]]\nstage = 'train'\neach = ['run.seed = 1']\n", "wanted an array"),
        (
            "[reference]\nestimator = 'expected'\n[[pipeline.jobs]]\nstage = 'reference'\n"
            "[[pipeline.jobs]]\nstage = 'train'\nseeds = [0, 1]\n",
            "train-1 has run.seed 1, and reference",
        ),
        (
            "[[pipeline.jobs]]\nstage = 'train'\nafter = ['tune']\n"
            "[[pipeline.jobs]]\nstage = 'tune'\nafter = ['train']\n",
            "wait for each other: train, tune",
        ),
    ],
)
def test_what_makes_no_graph_is_refused(write, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        steps_of(write(text)[1])


def test_what_is_merged_or_given_as_a_path_is_waited_for(write) -> None:
    text = """
[lora]
enabled = true
[[pipeline.jobs]]
stage = "prepare"
[[pipeline.jobs]]
stage = "train"
seeds = [1, 2]
[[pipeline.jobs]]
stage = "merge"
set = ["merge.checkpoint = 'train-1'"]
[[pipeline.jobs]]
stage = "evaluate"
[[pipeline.jobs]]
stage = "evaluate"
name = "early"
set = ["evaluate.checkpoints = ['runs/graph/checkpoints/train-2/exports/step-0000100']"]
[[pipeline.jobs]]
stage = "tune"
name = "late"
after = ["train"]
"""
    found = {step.name: step for step in steps_of(write(text)[1])}
    assert found["merge"].after == ("train-1",)
    assert found["evaluate-train-1-merged"].after == ("merge",)
    assert found["early"].after == ("train-2",)
    assert found["late"].after == ("prepare", "train-1", "train-2")


def test_the_best_of_a_search_is_trained_and_evaluated(write, tmp_path: Path) -> None:
    text = """
[[tune.arms]]
name = "weft"
[[tune.arms]]
name = "sft"
set = ["rates.gamma = 0.0"]
[[pipeline.jobs]]
stage = "tune"
[[pipeline.jobs]]
stage = "train"
name = "best"
best_of = "search"
seeds = [1, 2]
set = ["train.epochs = 10"]
[[pipeline.jobs]]
stage = "train"
name = "best-sft"
best_of = "search/sft"
[[pipeline.jobs]]
stage = "evaluate"
"""
    file, config = write(text)
    config = replace(config, run=replace(config.run, output_dir=str(tmp_path)))
    found = {step.name: step for step in steps_of(config)}
    assert found["best-1"].after == ("tune",)
    assert found["evaluate-best-1"].after == ("best-1",)
    assert found["best-sft"].best == f"{tmp_path}/tune/search/best-sft.toml"
    # What the search found, with what the job changes.
    best = tmp_path / "tune" / "search" / "best.toml"
    best.parent.mkdir(parents=True)
    tuned = replace(config.train, epochs=3, learning_rate=0.5, name="search-1")
    best.write_text(format_config(replace(config, train=tuned)))
    arguments = arguments_of(found["best-1"], file)
    assert arguments[:2] == ["--config", str(best)]
    got = parse_arguments("train", arguments).run_config
    # What the job sets is set, also where the pipeline's file has it already: epochs are 10 there.
    assert (got.train.name, got.train.epochs, got.train.learning_rate) == ("best-1", 10, 0.5)
    assert got.run.seed == 1
    # Of a run that was copied, the best is trained where it lies now.
    copied = replace(config, run=replace(config.run, output_dir=f"{tmp_path}/copy"))
    (tmp_path / "copy/tune/search").mkdir(parents=True)
    copy = by_name(copied)["best-1"]
    Path(copy.best).write_text(best.read_text())
    got = parse_arguments("train", arguments_of(copy, file)).run_config
    assert got.run.output_dir == f"{tmp_path}/copy"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stage = 'evaluate'\nbest_of = 'search'", "wanted a job of stage train, got evaluate"),
        ("stage = 'train'\nbest_of = 'serach'", "no search 'serach' (did you mean search?)"),
        ("stage = 'train'\nbest_of = 'search/wetf'", "no arm 'wetf'"),
        (
            "stage = 'train'\nbest_of = 'search'\nseeds = [5]\n[reference]\nestimator = 'expected'",
            "draws entropies by run.seed; wanted that of the search, got 5",
        ),
    ],
)
def test_a_best_that_cannot_be_is_refused_before_the_search(write, line: str, said: str) -> None:
    text = f"[[pipeline.jobs]]\nstage = 'tune'\n[[pipeline.jobs]]\nname = 'best'\n{line}\n"
    with pytest.raises(ConfigError, match=re.escape(said)):
        steps_of(write(text)[1])


def test_a_value_with_a_leading_dash_is_said_or_refused(write) -> None:
    file, config = write("[[pipeline.jobs]]\nstage = 'train'\nset = ['model.path = \"-odd\"']\n")
    (step,) = steps_of(config)
    arguments = arguments_of(step, file)
    assert arguments[2:] == ["--model.path=-odd"]
    assert parse_arguments("train", arguments).run_config.model.path == "-odd"
    file, config = write(
        "[[pipeline.jobs]]\nstage = 'train'\nset = ['lora.target_modules = [\"-q\"]']\n"
    )
    (step,) = steps_of(config)
    with pytest.raises(ConfigError, match=r"lora\.target_modules: no command line can say"):
        arguments_of(step, file)


def test_a_change_that_no_flag_can_say_is_refused(write) -> None:
    file, config = write("[[pipeline.jobs]]\nstage = 'prepare'\nset = ['data.sources = []']\n")
    (step,) = steps_of(config)
    with pytest.raises(
        ConfigError, match=r"data\.sources: wanted as many tables as the file has, 1, got 0"
    ):
        arguments_of(step, file)
