"""The whole pipeline on three raylets, each stage as a job of its own."""

import pytest
from ray.job_submission import JobSubmissionClient

from tests.cluster.conftest import Run
from tests.cluster.raylets import Raylets
from tests.cluster.workload import CONFIG, STAGES, check_whole, rows
from tests.pipeline.processes import TIMEOUT_S, start

pytestmark = pytest.mark.cluster


def test_each_stage_is_a_job_of_its_own(cluster: Raylets, undisturbed: Run) -> None:
    jobs = JobSubmissionClient(cluster.dashboard).list_jobs()
    submitted = {job.metadata["pipeline_step"]: job for job in jobs if job.metadata}
    # Two checkpoints are evaluated: what was trained, and what it began as.
    evaluations = {"evaluate-base", "evaluate-weft"}
    assert submitted.keys() == {*STAGES} - {"evaluate"} | evaluations
    assert {str(job.status) for job in submitted.values()} == {"SUCCEEDED"}
    check_whole(undisturbed.root)
    found = rows(undisturbed.root)
    assert {*found.values()} == {1}
    stages = [stage for stage, *_ in found]
    assert (stages.count("evaluate"), stages.count("tune")) == (2 * 24, 2)
    assert (undisturbed.root / "report" / "index.html").is_file()


def test_started_again_it_does_nothing_twice(cluster: Raylets, undisturbed: Run) -> None:
    manifest = undisturbed.root / "checkpoints" / "weft" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    arguments = ("--run.output-dir", str(undisturbed.root), "--pipeline.only", "train")
    process = start("pipeline", CONFIG, *arguments, env=cluster.job_env)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert manifest.stat().st_mtime_ns == before
