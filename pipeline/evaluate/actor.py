"""Decoding and grading one shard of items; what an evaluation actor does."""

import dataclasses
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import EvaluateSection
from pipeline.evaluate.decoders import Answer, Decoder, open_decoder
from pipeline.evaluate.items import load_items
from pipeline.evaluate.rows import PartWriter
from pipeline.protocols import Decoding, decoding


@dataclass(frozen=True)
class Shard:
    """Items of one task for one evaluation."""

    folder: str
    """Of the evaluation."""
    checkpoint: str
    name: str
    """Of the checkpoint, in the rows."""
    task: str
    gen_length: int
    positions: tuple[int, ...]
    """Places of the items among those of the task."""


class EvaluateActor:
    """Holds one model at a time; called with a row that describes a shard."""

    def __init__(self, section: EvaluateSection, max_length: int) -> None:
        """Nothing is loaded before the first shard says what.

        ``max_length``: tokens of the longest prompt and answer.
        """
        from weft.tasks.grading.limits import Graders

        self.section, self.max_length = section, max_length
        self.graders = Graders(timeout_s=section.grader_timeout_s)
        self._checkpoint = ""
        self._decoder: Decoder | None = None
        self._items: dict[str, list[Any]] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Decode, grade and write the items of one shard."""
        shard = Shard(**row | {"positions": tuple(row["positions"])})
        if shard.task not in self._items:
            self._items[shard.task] = load_items(self.section, shard.task)
        items = self._items[shard.task]
        writer = PartWriter(shard.folder)
        for found in self._rows(shard, [items[k] for k in shard.positions]):
            writer.add(found)
        writer.flush()
        return {"num_items": len(shard.positions)}

    def _rows(self, shard: Shard, problems: list[Any]) -> Iterator[dict[str, Any]]:
        how = decoding(self.section, shard.task, shard.gen_length)
        facts = {
            "checkpoint": shard.name,
            "engine": self.section.engine,
            "precision": self.section.precision,
            "seed": self.section.seed,
        }
        rows = evaluate_items(self._opened(shard.checkpoint), problems, how, self.graders)
        for index, row in rows:
            yield row | facts | {"position": shard.positions[index]}

    def _opened(self, checkpoint: str) -> Decoder:
        """The decoder over ``checkpoint``; the one before it is given up first."""
        if self._decoder is None or checkpoint != self._checkpoint:
            self._decoder = None
            self._decoder = open_decoder(checkpoint, self.section, self.max_length)
            self._checkpoint = checkpoint
        return self._decoder


def evaluate_items(
    decoder: Decoder, problems: Sequence[Any], how: Decoding, graders: Any
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and result row of each problem, as it is done. Knows no Ray.

    Decoding goes on while a grader is busy in its own process.
    """
    from weft.tasks import get_task

    prompts = [get_task(p.task).prompt(p, how.prompt_style) for p in problems]
    waiting: deque[tuple[Answer, Any]] = deque()
    for answer in decoder.decode(prompts, [p.item_id for p in problems], how):
        waiting.append((answer, graders.start(problems[answer.index], answer.gradable)))
        while waiting and waiting[0][1].is_done:
            yield _row(*waiting.popleft(), problems, prompts, how)
    while waiting:
        yield _row(*waiting.popleft(), problems, prompts, how)


def _row(
    answer: Answer, grading: Any, problems: Sequence[Any], prompts: Sequence[Any], how: Decoding
) -> tuple[int, dict[str, Any]]:
    problem, verdict = problems[answer.index], grading.result()
    row = {
        "task": problem.task,
        "item_id": problem.item_id,
        "prompt": prompts[answer.index].text,
        "generation": answer.text,
        "extracted": verdict.extracted,
        "correct": verdict.correct,
        "d1_correct": verdict.d1_correct,
        "timed_out": verdict.timed_out,
        "details": json.dumps(dict(verdict.details), sort_keys=True),
    }
    return answer.index, row | _measures(answer) | how.flags()


def _measures(answer: Answer) -> dict[str, Any]:
    values = dataclasses.asdict(answer)
    return {
        name: value for name, value in values.items() if name not in ("index", "text", "gradable")
    }
