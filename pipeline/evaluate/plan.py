"""Which evaluations a configuration asks for, and the shards that they are made in."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline import artifacts, protocols
from pipeline.artifacts import Manifest
from pipeline.config import EvaluateSection, RunConfig
from pipeline.errors import ConfigError
from pipeline.evaluate.actor import Shard
from pipeline.layout import layout
from pipeline.models import named_checkpoint, weights_fingerprint
from pipeline.tokenization import prompt_ids
from pipeline.tokenizers import any_tokenizer_at, open_tokenizer_at, tokenizer_fingerprints_of

BASE = "base"
"""Stands for model.path among the checkpoints."""
_SHARDS_PER_ACTOR = 2

Items = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Target:
    """One evaluation: a checkpoint at one length of the canvas."""

    name: str
    checkpoint: str
    """Path of the model."""
    gen_length: int
    folder: str
    wanted: Manifest


def plan_targets(config: RunConfig, items: Items) -> list[Target]:
    """The evaluations that ``config`` asks for; errors of checkpoints that are not there.

    Raises ConfigError where two of them would share a folder.
    """
    lengths = protocols.gen_lengths(config.evaluate)
    targets = [
        Target(
            name := evaluation_name(config, wanted, length),
            path := checkpoint_path(config, wanted),
            length,
            layout(config).evaluation(name),
            _wanted(config.evaluate, path, length, items),
        )
        for wanted in checkpoints(config)
        for length in lengths
    ]
    names = [target.name for target in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"evaluate.checkpoints: wanted names of their own, got {', '.join(twice)} for several; "
            f"evaluate them one by one, each with an evaluate.name"
        )
    return targets


def checkpoints(config: RunConfig) -> tuple[str, ...]:
    """What is evaluated, as it is asked for."""
    return config.evaluate.checkpoints or (BASE,)


def checkpoint_path(config: RunConfig, wanted: str) -> str:
    """Path of the checkpoint ``wanted``: a name under checkpoints/, a path, or the base model."""
    if wanted == BASE:
        return config.model.path
    return named_checkpoint(config, wanted, "evaluate.checkpoints")


def evaluation_name(config: RunConfig, wanted: str, gen_length: int) -> str:
    """Folder name of an evaluation; see ``EvaluateSection.name``."""
    section = config.evaluate
    own = PurePosixPath(wanted).name
    data = PurePosixPath(section.data_dir).name
    parts = [section.name or own]
    if section.name and len(checkpoints(config)) > 1:
        parts.append(own)
    if data and not section.name:
        parts.append(data)
    if len(protocols.gen_lengths(section)) > 1:
        parts.append(str(gen_length))
    return "-".join(parts)


def _wanted(section: EvaluateSection, path: str, gen_length: int, items: Items) -> Manifest:
    values = {key: getattr(section, key) for key in ("engine", "precision", "seed", "interval")}
    # What is asked for as 0 or by a protocol's name is the same as what that stands for.
    values["decoding"] = {
        task: protocols.decoding(section, task, gen_length).flags() for task in items
    }
    contents = {
        # The order of the items decides nothing.
        f"items_{task}": artifacts.fingerprint(
            sorted([[p.item_id, p.data] for p in problems], key=str)
        )
        for task, problems in items.items()
    }
    inputs = {"weights": weights_fingerprint(path)} | contents
    return Manifest(
        stage="evaluate",
        config={"evaluate": values},
        inputs=inputs | tokenizer_fingerprints_of(open_tokenizer(section, path)),
    )


def open_tokenizer(section: EvaluateSection, path: str) -> Any:
    """The tokenizer of the model at ``path``; of a denoiser it must have a mask token."""
    return any_tokenizer_at(path) if section.engine == "vllm" else open_tokenizer_at(path)


def prompt_lengths(section: EvaluateSection, path: str, items: Items) -> dict[str, list[int]]:
    """Tokens of every prompt, by task; the form of a prompt does not depend on the canvas."""
    from weft.tasks import get_task

    tokenizer, length = open_tokenizer(section, path), protocols.gen_lengths(section)[0]
    found = {}
    for task, problems in items.items():
        style = protocols.decoding(section, task, length).prompt_style
        prompts = (get_task(task).prompt(p, style) for p in problems)
        found[task] = [len(prompt_ids(tokenizer, p.text, p.prefill)) for p in prompts]
    return found


def plan_shards(
    section: EvaluateSection,
    target: Target,
    missing: Mapping[str, Sequence[int]],
    lengths: Mapping[str, Sequence[int]],
) -> Iterator[Shard]:
    """Shards of the ``missing`` items of each task, of prompts of like length, at least two an
    actor where there are whole batches enough."""
    for task, positions in missing.items():
        if not positions:
            continue
        ordered = sorted(positions, key=lambda k: (lengths[task][k], k))
        slots = section.num_actors * _SHARDS_PER_ACTOR
        size = math.ceil(len(ordered) / slots / section.batch_size) * section.batch_size
        for start in range(0, len(ordered), size):
            part = tuple(ordered[start : start + size])
            own = PurePosixPath(target.checkpoint).name
            yield Shard(target.folder, target.checkpoint, own, task, target.gen_length, part)
