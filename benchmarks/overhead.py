"""The Ray Train job against a bare loop: ``python -m benchmarks.overhead``.

Both train the embedded denoiser on the same batches with one worker of one thread. The job is timed
by its own metrics, which leave out its start and its checkpoints; the bare loop is PyTorch alone.
"""

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.jobs import job_command, prepare_puzzles
from benchmarks.measure import median_ratio, print_results
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.models import new_denoiser
from pipeline.train.data import make_batch
from pipeline.train.held_out import open_data
from pipeline.train.loop import method_config
from pipeline.train.plan import plan_of
from weft.step import denoising_step


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the problem."""

    steps: int = 40
    window: int = 10
    """Steps that are timed together; the first window is not counted."""
    rounds: int = 3


def _job_seconds(config: Path, name: str) -> float:
    """Seconds of all windows but the first, by the job's own clock."""
    command = job_command("train", config, "--train.name", name)
    subprocess.run(command, check=True, capture_output=True)
    folder = Path(load_config(str(config)).run.output_dir) / "checkpoints" / name
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line)["seconds"] for line in lines[1:])


def _bare_seconds(config: RunConfig, settings: Settings) -> float:
    """Seconds of the same steps in a loop of PyTorch alone."""
    torch.set_num_threads(1)
    data = open_data(config, uses_entropies=False)
    plan, method = plan_of(config, data), method_config(config)
    denoiser = new_denoiser(config).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, fused=True)
    started = 0.0
    for number, examples in enumerate(plan.epoch_steps(0)[: settings.steps]):
        if number == settings.window:
            started = time.perf_counter()
        count = 0
        for indices in plan.micro_batches(examples, 0, 1, epoch=0):
            eos = denoiser.eos_token_id
            batch = make_batch(
                data, indices, config, seed=config.run.seed, epoch=0, eos_token_id=eos
            )
            sums = denoising_step(denoiser, batch, method)
            sums.loss_sum.backward()
            count += int(sums.normalizer_count)
        for parameter in denoiser.parameters():
            parameter.grad.div_(count)
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def main(settings: Settings) -> None:
    """Run job and loop in turns, and print the quotient of their times."""
    with tempfile.TemporaryDirectory() as folder:
        path = prepare_puzzles(
            Path(folder),
            epochs=1,
            max_steps=settings.steps,
            log_every=settings.window,
            checkpoint_every=100000,
        )
        config = load_config(str(path))
        job, bare = [], []
        for number in range(settings.rounds):
            job.append(_job_seconds(path, f"job-{number}"))
            bare.append(_bare_seconds(config, settings))
    for name, seconds in (("job", job), ("bare", bare)):
        print(f"{name}: {', '.join(f'{s:.2f}' for s in seconds)} s")
    print_results(job_over_bare=median_ratio(job, bare))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
