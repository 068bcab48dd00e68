"""What the EOS policy is for: a canvas of twice the needed length costs no accuracy."""

import dataclasses

import numpy as np
import torch

from pipeline.config import RunConfig
from pipeline.models import open_denoiser
from pipeline.statistics import accuracy_interval
from pipeline.tokenization import Encoded, encode, prompt_ids
from pipeline.tokenizers import open_tokenizer_at
from pipeline.train.data import TrainingData
from pipeline.train.loop import TrainState, World, train
from pipeline.train.optim import build_optimizers
from pipeline.train.plan import BatchPlan, as_lengths
from weft.sampling import DecodeSettings, generate

NEEDED = 12
NUM_STEPS = 50
NUM_ITEMS = 100
BATCH_SIZE = 32


class Silent:
    """A reporter that keeps nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        pass

    def checkpoint(self, step: int, values: dict[str, float]) -> None:
        pass


def sums(count: int, seed: int) -> list[tuple[str, str]]:
    """``("add 47 and 85", "47+85=132")``."""
    pairs = np.random.default_rng(seed).integers(10, 100, size=(count, 2)).tolist()
    return [(f"add {a} and {b}", f"{a}+{b}={a + b}") for a, b in pairs]


def fine_tuned() -> torch.nn.Module:
    """The embedded base after a few steps of SFT on sums in a form that is new to it."""
    tokenizer, denoiser = open_tokenizer_at("tiny"), open_denoiser("tiny")
    rows = []
    for number, (prompt, response) in enumerate(sums(NUM_STEPS * BATCH_SIZE, seed=0)):
        encoded = encode(tokenizer, prompt, response, max_length=128, too_long="reject")
        assert isinstance(encoded, Encoded)
        ids = {"prompt_ids": encoded.prompt_ids, "response_ids": encoded.response_ids}
        rows.append({"example_id": str(number), **ids})
    lengths = [len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows]
    names = [row["example_id"] for row in rows]
    data = TrainingData(rows, names, np.array(lengths), has_entropies=False)
    config = RunConfig()
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, max_length=128, eos_policy="random_tail", tail_max=2 * NEEDED
        ),
        rates=dataclasses.replace(config.rates, gamma=0.0),
        train=dataclasses.replace(
            config.train, batch_size=BATCH_SIZE, learning_rate=3e-3, optimizer="muon"
        ),
    )
    plan = BatchPlan(
        example_ids=names,
        lengths=as_lengths(lengths),
        seed=0,
        eps=1e-3,
        stratified=True,
        batch_size=BATCH_SIZE,
        micro_batch_tokens=4096,
        tail_max=2 * NEEDED,
        max_length=128,
    )
    state = TrainState(denoiser, build_optimizers(denoiser, config.train, NUM_STEPS))
    train(
        state,
        lambda step: data,
        plan,
        config,
        num_steps=NUM_STEPS,
        world=World(),
        reporter=Silent(),
    )
    return denoiser.eval()


def correct(denoiser: torch.nn.Module, gen_length: int) -> list[bool]:
    """Which held-out sums come out as they should, on a canvas of ``gen_length``."""
    tokenizer, items = open_tokenizer_at("tiny"), sums(NUM_ITEMS, seed=1)
    prompts = [prompt_ids(tokenizer, prompt) for prompt, _ in items]
    settings = DecodeSettings(gen_length=gen_length, block_length=gen_length, steps=gen_length)
    found = generate(denoiser, prompts, settings)
    texts = [tokenizer.decode(t).split(tokenizer.eos_token)[0] for t in found.tokens.tolist()]
    return [text.strip() == wanted for text, (_, wanted) in zip(texts, items, strict=True)]


def test_accuracy_holds_at_twice_the_needed_length() -> None:
    denoiser = fine_tuned()
    needed, twice = correct(denoiser, NEEDED), correct(denoiser, 2 * NEEDED)
    assert sum(needed) > 0.7 * NUM_ITEMS
    assert sum(twice) / NUM_ITEMS >= accuracy_interval(needed, "wilson").low
