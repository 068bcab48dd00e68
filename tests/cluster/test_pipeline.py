"""The whole pipeline on three raylets, each stage as a job of its own."""

import pytest
from ray.job_submission import JobSubmissionClient

from tests.cluster.conftest import Run
from tests.cluster.raylets import Raylets
from tests.cluster.workload import STAGES, check_whole, rows, submit

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
    assert (stages.count("evaluate"), stages.count("tune")) == (2 * 16, 2)
    assert (undisturbed.root / "report" / "index.html").is_file()
    # What is printed is the pipeline's own.
    assert "INFO" not in undisturbed.output


def test_started_again_as_a_job_itself_it_does_nothing_twice(
    cluster: Raylets, undisturbed: Run
) -> None:
    manifests = [
        *undisturbed.root.glob("*/manifest.json"),
        *undisturbed.root.glob("*/*/manifest.json"),
    ]
    before = {p: p.stat().st_mtime_ns for p in manifests if p.parent.name != "report"}
    done = submit(cluster, "pipeline", "--run.output-dir", str(undisturbed.root))
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = {line.split()[0] for line in done.stdout.splitlines() if " skipped " in line}
    made = {*STAGES} - {"evaluate", "report"} | {"evaluate-base", "evaluate-weft"}
    assert skipped == made  # the report is of whatever there is
    assert {path: path.stat().st_mtime_ns for path in before} == before
