import math
import time

import pytest
import torch

from weft.noise import (
    example_generator,
    noise_levels,
    shuffled_steps,
    stratified_steps,
    tail_length,
    token_uniforms,
)

IDS = [f"example-{i}" for i in range(103)]
KNOWN_LEVEL = 0.1789502203464508
KNOWN_UNIFORMS = [0.10735386610031128, 0.9012849926948547, 0.9206836819648743]
KNOWN_TAILS = [27, 16, 21]


def test_noise_levels_depend_on_the_key_alone():
    alone = torch.cat([noise_levels(3, 1, [name], eps=1e-3) for name in IDS])
    together = noise_levels(3, 1, IDS, eps=1e-3)
    backwards = noise_levels(3, 1, IDS[::-1], eps=1e-3).flip(0)
    assert torch.equal(alone, together)
    assert torch.equal(backwards, together)


@pytest.mark.parametrize(("seed", "epoch"), [(4, 1), (3, 2)])
def test_noise_levels_change_with_seed_and_epoch(seed, epoch):
    changed = noise_levels(seed, epoch, IDS, eps=1e-3)
    assert not bool((changed == noise_levels(3, 1, IDS, eps=1e-3)).any())


def test_noise_levels_are_uniform_between_eps_and_one():
    levels = noise_levels(0, 0, [str(i) for i in range(20000)], eps=0.25)
    assert levels.dtype == torch.float32
    assert 0.25 <= levels.min() < 0.2501
    assert 0.9999 < levels.max() < 1.0
    # The standard error of a uniform's distribution function on 20000 draws is at most 0.0036.
    counts = torch.histc(levels, bins=5, min=0.25, max=1.0) / 20000
    assert torch.allclose(counts, torch.full((5,), 0.2), atol=4 * 0.0036)


@pytest.mark.parametrize("eps", [0.0, 1.0, -0.1, float("nan")])
def test_noise_levels_refuse_an_impossible_eps(eps):
    with pytest.raises(ValueError, match="eps"):
        noise_levels(0, 0, IDS, eps=eps)


def test_noise_levels_of_many_examples_are_fast():
    names = [str(i) for i in range(100_000)]
    started = time.process_time()
    stratified_steps(noise_levels(0, 0, names, eps=1e-3), seed=0, epoch=0, batch_size=64)
    # A million examples in a minute would be 6 s here; it takes about 0.3 s.
    assert time.process_time() - started < 6


def test_token_uniforms_do_not_depend_on_what_follows():
    long = token_uniforms(5, 2, "a", 200)
    for length in (0, 1, 7, 15, 16, 17, 64, 199):
        assert torch.equal(token_uniforms(5, 2, "a", length), long[:length])


def test_token_uniforms_are_exact_cell_centres_inside_the_open_interval():
    uniforms = token_uniforms(0, 0, "a", 50_000)
    assert uniforms.min() > 0
    assert uniforms.max() < 1
    cells = uniforms.double() * 2**23 - 0.5
    assert torch.equal(cells, cells.round())
    # Standard error of the mean: sqrt(1 / 12 / 50000) = 0.0013.
    assert abs(float(uniforms.mean()) - 0.5) < 4 * 0.0013


def test_streams_are_independent_of_each_other():
    draws = {
        stream: float(torch.rand((), generator=example_generator(0, 0, "a", stream)))
        for stream in ("noise_level", "mask", "tail", "order", "reference")
    }
    assert len(set(draws.values())) == len(draws)


def test_example_generator_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    token_uniforms(0, 0, "a", 10)
    tail_length(0, 0, "a", 10)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_known_draws_never_change():
    """A resumed run of an older version must see the same noise; these are that contract."""
    levels = noise_levels(0, 0, ["a"], eps=1e-3)
    assert float(levels) == pytest.approx(KNOWN_LEVEL, abs=1e-7)
    assert token_uniforms(0, 0, "a", 3).tolist() == pytest.approx(KNOWN_UNIFORMS, abs=1e-7)
    assert [tail_length(0, epoch, "a", 32) for epoch in range(3)] == KNOWN_TAILS


@pytest.mark.parametrize("tail_max", [1, 3, 10])
def test_tail_length_is_uniform_on_its_range(tail_max):
    counts = [0] * (tail_max + 1)
    for i in range(2000):
        counts[tail_length(0, 0, str(i), tail_max)] += 1
    share = 1 / (tail_max + 1)
    limit = 4 * math.sqrt(2000 * share * (1 - share))
    assert all(abs(count - 2000 * share) < limit for count in counts)
    assert tail_length(0, 0, "a", 0) == 0
    with pytest.raises(ValueError, match="tail_max"):
        tail_length(0, 0, "a", -1)


@pytest.mark.parametrize(
    ("num_examples", "batch_size"), [(12, 4), (103, 8), (5, 8), (9, 1), (1, 1)]
)
def test_stratified_steps_take_one_of_each_stratum(num_examples, batch_size):
    levels = noise_levels(0, 0, IDS[:num_examples], eps=1e-3)
    steps = stratified_steps(levels, seed=0, epoch=0, batch_size=batch_size)
    num_steps = -(-num_examples // batch_size)
    assert len(steps) == num_steps
    assert sorted(i for step in steps for i in step) == list(range(num_examples))
    rank = {int(index): place for place, index in enumerate(torch.argsort(levels))}
    num_full = num_examples // num_steps
    for step in steps:
        strata = [rank[i] // num_steps for i in step]
        # All full strata once; the partial last one at most once.
        assert sorted(strata) in (list(range(num_full)), list(range(num_full + 1)))
    sizes = {len(step) for step in steps}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size


def test_stratified_steps_spread_the_levels_of_every_step():
    names = [str(i) for i in range(6400)]
    levels = noise_levels(0, 0, names, eps=1e-3)
    steps = stratified_steps(levels, seed=0, epoch=0, batch_size=64)
    means = torch.stack([levels[step].mean() for step in steps])
    plain = shuffled_steps(6400, seed=0, epoch=0, batch_size=64)
    plain_means = torch.stack([levels[step].mean() for step in plain])
    # Stratification divides the standard deviation 0.036 of a step's mean by about 64.
    assert means.std() < 0.1 * plain_means.std()


@pytest.mark.parametrize("make", ["stratified", "shuffled"])
def test_steps_are_a_pure_function_of_seed_and_epoch(make):
    levels = noise_levels(0, 0, IDS, eps=1e-3)

    def steps(seed, epoch):
        if make == "stratified":
            return stratified_steps(levels, seed=seed, epoch=epoch, batch_size=8)
        return shuffled_steps(len(IDS), seed=seed, epoch=epoch, batch_size=8)

    assert steps(1, 2) == steps(1, 2)
    assert steps(1, 2) != steps(1, 3)
    assert steps(1, 2) != steps(2, 2)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(12, 4), (103, 8), (5, 8), (0, 8)])
def test_shuffled_steps_hold_every_example_once(num_examples, batch_size):
    steps = shuffled_steps(num_examples, seed=0, epoch=0, batch_size=batch_size)
    assert len(steps) == -(-num_examples // batch_size)
    assert sorted(i for step in steps for i in step) == list(range(num_examples))
    sizes = [len(step) for step in steps]
    assert not sizes or (max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size)


def test_steps_refuse_an_empty_batch():
    with pytest.raises(ValueError, match="batch_size"):
        shuffled_steps(5, seed=0, epoch=0, batch_size=0)
