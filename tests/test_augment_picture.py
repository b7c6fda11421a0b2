"""Time warp, erased rectangles and CutMix: where they lie, what they hold, how labels follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio.augment import apply_spectrogram, draw_spectrogram, mix_targets
from tests.test_augment import OFF, masks


def features_of(n_clips=3, n_mels=20, n_frames=40, seed=0):
    return torch.randn(n_clips, n_mels, n_frames, generator=torch.Generator().manual_seed(seed))


def for_all(n_clips, draw):
    """Return a draw of one clip for several."""
    repeated = {
        name: np.repeat(value, n_clips, 0)
        for name, value in vars(draw).items()
        if isinstance(value, np.ndarray)
    }
    return replace(draw, **repeated)


# Time warp


def test_the_point_moves_and_the_ends_stay():
    """A ramp tells the time that each frame was taken from; by numpy's own interpolation."""
    ramp = torch.arange(41.0).expand(1, 4, 41).clone()
    draw = masks(warp=np.array([[0.5, 0.25]]))
    out = apply_spectrogram(ramp, torch.tensor([41]), draw)[0, 0].numpy()
    assert out == pytest.approx(np.interp(np.arange(41), [0, 30, 40], [0, 20, 40]), abs=1e-4)


def test_a_warp_keeps_to_the_clips_own_frames():
    ramp = torch.arange(41.0).expand(2, 4, 41).clone()
    draw = for_all(2, masks(warp=np.array([[0.4, -0.2]])))
    out = apply_spectrogram(ramp, torch.tensor([21, 1]), draw)
    expected = np.interp(np.arange(21), [0, 4, 20], [0, 8, 20])
    assert out[0, 0, :21].numpy() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(out[0, :, 21:], ramp[0, :, 21:])
    assert torch.equal(out[1, :, 2:], ramp[1, :, 2:])


@given(seed=st.integers(0, 2**32), percent=st.floats(1, 45), frames=st.integers(1, 40))
@hypothesis_settings(max_examples=60)
def test_time_never_runs_backwards_and_no_point_moves_further_than_stated(seed, percent, frames):
    settings = replace(OFF, time_warp_percent=percent)
    draw = draw_spectrogram(np.random.default_rng(seed), settings, 1)
    ramp = torch.arange(40.0).expand(1, 2, 40).clone()
    out = apply_spectrogram(ramp, torch.tensor([frames]), draw)[0, 0]
    assert (out.diff() >= -1e-3).all()
    assert (out - ramp[0, 0]).abs().max() <= percent / 100 * max(frames - 1, 1) + 1e-3
    assert out[0] == 0
    assert out[frames:].tolist() == list(range(frames, 40))


# Erasing


def test_the_erased_rectangle_is_where_it_was_drawn_and_holds_the_clips_mean():
    features = features_of(1)
    draw = masks(erase_mel=np.array([[0.25, 0.5]]), erase_frame=np.array([[0.2, 0.4]]))
    out = apply_spectrogram(features, torch.tensor([20]), draw)
    hole = (out != features)[0]
    assert hole.any(1).nonzero().ravel().tolist() == list(range(5, 15))
    assert hole.any(0).nonzero().ravel().tolist() == list(range(4, 12))
    assert hole.sum() == 10 * 8
    assert out[0, 5:15, 4:12].unique().item() == pytest.approx(features[0, :, :20].mean().item())


def test_erased_areas_are_even_up_to_the_stated_share_in_all_proportions():
    settings = replace(OFF, erase_percent=40.0)
    draw = draw_spectrogram(np.random.default_rng(0), settings, 4000)
    area = draw.erase_mel[:, 1] * draw.erase_frame[:, 1]
    assert area.max() <= 0.4
    assert area.mean() == pytest.approx(0.2, abs=0.01)
    assert area.std() == pytest.approx(0.4 / np.sqrt(12), abs=0.01)
    for sides in (draw.erase_mel, draw.erase_frame):
        assert sides.min() >= 0
        assert sides.sum(1).max() <= 1 + 1e-12
    small = area < 0.25
    shape = np.log(draw.erase_mel[small, 1] / draw.erase_frame[small, 1])
    assert shape.max() == pytest.approx(np.log(1 / 0.3), abs=0.05)
    assert shape.min() == pytest.approx(np.log(0.3), abs=0.05)


# CutMix


def cut(mel, frame, mix_with):
    n = len(mix_with)
    draw = for_all(n, masks(cut_mel=np.array([mel]), cut_frame=np.array([frame])))
    return replace(draw, mix_with=np.array(mix_with))


def test_the_patch_is_the_other_clips_and_labels_are_mixed_by_its_cells():
    features, frames = features_of(), torch.tensor([40, 40, 40])
    draw = cut([0.25, 0.5], [0.1, 0.4], [1, 2, 0])
    out = apply_spectrogram(features, frames, draw)
    expected = features.clone()
    expected[:, 5:15, 4:20] = features[[1, 2, 0], 5:15, 4:20]
    assert torch.equal(out, expected)
    shares = mix_targets(torch.eye(3), draw, frames, (20, 40))
    part = 10 * 16 / (20 * 40)
    by_hand = (1 - part) * np.eye(3) + part * np.eye(3)[[1, 2, 0]]
    assert shares.numpy() == pytest.approx(by_hand, abs=1e-6)


def test_a_patch_lies_among_the_frames_that_both_have_and_counts_by_the_clips_own():
    """Padding of a short clip is not labelled as that clip."""
    features, frames = features_of(2), torch.tensor([40, 10])
    draw = cut([0.0, 1.0], [0.5, 0.5], [1, 0])
    out = apply_spectrogram(features, frames, draw)
    changed = (out != features).any(1)
    assert changed[0].nonzero().ravel().tolist() == list(range(5, 10))
    assert changed[1].nonzero().ravel().tolist() == list(range(5, 10))
    shares = mix_targets(torch.eye(2), draw, frames, (20, 40))
    assert shares.numpy() == pytest.approx(np.array([[7 / 8, 1 / 8], [1 / 2, 1 / 2]]))


@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 40), min_size=2, max_size=5))
@hypothesis_settings(max_examples=60)
def test_labels_say_which_share_of_the_cells_is_whose(seed, lengths):
    """Clips of a constant each: the mean over a clip's own cells is the mixture."""
    settings = replace(OFF, cutmix_percent=100.0, mixup_percent=50.0)
    n = len(lengths)
    draw = draw_spectrogram(np.random.default_rng(seed), settings, n)
    frames = torch.tensor(lengths)
    features = torch.eye(n)[:, :, None, None].expand(n, n, 20, 40)
    mixed = torch.stack(
        [apply_spectrogram(features[:, k], frames, draw) for k in range(n)], 1
    )  # (clips, which constant, mels, frames)
    shares = mix_targets(torch.eye(n), draw, frames, (20, 40))
    for i, length in enumerate(lengths):
        assert mixed[i, :, :, :length].mean((1, 2)).numpy() == pytest.approx(
            shares[i].numpy(), abs=1e-5
        )


def test_patches_come_as_often_as_asked_for_and_are_of_every_size():
    settings = replace(OFF, cutmix_percent=30.0)
    rng = np.random.default_rng(0)
    draws = [draw_spectrogram(rng, settings, 4) for _ in range(3000)]
    areas = [d.cut_mel[0, 1] * d.cut_frame[0, 1] for d in draws if d.cut_mel is not None]
    assert len(areas) / 3000 == pytest.approx(0.3, abs=0.03)
    assert np.quantile(areas, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.06)


def test_a_patch_is_weighed_only_with_its_clips_lengths():
    with pytest.raises(ValueError, match="give frames, shape"):
        mix_targets(torch.eye(2), cut([0.0, 1.0], [0.5, 0.5], [1, 0]))
