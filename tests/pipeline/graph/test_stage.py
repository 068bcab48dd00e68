"""A pipeline that runs here, with real stages, and one on a cluster whose job server is played."""

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifacts
from pipeline.claim import claimed
from pipeline.cli import run_pipeline
from pipeline.config import JobSection
from pipeline.config_file import load_config
from pipeline.errors import ConfigError, PipelineError
from pipeline.graph import interrupts, stage
from pipeline.graph.cluster_jobs import ClusterJobs, Place
from pipeline.graph.schedule import Schedule
from pipeline.graph.server import place_of
from pipeline.graph.steps import steps_of

CONFIG = """
[run]
output_dir = "{root}/run"
[data]
max_length = 256
num_shards = 1
[[data.sources]]
kind = "task"
task = "sudoku"
count = 8
[[pipeline.jobs]]
stage = "prepare"
[[pipeline.jobs]]
stage = "train"
name = "weft"
seeds = [0, 1]
[[pipeline.jobs]]
stage = "train"
name = "sft"
set = ["rates.gamma = 0.0", "lora.enabled = true"]
env = ["HF_HOME = '/data'"]
runtime_env = ["pip = ['x']"]
num_cpus = 2.0
memory_gib = 1.0
resources = ["head = 0.001"]
[[pipeline.jobs]]
stage = "evaluate"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(Path(stage.__file__).parents[2] / "jobs")
    path = tmp_path / "graph.toml"
    path.write_text(CONFIG.format(root=tmp_path))
    return path


def test_here_steps_run_in_turn_and_a_failure_blocks_its_dependants_alone(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--pipeline.only", "prepare", "weft-0", "evaluate-weft-0"]
    # Training weft wants entropies, which nothing has made.
    assert run_pipeline(["--config", str(file), *chosen]) == 1
    out, err = capfd.readouterr()
    words = [line.split()[:2] for line in out.splitlines() if line]
    assert ["prepare", "finished"] in words
    assert ["weft-0", "failed"] in words
    assert ["evaluate-weft-0", "blocked"] in words
    assert "run jobs/reference.py" in err
    assert "weft-0 did not finish" in err
    assert artifacts.read_manifest(str(file.parent / "run" / "prepared")) is not None
    # What is there is not made again.
    assert run_pipeline(["--config", str(file), "--pipeline.only", "prepare"]) == 0
    assert ["prepare", "skipped"] in [x.split()[:2] for x in capfd.readouterr().out.splitlines()]


PLACE = Place("graph.toml", working_dir="/code")


def test_a_second_pipeline_in_the_same_run_is_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed(str(tmp_path / "run" / "pipeline")):
        assert run_pipeline(["--config", str(file)]) == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "prepared").exists()


@dataclass
class Job:
    submission_id: str
    status: str
    request: dict[str, Any]
    message: str = ""


ADDRESS = "http://127.0.0.1:8265"
STOP = f"RAY_API_SERVER_ADDRESS={ADDRESS} RAY_AUTH_MODE=disabled ray job stop {{}}"
SEEN = ("prepare", "reference", "train", "tune")


class Server:
    """Ends every job at the second look at it; the ones named in ``faults`` with a failure."""

    def __init__(self, *faults: str) -> None:
        self.faults, self.jobs = faults, dict[str, Job]()
        self.looks = dict[str, int]()
        self.most = 0

    def get_address(self) -> str:
        return ADDRESS

    def list_jobs(self) -> list[Job]:
        return list(self.jobs.values())

    def submit_job(self, *, submission_id: str, **request: Any) -> str:
        self.jobs[submission_id] = Job(submission_id, "RUNNING", request)
        self.most = max(self.most, sum(j.status == "RUNNING" for j in self.jobs.values()))
        return submission_id

    def get_job_status(self, name: str) -> str:
        self.looks[name] = self.looks.get(name, 0) + 1
        if self.looks[name] == 2:
            step = self.jobs[name].request["metadata"]["pipeline_step"]
            self.jobs[name].status = "FAILED" if step in self.faults else "SUCCEEDED"
        return self.jobs[name].status

    def get_job_info(self, name: str) -> Job:
        return self.jobs[name]

    def get_job_logs(self, name: str) -> str:
        return "".join(f"line {k} of {name}\n" for k in range(50))

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        yield f"begun {name}\n"

    def stop_job(self, name: str) -> None:
        self.jobs[name].status = "STOPPED"


@pytest.fixture
def schedule(file: Path, monkeypatch: pytest.MonkeyPatch) -> Schedule:
    monkeypatch.setattr(stage, "_POLL_S", 0.001)
    monkeypatch.setattr("pipeline.graph.cluster_jobs._RETRY_S", 0.001)
    return Schedule.of(steps_of(load_config(file)))


def names(server: Server) -> list[str]:
    return [job.request["metadata"]["pipeline_step"] for job in server.jobs.values()]


def test_on_a_cluster_each_step_is_a_job_with_what_its_section_says(
    file: Path, schedule: Schedule, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    assert stage.run_on(ClusterJobs(server, PLACE), schedule) == 0
    assert names(server)[:2] == ["prepare", "evaluate-base"]
    assert sorted(names(server)) == sorted(schedule.progress)
    assert server.most == 3  # the trainings, side by side
    (sft,) = [j for j in server.jobs.values() if "--train.name sft" in j.request["entrypoint"]]
    assert sft.request["entrypoint"] == (
        "python jobs/train.py --config graph.toml --rates.gamma 0.0 --train.name sft --lora.enabled"
    )
    assert sft.request["entrypoint_num_cpus"] == 2.0
    assert sft.request["entrypoint_memory"] == 2**30
    assert sft.request["entrypoint_resources"] == {"head": 0.001}
    assert sft.request["runtime_env"] == {
        "working_dir": "/code",
        "pip": ["x"],
        "env_vars": {"HF_HOME": "/data"},
    }
    assert "evaluate-sft  finished" in capsys.readouterr().out


def test_a_merge_runs_where_there_are_cpus(file: Path) -> None:
    text = (
        file.read_text()
        + "[[pipeline.jobs]]\nstage = 'merge'\nset = ['merge.checkpoint = \"sft\"']"
    )
    file.write_text(text)
    steps = {step.stage: step for step in steps_of(load_config(file))}
    jobs = ClusterJobs(Server(), PLACE)
    assert jobs.request(steps["merge"])["entrypoint_num_cpus"] == 1
    assert jobs.request(steps["evaluate"])["entrypoint_num_cpus"] is None
    on_head = replace(steps["merge"].section, resources=("head = 0.001",))
    placed = jobs.request(replace(steps["merge"], section=on_head))
    assert placed["entrypoint_num_cpus"] is None


def test_a_failed_job_prints_its_end_and_can_be_started_again(
    file: Path, schedule: Schedule, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server("weft-1")
    assert stage.run_on(ClusterJobs(server, PLACE), schedule) == 1
    captured = capsys.readouterr()
    (failed,) = [n for n in server.jobs if n.startswith("weft-1-")]
    assert "weft-1 failed" in captured.err
    assert f"line 49 of {failed}" in captured.err
    assert "line 3 of" not in captured.err
    assert schedule.progress["evaluate-weft-1"].status == "blocked"
    assert schedule.progress["evaluate-weft-0"].status == "finished"
    server.faults = ()
    again = Schedule.of([schedule.progress["weft-1"].step])
    assert stage.run_on(ClusterJobs(server, PLACE), again) == 0
    assert [n for n in server.jobs if n.startswith("weft-1-")] == [failed, f"{failed[:-1]}2"]


def test_a_job_that_still_runs_is_followed_and_not_submitted_twice(
    file: Path, schedule: Schedule
) -> None:
    server, step = Server(), schedule.progress["prepare"].step
    first = ClusterJobs(server, PLACE).start(step)
    assert ClusterJobs(server, PLACE).start(step) == first
    assert len(server.jobs) == 1


@pytest.mark.parametrize(("answer", "status"), [("y", "STOPPED"), ("n", "RUNNING")])
def test_an_interrupt_asks_and_never_leaves_jobs_unnamed(
    answer: str,
    status: str,
    file: Path,
    schedule: Schedule,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Server()
    jobs = ClusterJobs(server, PLACE)

    def interrupted(step: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "status", interrupted)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked = list[str]()
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    assert stage.run_on(jobs, schedule) == 130
    assert "Stop prepare, evaluate-base on the cluster" in asked[0]
    assert {job.status for job in server.jobs.values()} == {status}
    shown = capsys.readouterr().out
    for name in server.jobs:
        assert (STOP.format(name) in shown) == (answer == "n")


def test_a_job_server_that_falls_silent_is_waited_for_and_then_an_error(
    file: Path, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, step = Server(), schedule.progress["prepare"].step
    jobs = ClusterJobs(server, PLACE)
    name = jobs.start(step)

    def silent(name: str) -> str:
        raise ConnectionError("refused")

    answer = server.get_job_status
    monkeypatch.setattr(server, "get_job_status", silent)
    assert jobs.status(step) == "running"
    monkeypatch.setattr(server, "get_job_status", answer)
    assert jobs.status(step) == "running"
    monkeypatch.setattr(server, "get_job_status", silent)
    monkeypatch.setattr("pipeline.graph.cluster_jobs._PATIENCE_S", -1.0)
    with pytest.raises(PipelineError, match=rf"does not answer.*{name}"):
        jobs.status(step)


def test_jobs_find_code_and_file_in_a_copy_or_where_all_nodes_have_them(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place_of(str(file)) == Place("graph.toml", "jobs", str(tmp_path))
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    with pytest.raises(ConfigError, match="has no jobs/"):
        place_of(str(file))
    (other / "jobs").symlink_to(tmp_path / "jobs")
    with pytest.raises(ConfigError, match="outside the working folder"):
        place_of(str(file))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {}}')
    place = place_of(str(file))
    assert (place.file, place.working_dir) == (str(file), None)
    assert (Path(place.scripts) / "train.py").is_file()
    copied = '{"runtime_env": {"working_dir": "gcs://x.zip"}}'
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", copied)
    monkeypatch.chdir(tmp_path)
    assert place_of("graph.toml").working_dir == str(tmp_path)


def test_from_outside_only_what_is_seen_without_weights_is_looked_at(
    file: Path, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[str]()
    monkeypatch.setattr(stage, "is_there", lambda step, file: looked.append(step.name) or True)
    server = Server()
    assert stage.run_on(ClusterJobs(server, PLACE), schedule) == 0
    assert looked == []
    assert sorted(names(server)) == sorted(schedule.progress)
    config = load_config(file)
    far = replace(config, run=replace(config.run, output_dir="s3://bucket/run"))
    assert stage.run_on(ClusterJobs(Server(), PLACE), Schedule.of(steps_of(far))) == 0
    assert looked == [n for n, one in schedule.progress.items() if one.step.stage in SEEN]
    looked.clear()
    hub = replace(far, model=replace(config.model, path="owner/weights"))
    assert stage.run_on(ClusterJobs(Server(), PLACE), Schedule.of(steps_of(hub))) == 0
    assert looked == ["prepare"]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    looked.clear()
    again = Schedule.of(steps_of(config))
    assert stage.run_on(ClusterJobs(server, PLACE), again) == 0
    assert looked == list(again.progress)
    assert len(server.jobs) == len(again.progress)


def test_the_best_of_a_search_wants_a_place_that_the_cluster_has_too(
    file: Path, schedule: Schedule
) -> None:
    section = JobSection(stage="train", name="best", best_of="search")
    config = load_config(file)
    config = replace(config, pipeline=replace(config.pipeline, jobs=(section,)))
    for root, is_fine in (("runs/here", False), ("s3://bucket/run", True), ("/mnt/run", True)):
        placed = replace(config, run=replace(config.run, output_dir=root))
        (step,) = steps_of(placed)
        outside = ClusterJobs(Server(), Place("graph.toml", working_dir="."))
        if is_fine:
            entrypoint = outside.request(step)["entrypoint"]
            assert entrypoint.startswith(f"python jobs/train.py --config {root}/tune/search/best.t")
        else:
            with pytest.raises(ConfigError, match=r"best_of: wanted a run\.output_dir that means"):
                outside.request(step)


def test_a_job_that_the_cluster_has_yet_to_start_is_shown_as_pending(schedule: Schedule) -> None:
    server = Server()
    jobs, (step, *_) = ClusterJobs(server, PLACE), schedule.ready()
    name = jobs.start(step)
    server.jobs[name].status = "PENDING"
    assert jobs.status(step) == "pending"
    schedule.mark(step.name, "pending")
    assert not schedule.is_over
    assert step not in schedule.ready()
    assert jobs.status(step) == "finished"


def test_a_submission_whose_answer_is_lost_is_followed(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    submit = server.submit_job

    def lost(**request: Any) -> str:
        submit(**request)
        raise ConnectionError("reset")

    monkeypatch.setattr(server, "submit_job", lost)
    assert stage.run_on(ClusterJobs(server, PLACE), schedule) == 0
    assert len(server.jobs) == len(schedule.progress)


def test_a_server_out_of_reach_at_a_submission_is_asked_again(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, known = Server(), list[list[Job]]()
    listed = server.list_jobs

    def away_at_first() -> list[Job]:
        known.append(listed())
        if len(known) == 1:
            raise ConnectionError("refused")
        return known[-1]

    monkeypatch.setattr(server, "list_jobs", away_at_first)
    assert stage.run_on(ClusterJobs(server, PLACE), schedule) == 0
    assert len(server.jobs) == len(schedule.progress)


def test_a_submission_that_never_arrived_fails_its_step_while_others_run(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    submit, listed, status = server.submit_job, server.list_jobs, server.get_job_status
    away = list[str]()

    def lost(*, submission_id: str, **request: Any) -> str:
        if request["metadata"]["pipeline_step"] == "prepare":
            away.append(submission_id)
            raise ConnectionError("reset")
        return submit(submission_id=submission_id, **request)

    def list_jobs() -> list[Job]:
        if len(away) == 1:  # still out of reach when it is asked whether it has the job
            away.append("asked")
            raise ConnectionError("refused")
        return listed()

    def get_job_status(name: str) -> str:
        if name not in server.jobs:
            raise RuntimeError("Request failed with status code 404: it does not exist.")
        return status(name)

    for name, method in (("submit_job", lost), ("list_jobs", list_jobs)):
        monkeypatch.setattr(server, name, method)
    monkeypatch.setattr(server, "get_job_status", get_job_status)
    monkeypatch.setattr("pipeline.graph.cluster_jobs._SUBMISSION_S", -1.0)
    assert stage.run_on(ClusterJobs(server, PLACE), schedule) == 1
    assert schedule.progress["prepare"].status == "failed"
    assert schedule.progress["evaluate-base"].status == "finished"
    assert schedule.progress["weft-0"].status == "blocked"


def test_a_job_that_ended_before_its_lost_answer_is_not_submitted_again(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    submit = server.submit_job

    def lost(**request: Any) -> str:
        name = submit(**request)
        server.jobs[name].status, server.looks[name] = "SUCCEEDED", 2
        raise ConnectionError("reset")

    monkeypatch.setattr(server, "submit_job", lost)
    assert stage.run_on(ClusterJobs(server, PLACE), schedule) == 0
    assert len(server.jobs) == len(schedule.progress)


def test_a_job_that_may_have_come_through_is_named_when_the_server_stays_silent(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    submit = server.submit_job

    def gone(*args: Any, **request: Any) -> Any:
        raise ConnectionError("refused")

    def last_word(**request: Any) -> str:
        submit(**request)
        for name in ("list_jobs", "get_job_status", "submit_job"):
            monkeypatch.setattr(server, name, gone)
        raise ConnectionError("reset")

    monkeypatch.setattr(server, "submit_job", last_word)
    for name in ("_SUBMISSION_S", "_PATIENCE_S"):
        monkeypatch.setattr(f"pipeline.graph.cluster_jobs.{name}", -1.0)
    (step, *_) = schedule.ready()
    with pytest.raises(PipelineError, match="does not answer"):
        stage.run_on(ClusterJobs(server, PLACE), schedule)
    shown = capsys.readouterr().out
    assert [name for name in server.jobs if STOP.format(name) in shown] == [*server.jobs]
    assert schedule.progress[step.name].status != "failed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_of_the_pipeline_or_a_closed_terminal_names_the_jobs_that_go_on(
    number: signal.Signals,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Server()
    monkeypatch.setattr(stage, "connect", lambda address: server)
    monkeypatch.setattr(server, "get_job_status", lambda name: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        run_pipeline(["--config", str(file), "--pipeline.address", ADDRESS])
    assert caught.value.code == 128 + number
    shown = capsys.readouterr().out
    assert server.jobs
    assert all(STOP.format(name) in shown for name in server.jobs)
    assert signal.getsignal(number) is before


def test_a_hang_up_that_nohup_ignores_stays_ignored(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, handlers = Server(), list[Any]()
    listed = server.list_jobs
    monkeypatch.setattr(stage, "connect", lambda address: server)
    monkeypatch.setattr(
        server, "list_jobs", lambda: handlers.append(signal.getsignal(signal.SIGHUP)) or listed()
    )
    monkeypatch.setattr(stage, "_POLL_S", 0.001)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_pipeline(["--config", str(file), "--pipeline.address", ADDRESS]) == 0
        assert {*handlers} == {signal.SIG_IGN}
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_during_a_submission_stops_the_others(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    jobs = ClusterJobs(server, PLACE)
    start = jobs.start

    def interrupted(step: Any) -> str:
        if step.name == "evaluate-base":
            raise KeyboardInterrupt
        return start(step)

    monkeypatch.setattr(jobs, "start", interrupted)
    monkeypatch.setattr(interrupts, "_is_wanted", lambda question: True)
    assert stage.run_on(jobs, schedule) == 130
    assert {job.status for job in server.jobs.values()} == {"STOPPED"}


def test_a_second_interrupt_while_jobs_are_stopped_names_what_goes_on(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    jobs = ClusterJobs(server, PLACE)

    def interrupted(step: object) -> str:
        raise KeyboardInterrupt

    for name in ("status", "stop"):
        monkeypatch.setattr(jobs, name, interrupted)
    monkeypatch.setattr(interrupts, "_is_wanted", lambda question: True)
    with pytest.raises(KeyboardInterrupt):
        stage.run_on(jobs, schedule)
    shown = capsys.readouterr().out
    assert server.jobs
    assert all(STOP.format(name) in shown for name in server.jobs)


def test_what_no_job_can_be_is_said_before_the_first_one_starts(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace("HF_HOME = ", "HF_HOME "))
    assert run_pipeline(["--config", str(file)]) == 2  # here
    assert "sft: env: wanted lines" in capsys.readouterr().err
    assert not (file.parent / "run" / "prepared").exists()
    server = Server()
    with pytest.raises(ConfigError, match="sft: env: wanted lines"):
        stage.run_on(ClusterJobs(server, PLACE), Schedule.of(steps_of(load_config(file))))
    assert server.jobs == {}


def test_whatever_ends_the_pipeline_jobs_that_go_on_are_named(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    jobs = ClusterJobs(server, PLACE)

    def broken(step: object) -> str:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(jobs, "status", broken)
    with pytest.raises(ValueError, match="nobody"):
        stage.run_on(jobs, schedule)
    shown = capsys.readouterr().out
    assert server.jobs
    assert all(STOP.format(name) in shown for name in server.jobs)


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), SystemExit("a bug")])
def test_here_any_failure_of_a_step_leaves_the_others_alone(
    failure: BaseException,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = list[str]()

    def run_job(name: str, arguments: list[str]) -> int:
        ran.append(name)
        if name == "prepare":
            raise failure
        if name == "evaluate":
            os.environ["LEFT"] = "behind"
        return 0

    monkeypatch.setattr(stage, "run_job", run_job)
    assert run_pipeline(["--config", str(file)]) == 1
    assert ran == ["prepare", "evaluate"]  # that of the base; trainings wait for prepare
    captured = capsys.readouterr()
    assert f"{type(failure).__name__}: a bug" in captured.err
    assert "weft-0           blocked" in captured.out
    assert "LEFT" not in os.environ


def test_here_an_interrupt_stops_and_shows_how_far_it_came(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stage, "run_job", lambda name, arguments: 130)
    assert run_pipeline(["--config", str(file)]) == 130
    assert "prepare          stopped" in capsys.readouterr().out


def test_a_dry_run_prints_the_graph_and_starts_nothing(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_pipeline(["--config", str(file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "8 jobs; no cluster" in out
    assert "jobs/train.py --config" in out
    assert not (file.parent / "run").exists()
