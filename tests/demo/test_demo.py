"""The page of `cmssl-hf demo`: by its functions, by gradio's client, and in a browser."""

import csv
import json
import re
import runpy
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb
from packaging.requirements import Requirement
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, pipeline

import cmssl_hf
from cmssl_hf.command_line.main import main
from cmssl_hf.models.cmssl.recordings_cmssl import Recording
from helpers.checkout import ROOT


gradio = pytest.importorskip("gradio", reason="needs the extra `demo`")

from cmssl_hf.demo.app import build, launch, say  # noqa: E402 (needs gradio)
from cmssl_hf.demo.figure import SHOWN_SECONDS, draw  # noqa: E402
from cmssl_hf.demo.view import View, view_files  # noqa: E402


RATE = 125


def pulses(seconds: float, bpm: float = 72.0) -> np.ndarray:
    phase = 2 * np.pi * bpm / 60 * np.arange(round(seconds * RATE)) / RATE
    return np.sin(phase) + 0.4 * np.sin(2 * phase + 0.8) + 0.01 * np.random.default_rng(0).standard_normal(len(phase))


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> str:
    """A table of 34 s of PPG, of which nothing was recorded from 20 to 30 s."""
    ppg = pulses(34)
    ppg[20 * RATE : 30 * RATE] = np.nan
    path = tmp_path_factory.mktemp("watch") / "watch.csv"
    columns = np.stack([np.arange(len(ppg)) / RATE, ppg], 1)
    np.savetxt(path, columns, header="time,ppg", comments="", delimiter=",")
    return str(path)


@pytest.fixture(scope="module")
def view(watch) -> View:
    return view_files([watch], "heart-rate")


def test_the_answer_is_that_of_the_pipeline(view, watch):
    expected = pipeline("physiological-signal-regression", model=cmssl_hf.pretrained("heart-rate"))(watch)
    assert view.answer["value"]["heart_rate"] == pytest.approx(expected["value"]["heart_rate"], rel=1e-4)
    low, high = view.answer["interval"]["heart_rate"]
    said = say(view.answer)
    assert said.startswith(f"### heart rate {expected['value']['heart_rate']:.1f} bpm")
    assert f"between {low:.1f} and {high:.1f} bpm" in said and "With a probability of 90%" in said


def test_codes_are_those_of_the_encoder_and_waveforms_those_of_the_tokenizer(view):
    folder = cmssl_hf.pretrained("ppg-encoder")
    extract = AutoFeatureExtractor.from_pretrained(folder)
    ppg = view.answer["recording"].signals["ppg"]
    windows = extract(ppg=[ppg[:1250], ppg[1250:2500]], sampling_rate=RATE, return_tensors="pt")
    rest = extract(ppg=ppg[3750:], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        encoder = AutoModelForPreTraining.from_pretrained(folder).eval()
        codes, last = encoder(**windows).logits.argmax(-1), encoder(**rest).logits.argmax(-1)
    assert view.code_seconds == 0.2
    expected = [*codes.flatten().tolist(), *[-1] * 50, *last.flatten().tolist()]
    # Batches of another size round differently, which may turn a code that is a close call.
    assert np.mean(view.codes == expected) > 0.98 and len(view.codes) == len(expected) == 170
    code, counts = np.unique(codes.numpy(), return_counts=True)
    often = int(code[counts.argmax()])
    assert set(view.codes[view.codes >= 0].tolist()) <= set(view.waveforms)
    tokenizer = AutoModel.from_pretrained(cmssl_hf.pretrained("tokenizer")).eval()
    with torch.no_grad():
        decoded = tokenizer.decode(codes)[:, tokenizer.config.channels.index("ppg")].reshape(100, 25)
    mean = decoded[(codes.flatten() == often)].mean(0).numpy()
    assert np.corrcoef(mean, view.waveforms[often])[0, 1] > 0.95


def test_the_figure_shows_signal_beats_quality_codes_and_answer(view):
    signal, beats, quality, codes, band, line = draw(view).data
    np.testing.assert_array_equal(signal.y, view.answer["recording"].signals["ppg"])
    np.testing.assert_allclose(np.diff(np.sort(beats.x[beats.x < 19])), 60 / 72, atol=0.05)
    assert list(quality.x) == [0, 10, 20, 30, 34] and np.isnan(quality.z[0][2]) and quality.text[0][2] == "missing"
    assert len(codes.z[0]) == 170 and np.isnan(codes.z[0][100:150]).all()
    assert re.fullmatch(rf"code {view.codes[0]}<br>[▁▂▃▄▅▆▇█]{{12}}", codes.text[0][0])
    # One colour for a code, and another for the next one.
    colours = dict(zip(view.codes.tolist(), codes.z[0]))
    assert [colours[code] for code in view.codes[:50]] == list(codes.z[0][:50])
    windows = [window for window in view.answer["windows"] if window["value"] is not None]
    values = [window["value"]["heart_rate"] for window in windows]
    assert list(line.x) == [0, 10, None, 10, 20, None, 30, 34, None]
    assert [value for value in line.y if value is not None] == [value for value in values for _ in range(2)]
    assert list(band.y[:4]) == [
        *windows[0]["interval"]["heart_rate"],
        *windows[0]["interval"]["heart_rate"][::-1],
    ]


def test_long_recordings_are_shown_in_part():
    rate, seconds = 100.0, 2 * SHOWN_SECONDS
    ecg = np.sin(np.arange(int(seconds * rate)) / 15)
    ecg[100_003] = 50.0
    windows = [
        {
            "start": t,
            "end": t + 30.0,
            "value": "N",
            "scores": {"N": 0.9, "A": 0.1},
            "quality": 0.5,
            "quality_issues": [],
        }
        for t in np.arange(0, seconds, 30.0)
    ]
    answer = {"start": 0.0, "end": seconds, "value": "N", "scores": {"N": 0.9, "A": 0.1}, "usable_share": 1.0, "quality": 0.5,
              "windows": windows, "recording": Recording("r", {"ecg": ecg}, {"ecg": rate}, {"ecg": "mV"})}  # fmt: skip
    signal, _, quality, codes, classes = draw(
        View(answer, np.zeros(18_000, dtype=int), 0.2, {0: np.arange(25.0)})
    ).data
    assert len(signal.x) <= 80_000 and signal.x[-1] < SHOWN_SECONDS
    # No peak is lost.
    assert signal.y.max() == 50 and signal.x[signal.y.argmax()] == pytest.approx(1000.03, abs=0.05)
    assert len(quality.z[0]) == 60 and len(codes.z[0]) == 9000 and classes.z[1][0] == 0.1
    assert "The figure shows the first 30 minutes" in say(answer)


def test_files_of_one_recording_need_not_lie_together(tmp_path, view):
    wfdb.wrsamp("r", RATE, ["NU"], ["PLETH"], pulses(20)[:, None], fmt=["16"], write_dir=str(tmp_path))
    files = []
    for name in ("r.hea", "r.dat"):
        (tmp_path / name[2:]).mkdir()
        files.append(str(shutil.move(tmp_path / name, tmp_path / name[2:] / name)))
    found = view_files(files, "heart-rate").answer
    assert found["end"] == 20 and found["value"]["heart_rate"] == pytest.approx(72, abs=5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "choose a file first"),
        ({"a.csv": b""}, "a.csv"),
        ({"a.csv": b"no table\n"}, "a.csv cannot be read as a table"),
        ({"a.edf": b"0       " + 300 * b"x"}, "a.edf"),
        ({"a.hea": b"a 1 125 100\na.dat 16 1 16 0 0 0 0 PLETH\n"}, "a.dat"),
        ({"a.hea": b"x", "b.hea": b"x"}, "One recording is shown at a time, but these are a.hea, b.hea"),
        ({"a.csv": b"ecg\n" + b"1\n2\n" * 900}, "a.csv"),
    ],
)
def test_bad_files_are_answered_in_words(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        view_files([str(tmp_path / name) for name in files], "heart-rate")
    assert str(tmp_path) not in str(error.value)


@pytest.fixture(scope="module")
def url():
    page = build()
    assert not page.analytics_enabled
    yield launch(page, prevent_thread_lock=True, quiet=True)[1]
    page.close()


def test_a_file_goes_in_and_an_answer_comes_out(url, watch, view, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    assert url.startswith("http://127.0.0.1:")
    client = gradio_client.Client(url, verbose=False, download_files=str(tmp_path), analytics_enabled=False)
    said, figure, table = client.predict([gradio_client.handle_file(watch)], "heart-rate", 0, "", api_name="/answer")
    assert said == say(view.answer)
    assert len(json.loads(figure["plot"])["data"]) == 6
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert Path(table).name == "watch.csv" and [row["reason"] for row in rows] == ["", "", "missing", ""]
    assert float(rows[0]["heart_rate"]) == pytest.approx(view.answer["windows"][0]["value"]["heart_rate"], rel=1e-4)
    (tmp_path / "a<b>.csv").write_text("no table\n")
    bad = [gradio_client.handle_file(str(tmp_path / "a<b>.csv"))]
    said, figure, table = client.predict(bad, "heart-rate", 0, "", api_name="/answer")
    assert said.startswith("### No answer\n") and "<b>" not in said and (figure, table) == (None, None)


def test_the_folder_of_a_space(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cmssl-hf", "demo", "--space", str(tmp_path / "space")])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code and "hf upload" in capsys.readouterr().out
    page = runpy.run_path(str(tmp_path / "space/app.py"))["demo"]
    assert isinstance(page, gradio.Blocks)
    fields = dict(
        line.split(": ", 1) for line in (tmp_path / "space/README.md").read_text().split("---\n")[1].splitlines()
    )
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    (needed,) = [Requirement(line) for line in extras["demo"].split() if line.startswith("gradio")]
    assert fields["sdk"] == "gradio" and fields["sdk_version"] in needed.specifier
    (tmp_path / "space" / fields["app_file"]).stat()
    package = Requirement((tmp_path / "space/requirements.txt").read_text().strip())
    assert package.name == "cmssl_hf" and package.extras <= set(extras)


@pytest.mark.long
def test_in_a_browser(url, watch, view, tmp_path):
    """Chromium by playwright, of which only the package is needed: it drives the browser of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(300_000)
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(url)
        tab.wait_for_selector("input[type=file]", state="attached")
        tab.set_input_files("input[type=file]", watch)
        tab.wait_for_selector(".js-plotly-plot .heatmaplayer image")
        assert tab.inner_text("h3") == say(view.answer).splitlines()[0].removeprefix("### ")
        # The pointer over a code shows its waveform.
        box = tab.locator(".js-plotly-plot .heatmaplayer image").nth(1).bounding_box()
        tab.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
        tab.wait_for_selector(".hoverlayer .hovertext")
        assert re.search(r"code \d+", tab.locator(".hoverlayer .hovertext").first.text_content())
        tab.screenshot(path=tmp_path / "page.png")
        with tab.expect_download() as download:
            tab.get_by_role("link", name="Table").or_(tab.get_by_role("button", name="Table")).first.click()
        assert "heart_rate" in Path(download.value.path()).read_text().splitlines()[0]
        (tmp_path / "bad.csv").write_text("no table\n")
        tab.reload()
        tab.wait_for_selector("input[type=file]", state="attached")
        tab.set_input_files("input[type=file]", tmp_path / "bad.csv")
        tab.get_by_text("bad.csv cannot be read as a table").first.wait_for()
        browser.close()
    # Nothing is asked of any other machine.
    assert {re.match(r"\w+:(//[\w.]+)?", address)[0] for address in asked} <= {
        "http://127.0.0.1",
        "data:",
        "blob:http",
        "blob:",
    }
