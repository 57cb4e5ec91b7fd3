"""Damaged files: every reader reads them or refuses them with its documented error; none crashes, hangs or grows."""

import os
import resource
import subprocess
import sys
import traceback
from functools import partial
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel

from cmssl_hf import CMSSLEncoderModel, CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.building.dataset_builder import SplitCounts
from cmssl_hf.data.loading import load_dataset_builder
from cmssl_hf.models.cmssl.convert_original_checkpoint import checkpoint_kind
from cmssl_hf.models.cmssl.recordings_cmssl import read_recording
from cmssl_hf.recordings import read_recording as read_signals
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.checkpoints import write_manifest
from cmssl_hf.training.engine.parsing import parse_arguments
from cmssl_hf.training.engine.run_folder import RunFolder
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments
from helpers import recording_files
from helpers.fuzzing import fuzz
from helpers.pulsedb_release import simulated_segments, write_segment_file
from helpers.releases import dalia_content, write_dalia_subject, write_uci_fold, write_wfdb_record
from helpers.tiny import encoder_config, tokenizer_config, write_checkpoint_files


pytestmark = [
    pytest.mark.timeout(7200),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and limits of memory"),
]


def read_all(builder):
    counts = SplitCounts()
    for records in builder.list_records().values():
        for _ in builder.read_records(records, counts):
            pass


def wfdb_builder(folder):
    release = folder / "release"
    for number in range(3):
        write_wfdb_record(release, f"r{number}", {"II": None, "PLETH": None}, fs=25.0, seconds=8)
    builder = load_dataset_builder(
        "wfdb_pairs", data_dir=release, cache_dir=folder, window_seconds=2.0, stride_seconds=2.0
    )
    return [release / "r0.hea", release / "r0.hea", release / "r0.hea", release / "r0.dat"], lambda: read_all(builder)


def wfdb_recording(folder):
    write_wfdb_record(folder, "r", {"II": None, "PLETH": None}, fs=25.0, seconds=8)
    return [folder / "r.hea", folder / "r.hea", folder / "r.dat"], lambda: read_recording(folder / "r", ("ecg", "ppg"))


def csv_recording(folder):
    path = folder / "r.csv"
    pd.DataFrame({"time": np.arange(50) / 25, "PLETH": np.sin(np.arange(50))}).to_csv(path, index=False)
    return [path], lambda: read_recording(path, ("ppg",), sampling_rate=25.0)


def device_recording(write, name, folder):
    """The one file of a recording, which `write` writes."""
    path = write(folder / name)
    return [path], lambda: read_signals(path)


def edf_with_gaps(path):
    return recording_files.write_edf(path, onsets=("+0", "+1", "+3.5", "+4.5"))


def deflated_dicom(path):
    return recording_files.write_dicom(path, deflated=True)


def empatica_session(folder):
    session = recording_files.write_e4(folder / "session")
    return [session / "BVP.csv", session / "ACC.csv", session / "EDA.csv"], lambda: read_signals(session)


def csv_builder(folder):
    release = folder / "release"
    release.mkdir()
    times = np.arange(16 * 125) / 125
    files = []
    for number in (1, 2, 3):
        name = f"bidmc_{number:02d}"
        tables = {
            "Signals": {"Time [s]": times, " RESP": times, " PLETH": np.sin(7 * times), " II": np.cos(7 * times)},
            "Numerics": {"Time [s]": np.arange(17), " HR": np.full(17, 70.0), " PULSE": np.full(17, 70.0)},
            "Breaths": {
                "breaths ann1 [signal sample no]": [100, 600, 1100],
                " breaths ann2 [signal sample no]": [90, 590, 1090],
            },
        }
        for kind, columns in tables.items():
            files.append(release / f"{name}_{kind}.csv")
            pd.DataFrame(columns).to_csv(files[-1], index=False, float_format="%.4f")
        files.append(release / f"{name}_Fix.txt")
        files[-1].write_text("Age: 64\nGender: F\n")
    builders = [load_dataset_builder("bidmc", config, data_dir=release, cache_dir=folder) for config in ("hr", "rr")]

    def read():
        for builder in builders:
            read_all(builder)

    return files[:4], read


def matlab_5(folder):
    release = folder / "release"
    release.mkdir()
    for fold in range(3):
        write_uci_fold(release, fold, abp_signal=None)
    builder = load_dataset_builder("uci_bp", data_dir=release, cache_dir=folder)
    damaged = release / "signal_fold_0.mat"

    def read():
        with mock.patch("subprocess.run", run_script_in_fork):
            list(builder.read_records([str(damaged)], SplitCounts()))

    return [damaged], read


def run_script_in_fork(command, **_):
    """What `subprocess.run` does for `python -c`, in a hundredth of the time: the imports are there already."""
    script = command[command.index("-c") + 1]
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(writing, 2)
        # Were the worker that waits for it killed, nobody else would end it.
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        status = 1
        try:
            sys.argv = ["-c", *command[command.index("-c") + 2 :]]
            exec(script, {})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        errors = pipe.read()
    _, status = os.waitpid(process, 0)
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), "", errors)


def matlab_7(folder):
    release = folder / "release"
    for number in range(3):
        write_segment_file(release, f"p00000{number}0", simulated_segments(2, number))
    builder = load_dataset_builder("pulsedb", data_dir=release, cache_dir=folder)
    return [release / "Segment_Files/PulseDB_MIMIC/p000000.mat"], lambda: read_all(builder)


def pickles(folder):
    release = folder / "release"
    for number in range(1, 4):
        path = write_dalia_subject(release, number, dalia_content(number, seconds=20))
    builder = load_dataset_builder("ppg_dalia", "hr", data_dir=release, cache_dir=folder)
    return [path], lambda: read_all(builder)


TOKENIZER_YAML = """\
dataset: simulated
dataset_config: pairs
dataset_options: {num_subjects: 10, seconds_per_subject: 60.0}
channels: [ecg, ppg]
config_overrides:
  hidden_size: 16
  codebook_size: 1024
learning_rate: 1e-3
max_steps: 200
eval_strategy: steps
save_strategy: steps
eval_steps: 100
save_steps: 100
warm_start_steps: 20
per_device_train_batch_size: 16
"""
FINETUNE_YAML = """\
task: bidmc_hr
model_name_or_path: small
time_stretch: 1.2
freeze_encoder: true
head_learning_rate: 0.001
num_train_epochs: 3
lr_scheduler_type: cosine
"""


def yaml_configs(folder):
    tokenizer, finetuning = folder / "tokenizer.yaml", folder / "finetune.yaml"
    tokenizer.write_text(TOKENIZER_YAML)
    finetuning.write_text(FINETUNE_YAML)
    flags = ["--use_cpu", "True", "--report_to", "none", "--output_dir", str(folder / "run")]

    def read():
        parse_arguments((TokenizerArguments, DataArguments, TokenizerTrainingArguments), [str(tokenizer), *flags])
        parse_arguments((TaskArguments, DataArguments, FinetuningArguments), [str(finetuning), *flags])

    return [tokenizer, finetuning], read


def run_folders(folder):
    """A damaged checkpoint is not used, and a damaged `run.json` is refused."""
    run = folder / "run"
    identity = {"stage": "test", "model": {"size": 1}}
    RunFolder(run, identity).open()
    checkpoint = run / "checkpoint-2"
    write_checkpoint_files(checkpoint)
    CMSSLEncoderModel(encoder_config(num_hidden_layers=1)).save_pretrained(checkpoint)
    torch.save({"state": torch.ones(5)}, checkpoint / "optimizer.pt")
    write_manifest(checkpoint)
    files = [path for path in checkpoint.iterdir() if path.suffix != ".py"]
    whole = {path.name: path.read_bytes() for path in files}

    def read():
        changed = [name for name, content in whole.items() if (checkpoint / name).read_bytes() != content]
        found = RunFolder(run, identity).open()
        if found is None:
            assert changed
            (run / "damaged-checkpoint-2").rename(checkpoint)
            raise ValueError("not used")
        # Another order or spelling of the manifest says the same.
        assert changed in ([], ["manifest.json"])

    return [*files, run / "run.json"], read


def models(folder):
    """What `from_pretrained` reads; transformers has errors of its own for it."""
    CMSSLTokenizerModel(tokenizer_config()).save_pretrained(folder / "tokenizer")
    CMSSLFeatureExtractor(patch_size=25).save_pretrained(folder / "tokenizer")

    def read():
        AutoModel.from_pretrained(folder / "tokenizer")
        CMSSLFeatureExtractor.from_pretrained(folder / "tokenizer")

    return [
        folder / "tokenizer" / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    ], read


def published_checkpoints(folder):
    path = folder / "published.ckpt"
    torch.save({"state_dict": {"a.weight": torch.ones(3, 3)}, "hyper_parameters": {"embed_dim": 3}, "epoch": 1}, path)

    def read():
        try:
            checkpoint_kind(path)
        except ValueError as error:
            if "is damaged" in str(error) or "not a" in str(error) or "lacks" in str(error):
                raise

    return [path], read


READERS = {
    "WFDB builder": (wfdb_builder, (ValueError,)),
    "WFDB recording": (wfdb_recording, (ValueError, FileNotFoundError)),
    "CSV recording": (csv_recording, (ValueError,)),
    "EDF recording": (partial(device_recording, recording_files.write_edf, "r.edf"), (ValueError,)),
    "EDF+D recording": (partial(device_recording, edf_with_gaps, "r.edf"), (ValueError,)),
    "deflated DICOM recording": (partial(device_recording, deflated_dicom, "r.dcm"), (ValueError,)),
    "DICOM recording": (partial(device_recording, recording_files.write_dicom, "r.dcm"), (ValueError,)),
    "Parquet recording": (partial(device_recording, recording_files.write_parquet, "r.parquet"), (ValueError,)),
    "ISHNE recording": (partial(device_recording, recording_files.write_ishne, "r.ecg"), (ValueError,)),
    "aECG recording": (partial(device_recording, recording_files.write_aecg, "r.xml"), (ValueError,)),
    "OpenSignals recording": (partial(device_recording, recording_files.write_opensignals, "r.txt"), (ValueError,)),
    "Polar recording": (partial(device_recording, recording_files.write_polar, "r.txt"), (ValueError,)),
    "Apple Health recording": (partial(device_recording, recording_files.write_apple_ecg, "r.csv"), (ValueError,)),
    "Empatica E4 folder": (empatica_session, (ValueError,)),
    "Empatica E4 zip": (partial(device_recording, recording_files.write_e4_zip, "r.zip"), (ValueError,)),
    "CSV builder": (csv_builder, (ValueError,)),
    "MATLAB v5": (matlab_5, (ValueError,)),
    "MATLAB v7.3": (matlab_7, (ValueError,)),
    "pickle": (pickles, (ValueError,)),
    # argparse ends the process with a message about the argument.
    "YAML": (yaml_configs, (ValueError, SystemExit)),
    "run folder": (run_folders, (ValueError, FileExistsError)),
    "model folder": (models, (Exception,)),
    "published checkpoint": (published_checkpoints, (ValueError,)),
}


def assert_no_problems(findings, count):
    assert not findings.problems, "\n\n".join(f"input {n}: {p}" for n, p in [*findings.problems.items()][:5])
    assert sum(findings.outcomes.values()) == count
    assert findings.outcomes["refused"] > 0
    assert findings.growth < 100 * 2**20


@pytest.mark.parametrize(("prepare", "documented"), READERS.values(), ids=READERS)
def test_damaged_files(prepare, documented, tmp_path):
    assert_no_problems(fuzz(prepare, tmp_path, 60, documented), 60)


@pytest.mark.long
@pytest.mark.parametrize(("prepare", "documented"), READERS.values(), ids=READERS)
def test_many_damaged_files(prepare, documented, tmp_path):
    findings = fuzz(prepare, tmp_path, 10_000, documented)
    print(dict(findings.outcomes), f"{findings.growth / 2**20:.0f} MiB")
    assert_no_problems(findings, 10_000)
