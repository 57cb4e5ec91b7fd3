"""R-peaks that are expected from a PPG, on simulated people whose beats are known."""

import numpy as np
import pytest
import torch

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLTokenizerModel
from cmssl_hf.building.simulation import draw_subject, simulate_recording
from cmssl_hf.evaluation.other_signal import compare_r_peaks, expected_ecg, pulse_delays
from helpers.tiny import encoder_config, tokenizer_config


def test_delays_are_to_the_next_onset():
    r_peaks, onsets = np.array([100, 200, 300, 400]), np.array([80, 125, 230, 390])
    np.testing.assert_allclose(pulse_delays(r_peaks, onsets, 100.0), [0.25, 0.3])


def test_a_perfect_expectation_beats_onsets_with_the_delay_of_others():
    ecg, ppg, subjects, shifted = [], [], [], []
    for index in range(4):
        generator = np.random.default_rng(index)
        recording = simulate_recording(draw_subject(generator, arrhythmia_share=0.0), 30, 125, generator)
        ecg.append(recording.ecg)
        ppg.append(recording.ppg)
        shifted.append(np.roll(recording.ecg, 5))  # 40 ms
        subjects.append(str(index))
    table = compare_r_peaks(ecg, ppg, {"perfect": ecg, "late": shifted}, subjects, 125.0, num_resamples=20)
    table = table.set_index("row")
    assert table.loc["perfect", "error_ms"] == 0 and table.loc["perfect", "f1"] == 1
    assert table.loc["late", "error_ms"] == pytest.approx(40, abs=0.5)
    assert table.loc["late", "f1"] > 0.95
    assert 0 < table.loc["pulse onsets", "error_ms"] < 60
    assert table.loc["pulse onsets", "f1"] > 0.8


def test_an_encoder_that_is_certain_gives_what_its_codes_decode_to():
    tokenizer = CMSSLTokenizerModel(tokenizer_config()).eval()
    with torch.no_grad():
        tokenizer.codebook.weight.copy_(
            torch.nn.functional.normalize(torch.randn_like(tokenizer.codebook.weight), dim=-1)
        )
    encoder = CMSSLEncoderForPreTraining(encoder_config(codebook_size=tokenizer.config.codebook_size)).eval()
    ppg = torch.randn(2, 1, 4 * encoder.config.patch_size)
    with torch.no_grad():
        encoder.code_head.weight.mul_(1e4)
        codes = encoder(ppg).logits.argmax(-1)
    expected = tokenizer.decode(codes)[:, tokenizer.config.channels.index("ecg")]
    torch.testing.assert_close(expected_ecg(encoder, tokenizer, ppg), expected)
