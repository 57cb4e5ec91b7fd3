"""Whole batches of tensors are changed as windows are changed one by one, by other random numbers of the same distributions."""

import numpy as np
import pytest
import torch
from scipy import stats

from cmssl_hf.data.augmentation import Augmentation
from cmssl_hf.data.batched_augmentation import KEYS, BatchedAugmentation, _normal, _uniform
from cmssl_hf.data.batches import WindowsCollator, WindowsDataset
from helpers.tiny import PATCH, waves, windows_dataset
from helpers.trainers import encoder_trainer, run_trainer, tokenizer_trainer


RATE = 125
ALL = {
    "time_stretch": 1.4,
    "amplitude_jitter": 0.3,
    "noise": 0.2,
    "baseline_wander": 0.3,
    "motion": 0.5,
    "polarity_flip": 0.5,
    "masked_share": 0.3,
}


def keys(number, epoch=0):
    return torch.stack((torch.full((number,), epoch), torch.arange(number)), dim=1)


def windows(number=16, channels=2, samples=1250):
    return torch.from_numpy(np.stack(waves(number, channels, samples)))


class Replay:
    """A generator that gives what was drawn for one window of a batch, in the order in which windows are changed."""

    def __init__(self, draws, row, options):
        needed = {
            "time_stretch": ("speed", "place"),
            "amplitude_jitter": ("knots",),
            "noise": ("noise", "white"),
            "baseline_wander": ("wander", "frequencies", "phases"),
            "motion": ("motion", "motion_frequencies", "motion_phases", "motion_knots"),
            "polarity_flip": ("flip",),
            "masked_share": ("spans",),
        }
        names = [name for option, drawn in needed.items() if option in options for name in drawn]
        self._drawn = iter([getattr(draws, name)[row].double().numpy() for name in names])

    def uniform(self, low, high, size=None):
        return low + (high - low) * next(self._drawn)

    def standard_normal(self, size):
        return next(self._drawn)[..., : size if isinstance(size, int) else size[-1]]

    def random(self):
        return next(self._drawn)

    def integers(self, low, high, size):
        return np.floor(next(self._drawn)[:size] * high).astype(int)


@pytest.mark.parametrize("options", [*({name: value} for name, value in ALL.items()), ALL], ids=lambda o: "+".join(o))
def test_a_batch_is_changed_as_its_windows_are(options):
    augmentation, values = Augmentation(RATE, scales_labels=True, **options), windows()
    labels = torch.linspace(50, 120, len(values))
    lengths = torch.full((len(values),), 1250)
    lengths[::3] = 700
    values = values * (torch.arange(1250) < lengths[:, None])[:, None]
    batched = BatchedAugmentation(augmentation, seed=3)
    mask = (torch.arange(1250) < lengths[:, None]).long()
    outputs = batched({"input_values": values, "attention_mask": mask, "labels": labels, KEYS: keys(len(values))})
    draws = batched.draw(keys(len(values)), values.shape)
    one_by_one = [window[:, :length].numpy() for window, length in zip(values, lengths)]
    replays = [Replay(draws, row, options) for row in range(len(values))]
    expected, expected_labels = augmentation(one_by_one, labels.numpy(), replays)
    assert KEYS not in outputs
    np.testing.assert_allclose(outputs["labels"], expected_labels, rtol=1e-6)
    for window, real, wanted in zip(outputs["input_values"], outputs["attention_mask"], expected):
        assert int(real.sum()) == wanted.shape[-1]
        np.testing.assert_allclose(window[:, : wanted.shape[-1]], wanted, atol=2e-4)
        assert (window[:, wanted.shape[-1] :] == 0).all()


def test_the_numbers_have_their_distributions():
    keys = torch.arange(500)
    uniform = _uniform(keys, 0, 400)
    assert uniform.min() > 0 and uniform.max() <= 1
    assert stats.kstest(uniform.flatten(), stats.uniform().cdf).pvalue > 0.01
    normal = _normal(*_uniform(keys, 0, 400).split(200, dim=1)).double()
    assert stats.kstest(normal.flatten(), stats.norm().cdf).pvalue > 0.01
    # Neither neighbours in a window nor windows beside each other go together: a correlation of 100,000 pairs is within 0.01.
    for first, second in ((normal[:, 1:], normal[:, :-1]), (normal[1:], normal[:-1])):
        assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.015


def test_no_two_numbers_are_the_same_by_construction():
    draws = BatchedAugmentation(Augmentation(RATE), 0).draw(keys(200), torch.Size((200, 1, 100)))
    of_windows = torch.cat((draws.frequencies, draws.phases, draws.speed[:, None], draws.place[:, None]), dim=1)
    # Of 2,000 numbers of 24 bits a tenth of a pair is the same by chance.
    assert len(of_windows.unique()) >= of_windows.numel() - 2


def test_white_noise_is_white_and_of_its_level():
    augmentation = Augmentation(RATE, noise=0.5)
    draws = BatchedAugmentation(augmentation, 0).draw(keys(300), torch.Size((300, 2, 500)))
    assert draws.white.std().item() == pytest.approx(1, abs=0.01)
    spectrum = torch.fft.rfft(draws.white).abs().square().mean((0, 1))
    torch.testing.assert_close(spectrum / spectrum.mean(), torch.ones_like(spectrum), rtol=0, atol=0.3)
    assert abs(np.corrcoef(draws.white[:, 0].flatten(), draws.white[:, 1].flatten())[0, 1]) < 0.015


def test_seed_epoch_and_position_decide_and_the_batch_does_not():
    augmentation, values = Augmentation(RATE, **ALL), windows(8)
    changed = BatchedAugmentation(augmentation, seed=1)({"input_values": values, KEYS: keys(8)})
    halves = [
        BatchedAugmentation(augmentation, seed=1)({"input_values": part, KEYS: of_part})
        for part, of_part in zip(values.split(4), keys(8).split(4))
    ]
    assert torch.equal(torch.cat([half["input_values"] for half in halves]), changed["input_values"])
    for other in (
        BatchedAugmentation(augmentation, seed=2)({"input_values": values, KEYS: keys(8)}),
        BatchedAugmentation(augmentation, seed=1)({"input_values": values, KEYS: keys(8, epoch=1)}),
    ):
        assert not any(map(torch.equal, other["input_values"], changed["input_values"]))


def test_constant_windows_become_zeros():
    values = torch.zeros(2, 1, 100)
    changed = BatchedAugmentation(Augmentation(RATE, time_stretch=1.3), 0)({"input_values": values, KEYS: keys(2)})
    assert torch.equal(changed["input_values"], values)


def test_a_batch_is_never_asked_for_a_number():
    """Tensors of the device "meta" have none."""
    inputs = {"input_values": windows(2), "attention_mask": torch.ones(2, 1250).long(), KEYS: keys(2)}
    changed = BatchedAugmentation(Augmentation(RATE, **ALL), 0)(
        {name: each.to("meta") for name, each in inputs.items()}
    )
    assert changed["input_values"].shape == (2, 2, 1250)


def test_a_dataset_leaves_its_windows_to_the_device():
    dataset = WindowsDataset(windows_dataset(waves(6)), ["input_values"], Augmentation(RATE, noise=0.5), seed=4)
    dataset.augments_on_device = True
    dataset.set_epoch(3)
    collate = WindowsCollator(PATCH)
    for batch in (dataset.__getitems__([5, 2]), [dataset[5], dataset[2]]):
        inputs = collate(batch)
        assert inputs[KEYS].tolist() == [[3, 5], [3, 2]]
        np.testing.assert_array_equal(inputs["input_values"][1], dataset.dataset[2]["input_values"])
    changed = dataset.augmented(inputs)
    assert changed.keys() == {"input_values"} and not torch.equal(changed["input_values"], inputs["input_values"])
    assert dataset.augmented(changed) is changed


def test_a_run_with_it_continues_as_if_it_had_not_been_interrupted(tmp_path):
    augmentation = Augmentation(RATE, time_stretch=1.3, noise=0.2)
    options = {"augmentation": augmentation, "augment_on_device": True, "max_steps": 10}
    expected = run_trainer(tokenizer_trainer(tmp_path / "whole", **options), tmp_path / "whole")
    run_trainer(tokenizer_trainer(tmp_path / "parts", **options), tmp_path / "parts", interrupted_at=7)
    continued = run_trainer(tokenizer_trainer(tmp_path / "parts", **options), tmp_path / "parts")
    assert continued["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
    one_by_one = run_trainer(
        tokenizer_trainer(tmp_path / "other", augmentation=augmentation, max_steps=10), tmp_path / "other"
    )
    assert one_by_one["eval_loss"] != expected["eval_loss"]


def test_it_is_refused_where_there_is_nothing_to_change(tmp_path):
    with pytest.raises(ValueError, match="`augment_on_device` does nothing where training windows are not changed"):
        encoder_trainer(tmp_path, augment_on_device=True)
