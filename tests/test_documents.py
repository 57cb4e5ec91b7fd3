"""README and docs: every code block runs, every link leads somewhere, and every page can be found.

Blocks are taken out of the documents. Those of Python run in their order, in one namespace per document, in a folder that holds what
they speak of; one that begins with a comment `# name.py` is a file of that name. Commands are parsed by the program they call. A
block after a line `<!-- not run: reason -->` is left out.
"""

import argparse
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import wfdb
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import HfArgumentParser

from cmssl_hf import (
    CMSSLEncoderForPreTraining,
    CMSSLEncoderForSequenceClassification,
    CMSSLFeatureExtractor,
    CMSSLTokenizerModel,
)
from helpers.checkout import ROOT
from helpers.recording_files import write_edf
from helpers.registrations import registrations_forgotten
from helpers.tiny import encoder_config, tokenizer_config


PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
#: Blocks that no machine without network and releases can run.
NOT_RUN = {
    ("docs/data.md", "needs a release of 12-lead ECGs"): 1,
    ("docs/pretrained.md", "needs the Hub"): 1,
    ("docs/pretrained.md", "trains seven models"): 1,
    ("docs/share.md", "needs the Hub"): 3,
    ("docs/training.md", "needs the run above"): 1,
}

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>\w+)\n(?P<source>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")


@dataclass(frozen=True)
class Block:
    """A code block of a document, `line` being that of its first line of code."""

    language: str
    source: str
    line: int
    reason_not_to_run: str | None

    @property
    def file_name(self) -> str | None:
        match = re.match(r"# (\w+\.py)\n", self.source)
        return match and match[1]


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(match["language"], match["source"], text.count("\n", 0, match.start("source")) + 1, match["reason"])
        for match in _BLOCK.finditer(text)
    ]


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """What the documents take to be there."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    write_models(folder / "quickstart_run" / "simulated")
    write_bidmc(folder / "bidmc")
    write_tables(folder)
    write_cohort(folder / "cohort")
    write_own_folder(folder / "my_folder")
    return folder


@pytest.fixture
def folder(tmp_path, material, cache, monkeypatch):
    """The current folder; what is imported from it and registered is forgotten afterwards."""
    shutil.copytree(material, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    with registrations_forgotten():
        yield tmp_path


def write_models(run: Path) -> None:
    """Models as quick start leaves them, with random weights."""
    torch.manual_seed(0)
    heart_rate = {
        "problem_type": "regression",
        "num_labels": 1,
        "id2label": {0: "heart_rate"},
        "label2id": {"heart_rate": 0},
        "label_mean": (70.0,),
        "label_std": (10.0,),
        "label_unit": "bpm",
        "window_seconds": 10.0,
        "calibration": {
            "quantiles": {"0.8": [2.0], "0.9": [3.0]},
            "floors": [0.7],
            "window_seconds": [10.0, 10.0],
            "num_subjects": 12,
            "num_windows": 360,
        },
    }
    models = {
        "tokenizer": CMSSLTokenizerModel(tokenizer_config(channels=("ecg", "ppg"))),
        "encoder": CMSSLEncoderForPreTraining(encoder_config(channels=("ppg",))),
        "heart_rate": CMSSLEncoderForSequenceClassification(encoder_config(channels=("ppg",), **heart_rate)),
    }
    for name, model in models.items():
        config = model.config
        model.save_pretrained(run / name)
        CMSSLFeatureExtractor(channels=config.channels, patch_size=config.patch_size).save_pretrained(run / name)


def pulses(seconds: float, sampling_rate: float, bpm: float = 72.0, seed: int = 0) -> np.ndarray:
    """A PPG: a sum of harmonics with a steep upstroke."""
    phase = 2 * np.pi * bpm / 60 * np.arange(round(seconds * sampling_rate)) / sampling_rate
    noise = np.random.default_rng(seed).standard_normal(len(phase))
    return np.sin(phase) + 0.4 * np.sin(2 * phase + 0.8) + 0.01 * noise


def write_bidmc(release: Path, num_subjects: int = 10, seconds: int = 40) -> None:
    """The first recordings of the release, shorter."""
    release.mkdir()
    for subject in [*range(1, num_subjects), 11]:  # 8 is a test subject of the published split, and 11 validates
        ppg = pulses(seconds + 1 / 125, 125, bpm=60 + 3 * subject, seed=subject)
        signals = {"RESP,": ppg, "PLETH,": 0.5 + 0.2 * ppg, "II,": np.sign(ppg) * ppg**2}
        numerics = {
            "HR,": np.full(seconds + 1, 60.0 + 3 * subject),
            "PULSE,": np.full(seconds + 1, 60.0 + 3 * subject),
        }
        for suffix, rate, columns in (("", 125, signals), ("n", 1, numerics)):
            wfdb.wrsamp(
                f"bidmc{subject:02d}{suffix}",
                fs=rate,
                units=["NU"] * len(columns),
                sig_name=[*columns],
                p_signal=np.stack([*columns.values()], axis=1),
                fmt=["16"] * len(columns),
                comments=["<age>: 60 <sex>: F <location>: micu"] if rate == 125 else None,
                write_dir=str(release),
            )
        breaths = np.arange(100, seconds * 125, 450)
        wfdb.wrann(
            f"bidmc{subject:02d}",
            "breath",
            sample=np.repeat(breaths, 2) + np.tile([0, 5], len(breaths)),
            symbol=['"'] * (2 * len(breaths)),
            aux_note=["ann1", "ann2"] * len(breaths),
            write_dir=str(release),
        )


def write_tables(folder: Path) -> None:
    ppg = pulses(30, 64)
    times = np.arange(len(ppg)) / 64
    np.savetxt(folder / "watch.csv", np.stack([times, ppg], 1)[:, 1:], header="bvp", comments="", fmt="%.5f")
    np.savetxt(
        folder / "timed.csv", np.stack([times, ppg], 1), header="time,ppg", comments="", delimiter=",", fmt="%.6f"
    )
    write_edf(folder / "night.edf", seconds=64)
    (folder / "e4").mkdir()
    np.savetxt(folder / "e4" / "BVP.csv", np.concatenate([[1.6e9, 64.0], ppg]), fmt="%.2f")


def write_cohort(folder: Path) -> None:
    folder.mkdir()
    for person in range(10):
        bpm = 60.0 + 4 * person
        np.savez(folder / f"person{person}.npz", ppg=pulses(60, 64, bpm, person), heart_rate=np.full(60, bpm))


def write_own_folder(folder: Path) -> None:
    folder.mkdir()
    lines = ["file_name,subject_id,systolic"]
    for person in range(10):
        ppg = pulses(20, 64, 60.0 + 4 * person, person)
        columns = np.stack([np.arange(len(ppg)) / 64, ppg], 1)
        np.savetxt(folder / f"r{person}.csv", columns, header="time,ppg", comments="", delimiter=",", fmt="%.6f")
        lines.append(f"r{person}.csv,p{person},{110 + person}")
    (folder / "metadata.csv").write_text("\n".join(lines))


class Parsed(BaseException):
    """Ends a program that has parsed its arguments."""


def commands_of(block: Block) -> list[list[str]]:
    lines = block.source.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check_command(words: list[str], patch: pytest.MonkeyPatch) -> None:
    program, *arguments = words
    if program == "accelerate" and arguments[0] == "launch":
        options = launch_command_parser().parse_args(arguments[1:])
        if options.config_file is not None:
            load_config_from_file(options.config_file)
        check_program(options.training_script, options.training_script_args, patch)
    elif program == "python":
        is_module = arguments[0] == "-m"
        check_program(arguments[is_module], arguments[is_module + 1 :], patch)
    elif program == "cmssl-hf":
        check_program("cmssl_hf.command_line", arguments, patch)
    elif program == "make":
        make = ["make", "--dry-run", *arguments]
        steps = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        # A folder of that name is no target.
        assert "Nothing to be done" not in steps, steps
    elif program == "sbatch":
        assert (ROOT / arguments[0]).is_file()
        check_program(arguments[1], arguments[2:], patch)
    elif program == "pip" and arguments[0] == "install":
        check_installation(arguments[1:])
    else:
        pytest.fail(f"nothing is known of the program {program}")


def check_program(program: str, arguments: list[str], patch: pytest.MonkeyPatch) -> None:
    """A script or module takes these arguments: it runs until it has parsed them."""
    parse, parse_into_dataclasses = argparse.ArgumentParser.parse_args, HfArgumentParser.parse_args_into_dataclasses

    def parse_and_end(self, args=None, namespace=None):
        raise Parsed(parse(self, args, namespace))

    def parse_into_dataclasses_and_end(self, *args, **options):
        *parsed, last = parse_into_dataclasses(self, *args, **options)
        assert not (options.get("return_remaining_strings") and last), f"there are no arguments {last}"
        raise Parsed((*parsed, last))

    patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    patch.setattr(HfArgumentParser, "parse_args_into_dataclasses", parse_into_dataclasses_and_end)
    patch.setattr(sys, "argv", [program, *arguments])
    try:
        if program.endswith(".py"):
            patch.syspath_prepend(str(Path(program).resolve().parent))
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except Parsed:
        return
    except SystemExit as end:
        pytest.fail(f"{program} refuses {shlex.join(arguments)}: {end}")
    pytest.fail(f"{program} did not parse its arguments")


def check_installation(arguments: list[str]) -> None:
    """`-c <constraints that are there> -e .[<extras that are there>]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", required=True)
    parser.add_argument("-e", required=True)
    options = parser.parse_args(arguments)
    assert (ROOT / options.c).is_file()
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(re.split(r"[\[\],]", options.e)[1:]) - {""}
    assert extras <= set(setup["options.extras_require"])


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if blocks_of(document)], ids=name_of)
def test_blocks_run(document, folder):
    blocks = [block for block in blocks_of(document) if block.reason_not_to_run is None]
    for block in blocks:
        if block.file_name:
            (folder / block.file_name).write_text(block.source, encoding="utf-8")
    namespace = {"__name__": document.stem}
    for block in blocks:
        if block.language == "python" and not block.file_name:
            # Empty lines in front, so that a traceback shows the line of the document.
            exec(compile("\n" * (block.line - 1) + block.source, str(document), "exec"), namespace)
        elif block.language == "bash":
            for words in commands_of(block):
                with pytest.MonkeyPatch.context() as patch:
                    check_command(words, patch)
        elif block.language != "python":
            pytest.fail(f"{name_of(document)}, line {block.line}: nothing is known of {block.language}")


def test_few_blocks_are_not_run():
    not_run = [
        (name_of(document), block.reason_not_to_run)
        for document in DOCUMENTS
        for block in blocks_of(document)
        if block.reason_not_to_run is not None
    ]
    assert {entry: not_run.count(entry) for entry in not_run} == NOT_RUN


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    for target, anchor in _LINK.findall(document.read_text(encoding="utf-8")):
        path = (document.parent / target) if target else document
        assert path.exists(), f"{name_of(document)} links to {target}"
        if anchor:
            assert anchor in anchors_of(path), f"{name_of(document)} links to {target}#{anchor}"


def anchors_of(document: Path) -> set[str]:
    """Anchors of the headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_all_pages_are_linked_from_the_first_ones():
    """From the README, or from the first page of the site, which stands for it there."""
    first = [ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "api" / "index.md"]
    linked = {
        (document.parent / target).resolve()
        for document in first
        for target, _ in _LINK.findall(document.read_text(encoding="utf-8"))
    }
    assert set(PAGES) - linked == {ROOT / "docs" / "index.md"}


def test_the_readme_fits_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
