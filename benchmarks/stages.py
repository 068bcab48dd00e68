"""Every stage as a job at the size of a published model: ``python -m benchmarks.stages``.

LLaDA-8B with random weights by default (``--size tiny``: the embedded denoiser as it is), the
tokenizer of the embedded denoiser, generated Sudokus and, with ``$WEFT_SHARED_DATA`` or
``../shared/data``, real traces. The training, of an adapter unless the model is the embedded one,
is killed behind its first state and started again. Prints what each job says of itself and its
seconds, of which starting Ray and loading weights are a part.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
import tyro

from benchmarks.jobs import job_command, wait_for_state
from benchmarks.measure import print_results
from benchmarks.problems import Device, fill_randomly, shared_data
from benchmarks.published import PublishedName, write_published
from pipeline.config import (
    DataSection,
    EvaluateSection,
    LoraSection,
    ModelSection,
    ParameterSection,
    ReferenceSection,
    RunConfig,
    RunSection,
    SourceSection,
    TrainSection,
    TuneSection,
)
from pipeline.config_file import format_config
from pipeline.tables import text_table
from weft.models import meta_denoiser, save_denoiser
from weft.models.checkpoints import EMBEDDED, load_tokenizer

_TIMEOUT_S = 60
"""Until what a killed job left behind is gone."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run, and where."""

    size: PublishedName | Literal["tiny"] = "llada8b"
    num_layers: int = 0
    """Blocks instead of the published number; 0 leaves it."""
    is_narrow: bool = False
    """Blocks of the least width."""
    device: Device = "cpu"
    """On a GPU the network is in bfloat16."""
    folder: str = ""
    """Where checkpoint and artifacts go, a new one; without one, nothing is left."""
    puzzles: int = 256
    traces: int = 64
    """Real ones, where they are there."""
    max_length: int = 2048
    steps: int = 8
    """Of training, in batches of 16."""
    items: int = 16
    """Sudokus that each of base and trained checkpoint is evaluated on."""
    search: bool = False
    """Search over two learning rates as well."""


def main(settings: Settings) -> None:
    """Run the stages one after the other."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(settings.folder or temporary)
        if (folder / "checkpoints").exists():
            raise SystemExit(f"{folder}: has a run already; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.toml"
        config.write_text(format_config(_config(settings, folder)))
        torch.cuda.empty_cache()  # what is left is for the jobs
        rows, seconds = [], {}
        for name, seconds[name], said in _jobs(config, settings):
            rows.append((name, f"{seconds[name]:.1f}", said))
            print(f"{name}: {seconds[name]:.1f} s", flush=True)
    print(text_table(("job", "seconds", "its last line"), rows))
    print_results(**{name.replace(" ", "_"): value for name, value in seconds.items()})


def _jobs(config: Path, settings: Settings) -> Iterator[tuple[str, float, str]]:
    """Run each job; its name, its seconds, and its last line."""
    yield "prepare", *_finish("prepare", config)
    yield "reference", *_finish("reference", config)
    yield "train until killed", *_killed(config)
    yield "train from its state", *_finish("train", config, must_say="resumed step=")
    if settings.search:
        yield "tune", *_finish("tune", config)
    for checkpoint in ("base", "weft"):
        arguments = ("--checkpoint", checkpoint)
        yield f"evaluate {checkpoint}", *_finish("evaluate", config, *arguments)
    yield "report", *_finish("report", config)


def _finish(stage: str, config: Path, *arguments: str, must_say: str = "") -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(
        job_command(stage, config, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode or must_say not in done.stdout:
        raise SystemExit(f"{stage} ended with {done.returncode}:\n{done.stdout}")
    said = re.findall(rf"^{stage}: .*", done.stdout, re.MULTILINE)
    return time.perf_counter() - started, said[-1] if said else ""


def _killed(config: Path) -> tuple[float, str]:
    """A training whose processes are all killed once it has a state."""
    started = time.perf_counter()
    with config.with_name("killed.log").open("w") as output:
        process = subprocess.Popen(
            job_command("train", config),
            start_new_session=True,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    wait_for_state(config.parent / "checkpoints" / "weft", process)
    ray = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(ray, timeout=_TIMEOUT_S)
    return time.perf_counter() - started, "killed"


def _config(settings: Settings, folder: Path) -> RunConfig:
    is_gpu = settings.device == "cuda"
    num_actors = 2 if settings.size == "tiny" else 1  # which share a card
    num_gpus = 1.0 / num_actors if is_gpu else 0.0
    precision: Literal["float32", "bfloat16"] = "bfloat16" if is_gpu else "float32"
    return RunConfig(
        run=RunSection(output_dir=str(folder)),
        data=DataSection(
            sources=(
                SourceSection(kind="task", task="sudoku", count=settings.puzzles),
                *_real_traces(settings),
            ),
            max_length=settings.max_length,
            too_long="truncate",
        ),
        model=ModelSection(path=_checkpoint(settings, folder / "model")),
        lora=LoraSection(enabled=settings.size != "tiny"),
        reference=ReferenceSection(
            precision=precision, num_actors=num_actors, num_cpus=1.0, num_gpus=num_gpus
        ),
        train=TrainSection(
            max_steps=settings.steps,
            batch_size=16,
            micro_batch_tokens=8192,
            warmup_steps=0,
            precision=precision,
            gradient_checkpointing=True,
            packing=True,
            cpus_per_worker=1.0,
            use_gpu=is_gpu,
            log_every=1,
            checkpoint_every=max(1, settings.steps // 2),
        ),
        tune=TuneSection(
            search="grid",
            scheduler="none",
            held_out=16,
            num_measures=2,
            finalists=1,
            space=(ParameterSection(key="train.learning_rate", values=(3e-4, 1e-3)),),
        ),
        evaluate=EvaluateSection(
            tasks=("sudoku",),
            num_items=settings.items,
            gen_lengths=(128,),
            block_length=32,
            steps=64,
            cache="prefix",
            precision=precision,
            batch_size=16,
            num_actors=num_actors,
            num_cpus=1.0,
            num_gpus=num_gpus,
        ),
    )


def _real_traces(settings: Settings) -> tuple[SourceSection, ...]:
    path = shared_data() / "traces" / "math_train_hard_human.jsonl.gz"
    if not path.is_file():
        return ()
    return (
        SourceSection(
            kind="files",
            path=str(path.resolve()),
            prompt_column="question",
            response_column="answer",
            reasoning_column="reasoning",
            max_examples=settings.traces,
        ),
    )


def _checkpoint(settings: Settings, folder: Path) -> str:
    """What ``model.path`` is: a folder in the published layout, with random weights."""
    if settings.size == "tiny":
        return "tiny"
    path = write_published(
        folder, settings.size, num_layers=settings.num_layers, is_narrow=settings.is_narrow
    )
    embedded = EMBEDDED["tiny"]
    for file in embedded.iterdir():
        if file.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(file, folder)
    tokenizer, described = load_tokenizer(str(embedded)), folder / "config.json"
    eos = tokenizer.eos_token_id
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": eos, "pad_token_id": eos}
    described.write_text(json.dumps(json.loads(described.read_text()) | ids))
    denoiser = meta_denoiser(path)
    denoiser.cast(torch.bfloat16 if settings.device == "cuda" else torch.float32)
    fill_randomly(denoiser, torch.device(settings.device))
    save_denoiser(denoiser, folder)
    return path


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
