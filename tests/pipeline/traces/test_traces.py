"""Stage traces without vLLM: questions, verdicts, the choice, shards, and what is refused."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from pipeline import artifacts, storage, traces
from pipeline.config import RunConfig, RunSection, SourceSection, TracesSection
from pipeline.config_checks import check_config
from pipeline.errors import ConfigError, DataError
from pipeline.layout import layout
from pipeline.traces import stage
from pipeline.traces.choose import choose
from pipeline.traces.generate import end_ids, read_sample, sample_seed
from pipeline.traces.questions import is_right, read_questions, split_generation
from pipeline.traces.stage import SAMPLES, plan_shards
from weft.tasks import get_task


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> RunConfig:
    """Seven questions; the model is a denoiser, of which only tokenizer and weights are read."""
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(7)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceSection(
        kind="files",
        path=str(path),
        prompt_column="question",
        response_column="",
        solution_column="answer",
    )
    section = TracesSection(
        model=str(tiny_checkpoint),
        sources=(source,),
        num_samples=3,
        max_tokens=100,
        max_model_len=400,
        num_shards=3,
    )
    return RunConfig(run=RunSection(output_dir=str(tmp_path / "run")), traces=section)


@pytest.fixture
def generated(monkeypatch):
    """What was asked for; sample k of a sum is right unless k is 1, and 10 - k tokens long."""
    asked = []

    def generate(rows, section, num_blocks):
        for row in rows:
            asked.append((row["question_id"], row["sample"]))
            answer = int(row["solution"]) + (row["sample"] == 1)
            text = f"Sample {row['sample']}: it is \\boxed{{{answer}}}."
            tokens = [7] * (9 - row["sample"]) + [0]
            yield read_sample(row | {"generated_text": text, "generated_tokens": tokens}, [0])

    monkeypatch.setattr(stage, "generate", generate)
    monkeypatch.setattr(stage, "require_vllm", lambda what: None)
    monkeypatch.setattr(stage, "ray_session", lambda **cpus: contextlib.nullcontext())
    return asked


def rows_of(folder: Path) -> list[dict]:
    tables = [storage.read_table(str(path)) for path in sorted(folder.glob("part-*"))]
    return [row for table in tables for row in table.to_pylist()]


def test_of_each_question_the_shortest_right_sample_is_kept(
    config: RunConfig, generated: list
) -> None:
    traces.run(config)
    folder = Path(layout(config).traces("traces"))
    manifest = artifacts.require(str(folder), "traces", hint="")
    artifacts.verify_files(str(folder), manifest)
    kept, samples = rows_of(folder), rows_of(folder / SAMPLES)
    assert [row["question"] for row in kept] == [f"What is {n} + {n}?" for n in range(7)]
    assert {(row["sample"], row["num_tokens"]) for row in kept} == {(2, 8)}
    assert kept[3]["reasoning"] == "Sample 2: it is \\boxed{6}."
    assert kept[3]["answer"] == "\\boxed{6}"
    assert [row["reason"] for row in samples[:3]] == ["not_preferred", "wrong_answer", ""]
    assert manifest.rejected == {"not_preferred": 7, "wrong_answer": 7}
    facts = manifest.facts
    assert (facts["num_questions"], facts["num_solved"], facts["num_samples"]) == (7, 7, 21)
    assert facts["share_correct"] == pytest.approx(2 / 3)
    assert manifest.inputs.keys() == {"weights", "questions", "prompt"}
    assert facts["model"] == config.traces.model


def test_only_missing_shards_are_generated(config: RunConfig, generated: list, capsys) -> None:
    traces.run(config)
    folder = Path(layout(config).traces("traces"))
    content = artifacts.read_manifest(str(folder)).content
    assert len(generated) == 21
    generated.clear()
    traces.run(config)
    assert not generated
    assert "already finished" in capsys.readouterr().out
    (folder / "manifest.json").unlink()
    (folder / "part-00001.parquet").write_bytes(b"torn")
    traces.run(config)
    lost = plan_shards(read_questions(config)[0], 3)[1]
    assert generated == [(q.question_id, sample) for q in lost for sample in range(3)]
    assert artifacts.read_manifest(str(folder)).content == content


def test_every_question_is_in_one_shard() -> None:
    for count in range(1, 9):
        for num_shards in range(1, 12):
            plan = plan_shards(list(range(count)), num_shards)
            assert [n for shard in plan for n in shard] == list(range(count))
            assert len(plan) == min(count, num_shards)
            assert max(map(len, plan)) - min(map(len, plan)) <= 1


def sample(generation: str, num_tokens: int, is_correct: bool | None = True, **changes) -> dict:
    values = {"generation": generation, "answer": "1", "is_finished": True}
    return values | {"num_tokens": num_tokens, "is_correct": is_correct} | changes


@pytest.mark.parametrize(
    ("prefer", "keep", "wanted"),
    [
        ("shortest", 1, [1]),
        ("shortest", 2, [0, 1]),
        ("longest", 1, [4]),
        ("first", 2, [0, 1]),
        ("longest", 4, [0, 1, 4]),
    ],
)
def test_best_of_n(prefer: str, keep: int, wanted: list[int]) -> None:
    samples = [
        sample("a", 5),
        sample("b", 3),
        sample("a\n", 5),
        sample("c", 1, is_correct=False),
        sample("d", 9),
        sample("e", 2, is_finished=False),
        sample("f", 1, answer=""),
    ]
    reasons = choose(samples, TracesSection(prefer=prefer, keep=keep, num_samples=7))
    assert [n for n, reason in enumerate(reasons) if not reason] == wanted
    expected = {2: "duplicate", 3: "wrong_answer", 5: "unfinished", 6: "no_answer"}
    assert {n: reasons[n] for n in expected} == expected


def test_without_verification_nothing_need_be_right() -> None:
    samples = [sample("a", 5, is_correct=None), sample("b", 3, is_correct=False)]
    assert choose(samples, TracesSection(verify=False, keep=2)) == ["", ""]
    assert choose(samples, TracesSection()) == ["wrong_answer", "wrong_answer"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nso\n</think>\n\nIt is 4.", ("so", "It is 4.")),
        ("<reasoning>so</reasoning>\n<answer>\n\\boxed{4}\n</answer>", ("so", "\\boxed{4}")),
        ("so</reasoning>\n<answer>4", ("so", "4")),
        # The template had opened it.
        ("so\n</think>\n\nIt is \\boxed{4}.", ("so", "It is \\boxed{4}.")),
        (
            "so it is \\boxed{\\frac{1}{2}}.",
            ("so it is \\boxed{\\frac{1}{2}}.", "\\boxed{\\frac{1}{2}}"),
        ),
        ("so it is 4.", ("so it is 4.", "")),
        ("", ("", "")),
    ],
)
def test_reasoning_and_answer_of_a_generation(text: str, parts: tuple[str, str]) -> None:
    assert split_generation(text) == parts


def test_puzzles_are_judged_by_their_grader_and_never_of_an_evaluation(config: RunConfig) -> None:
    source = SourceSection(kind="task", task="countdown", count=40)
    section = dataclasses.replace(config.traces, sources=(source,))
    questions, _ = read_questions(dataclasses.replace(config, traces=section))
    assert len(questions) == 40
    task = get_task("countdown")
    from weft.tasks.base import Problem
    from weft.tasks.fingerprints import is_benchmark_item, is_held_out

    for question in questions:
        problem = Problem("countdown", "", json.loads(question.problem))
        assert not is_held_out(problem)
        assert not is_benchmark_item(problem)
        assert question.turn == task.prompt(problem, "d1").text
        values = dataclasses.asdict(question)
        assert is_right(values, task.response(problem), "") is True
        assert is_right(values, "<answer>\\boxed{1 + 1}</answer>", "") is False


def test_an_answer_without_a_known_one_has_no_verdict() -> None:
    values = {"task": "", "problem": "", "solution": ""}
    assert is_right(values, "it is 4", "4") is None
    assert is_right(values | {"solution": "8/2"}, "it is 4", "4") is True


def test_questions_are_asked_once_and_with_the_instruction(config: RunConfig) -> None:
    source = config.traces.sources[0]
    section = dataclasses.replace(config.traces, sources=(source, source), instruction="In words.")
    questions, _ = read_questions(dataclasses.replace(config, traces=section))
    assert len(questions) == 7
    assert questions[2].turn == "What is 2 + 2?\n\nIn words."
    assert (questions[2].question, questions[2].solution) == ("What is 2 + 2?", "4")


def test_rows_without_a_question_are_counted_by_reason(config: RunConfig, generated: list) -> None:
    path = Path(config.traces.sources[0].path)
    with path.open("a") as file:
        file.write('{"question": ""}\nbroken\n{"question": "What is 1 + 0?", "answer": 1}\n')
    questions, refused = read_questions(config)
    assert len(questions) == 8
    assert questions[-1].solution == "1"  # a number is an answer too
    assert [(row.position, row.reason) for row in refused] == [
        (8, "empty_question"),
        (9, "malformed_json"),
    ]
    traces.run(config)
    rejected = artifacts.read_manifest(layout(config).traces("traces")).rejected
    assert (rejected["empty_question"], rejected["malformed_json"]) == (1, 1)


def test_a_part_of_the_questions_is_a_choice_by_the_seed(config: RunConfig) -> None:
    source = dataclasses.replace(config.traces.sources[0], max_examples=3)
    section = dataclasses.replace(config.traces, sources=(source,))
    found = []
    for seed in (0, 0, 1, 2):
        data = dataclasses.replace(config.data, seed=seed)
        own = dataclasses.replace(config, traces=section, data=data)
        found.append(tuple(question.question for question in read_questions(own)[0]))
    assert [len(questions) for questions in found] == [3] * 4
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_answers_of_gsm8k_are_known(tmp_path: Path) -> None:
    row = {"question": "2 + 2?", "answer": "two <<2+2=4>>and two\n#### 4"}
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(row))
    source = SourceSection(kind="files", path=str(tmp_path / "gsm8k.jsonl"), format="gsm8k")
    config = RunConfig(traces=TracesSection(model="m", sources=(source,)))
    check_config(config)
    ((question,), refused) = read_questions(config)
    assert refused == []
    assert question.solution == "\\boxed{4}"


@pytest.mark.parametrize(
    ("text", "answer", "is_correct"),
    [
        ("so it is 4.", "\\boxed{4}", True),
        ("so it is \\boxed{8/2}.", "\\boxed{8/2}", True),
        ("so it is 5.", "", False),
        ("so it is \\boxed{5}, or 4.", "\\boxed{5}", False),
    ],
)
def test_a_right_value_without_a_box_is_an_answer(text: str, answer: str, is_correct: bool) -> None:
    row = dict.fromkeys(("shard", "sample", "seed"), 0) | {"task": "", "problem": ""}
    row |= dict.fromkeys(("question_id", "source", "question"), "q") | {"solution": "4"}
    found = read_sample(row | {"generated_text": text, "generated_tokens": [5, 0]}, [0])
    assert (found["answer"], found["is_correct"]) == (answer, is_correct)
    # Cut off, it is not even looked at.
    cut = read_sample(row | {"generated_text": text, "generated_tokens": [5, 5]}, [0])
    assert (cut["is_finished"], cut["is_correct"]) == (False, False)


def test_seeds_are_of_seed_question_and_sample() -> None:
    seeds = {sample_seed(s, q, n) for s in (0, 1) for q in ("a", "b") for n in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sample_seed(0, "a", 3) == sample_seed(0, "a", 3)


def test_ends_are_those_of_the_tokenizer_and_of_the_generation_config(tmp_path: Path) -> None:
    from weft.models.checkpoints import EMBEDDED

    for file in EMBEDDED["tiny"].glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (own,) = end_ids(str(tmp_path))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [17, own]}))
    assert end_ids(str(tmp_path)) == sorted({own, 17})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": ""}, ConfigError, "wanted a model and questions, got none"),
        ({"sources": ()}, ConfigError, "wanted a model and questions, got none"),
        ({"max_model_len": 100}, ConfigError, "wanted fewer than traces.max_model_len 100"),
        (
            {"max_model_len": 101},
            DataError,
            "question of at most 1 tokens .*'question_too_long': 7",
        ),
    ],
)
def test_what_cannot_run_is_refused(config: RunConfig, changes, error, message) -> None:
    section = dataclasses.replace(config.traces, **changes)
    with pytest.raises(error, match=message):
        traces.run(dataclasses.replace(config, traces=section))


def test_long_questions_are_counted(config: RunConfig, generated: list) -> None:
    path = Path(config.traces.sources[0].path)
    with path.open("a") as file:
        file.write(json.dumps({"question": "long? " * 99, "answer": "1"}) + "\n")
    traces.run(config)
    manifest = artifacts.read_manifest(layout(config).traces("traces"))
    assert manifest.rejected["question_too_long"] == 1
    assert manifest.facts["num_questions"] == 7


def test_without_vllm_it_says_how_to_install_it(config: RunConfig, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"stage traces needs vLLM.*docs/vllm\.md"):
        traces.run(config)


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (SourceSection(kind="files", path="x"), {}, "wanted the column with the right answer"),
        (SourceSection(kind="pretraining", count=1), {}, "one that has questions"),
        (SourceSection(kind="task", task="sudoku", count=1), {"keep": 5}, "at most traces.num_s"),
        (SourceSection(kind="task", task="sudoku", count=1), {"top_p": 0.0}, r"in \(0, 1\]"),
        (SourceSection(kind="task", task="sudoku", count=1), {"name": "a/b"}, "a folder name"),
    ],
)
def test_impossible_settings_are_refused(source, changes, message) -> None:
    section = TracesSection(model="m", sources=(source,), **changes)
    with pytest.raises(ConfigError, match=message):
        check_config(RunConfig(traces=section))
