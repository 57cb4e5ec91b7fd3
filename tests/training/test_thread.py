"""Training in another thread than the main one, as servers, notebooks and schedulers do it."""

import logging
import signal
import threading

import pytest

from helpers.stages import run_finetuning


def test_training_in_a_thread_gives_its_results_and_leaves_signals_alone(tmp_path, caplog):
    results, handler = [], signal.getsignal(signal.SIGTERM)

    def train():
        results.append(run_finetuning(tmp_path / "run", tmp_path / "cache", "small", max_steps=2))

    with caplog.at_level(logging.INFO, logger="cmssl_hf"):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert results and results[0]["small from scratch"]["mae"] > 0
    assert "Not in the main thread" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is handler
    # The main thread gives the same.
    assert run_finetuning(tmp_path / "main", tmp_path / "cache", "small", max_steps=2)[
        "small from scratch"
    ] == pytest.approx(results[0]["small from scratch"])
