import pytest
import torch

from weft.forward_process import corrupt, token_noise_levels

LARGEST_BELOW_ONE = 1 - 2.0**-24


def test_token_noise_levels_by_hand():
    t = torch.tensor([[0.75]])
    got = token_noise_levels(t, torch.tensor([[0.0, 0.5, 1.0, 2.0]]))
    # 1 - 0.25 ** r
    assert torch.allclose(got, torch.tensor([[0.0, 0.5, 0.75, 0.9375]]))


def test_rate_one_gives_the_noise_level_bit_for_bit():
    t = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(token_noise_levels(t, torch.ones(1000, 3)), t.expand(1000, 3))


def test_token_noise_levels_keep_their_precision_for_small_levels():
    # 1 - (1 - 1e-6) ** 0.5 = 5.00000125e-7; subtracting in float32 would be off by 10 %.
    got = token_noise_levels(torch.tensor([[1e-6]]), torch.tensor([[0.5]]))
    assert float(got) == pytest.approx(5.00000125e-7, rel=1e-6)


@pytest.mark.parametrize("t", [1e-3, 0.5, LARGEST_BELOW_ONE, 1.0])
def test_token_noise_levels_are_probabilities_that_grow_with_the_rate(t):
    rates = torch.tensor([[0.0, 1e-45, 1e-30, 1e-3, 0.1, 1.0, 3.0, 10.0, 1e6]])
    levels = token_noise_levels(torch.tensor([[t]]), rates)
    assert bool(levels.isfinite().all())
    assert bool(((levels >= 0) & (levels <= 1)).all())
    assert bool((levels.diff() >= 0).all())
    assert float(levels[0, 0]) == 0.0


def test_corrupt_masks_below_the_level_and_only_maskable_tokens():
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    levels = torch.tensor([[1.0, 0.5, 0.5, 0.0, 1.0]])
    uniforms = torch.tensor([[0.1, 0.49, 0.5, 0.0, LARGEST_BELOW_ONE]])
    is_maskable = torch.tensor([[False, True, True, True, True]])
    noisy, is_masked = corrupt(ids, levels, uniforms, is_maskable, mask_token_id=3)
    assert is_masked.tolist() == [[False, True, False, False, True]]
    assert noisy.tolist() == [[5, 3, 7, 8, 3]]
    assert ids.tolist() == [[5, 6, 7, 8, 9]]


def test_corrupt_masks_as_often_as_the_level_says():
    uniforms = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0))
    levels = torch.full((1, 20000), 0.3)
    everything = torch.ones(1, 20000, dtype=torch.bool)
    _, is_masked = corrupt(everything.long(), levels, uniforms, everything, mask_token_id=0)
    # Standard error sqrt(0.3 * 0.7 / 20000) = 0.0032.
    assert abs(float(is_masked.float().mean()) - 0.3) < 4 * 0.0032
