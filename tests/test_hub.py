"""Models and datasets go to the Hub and come back the same: against a server on 127.0.0.1, through the real client."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from transformers import AutoModel

from cmssl_hf import CMSSLEncoderForSequenceClassification, CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.data.licences import hub_licence, may_be_passed_on
from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from cmssl_hf.data.sharing import push_dataset
from cmssl_hf.models.cmssl import hub_cmssl
from cmssl_hf.training.engine.run_folder import RunFolder
from helpers.checkout import ROOT
from helpers.hub_server import HubServer
from helpers.tiny import PATCH, encoder_config, tokenizer_config


SCRIPTS = ROOT / "scripts"


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


def run_python(hub: HubServer, home: Path, *arguments: str) -> str:
    """Standard output of a fresh interpreter for which `hub` is the Hub and nothing is cached yet."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_test",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def signal() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(2500)


def heart_rate(folder: Path) -> float:
    model = CMSSLEncoderForSequenceClassification.from_pretrained(folder).eval()
    inputs = CMSSLFeatureExtractor.from_pretrained(folder)(ppg=signal()[:1250], sampling_rate=125, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.item()


PREDICT_BY_REPOSITORY_ID = """
import sys

if sys.argv[2] == "without the package":
    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "cmssl_hf":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Nowhere())
    trust = {"trust_remote_code": True}
else:
    import cmssl_hf

    trust = {}

import numpy as np
from transformers import pipeline

predict = pipeline("physiological-signal-regression", model=sys.argv[1], **trust)
answer = predict(np.random.default_rng(0).standard_normal(2500), sampling_rate=125)
print(answer["windows"][0]["value"]["heart_rate"])
"""


def training_flags(folder: Path, cache: Path, **options: str) -> list[str]:
    flags = {
        "task": "simulated_hr",
        "dataset_options": "num_subjects=10,seconds_per_subject=30",
        "cache_dir": str(cache),
        "model_name_or_path": "small",
        "config_overrides": "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32",
        "max_steps": "2",
        "save_strategy": "steps",
        "save_steps": "1",
        "eval_strategy": "steps",
        "eval_steps": "1",
        "report_to": "none",
        "use_cpu": "true",
        "output_dir": str(folder),
        "push_to_hub": "true",
        "hub_model_id": "someone/heart-rate",
        "hub_token": "hf_secret",
    }
    return [argument for name, value in (flags | options).items() for argument in (f"--{name}", value)]


def test_model_that_is_pushed_at_each_save_takes_no_secrets_along(hub, tmp_path):
    arguments = training_flags(tmp_path / "run", tmp_path / "data", hub_strategy="every_save")
    run_python(hub, tmp_path / "home", str(SCRIPTS / "finetune.py"), *arguments)
    messages = hub.repositories["models/someone/heart-rate"].messages
    assert messages == ["initial commit", "Step 1", "Step 2", "End of training"]
    files = hub.files("models/someone/heart-rate")
    assert "training_args.bin" not in files
    assert not any(b"hf_secret" in content for content in files.values())
    assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "manifest.json"} & set(files)
    # A finished run is uploaded once more, and nothing else.
    arguments = training_flags(tmp_path / "run", tmp_path / "data")
    run_python(hub, tmp_path / "home", str(SCRIPTS / "finetune.py"), *arguments)
    assert hub.repositories["models/someone/heart-rate"].messages[4:] in ([], ["End of training"])


def test_training_pushes_when_it_is_done(hub, tmp_path):
    folder = tmp_path / "run"
    run_python(hub, tmp_path / "home1", str(SCRIPTS / "finetune.py"), *training_flags(folder, tmp_path / "data"))

    # One upload, of the finished run.
    assert hub.repositories["models/someone/heart-rate"].messages == ["initial commit", "End of training"]
    files = hub.files("models/someone/heart-rate")
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "run.json", "README.md"} <= set(files)
    assert {"modeling_cmssl_encoder.py", "feature_extraction_cmssl.py", "pipeline_cmssl.py"} <= set(files)
    assert not any(name.startswith("checkpoint") for name in files)
    assert not {"predictions.csv", "trainer_state.json"} & set(files)
    assert not any(b"hf_secret" in content for content in files.values())
    assert not any(str(tmp_path).encode() in files[name] for name in ("README.md", "config.json", "run.json"))
    card = ModelCard(files["README.md"].decode())
    results = json.loads(files["run.json"])["results"]["small from scratch"]
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == pytest.approx(results)
    assert 'name = "someone/heart-rate"' in card.text
    assert str(tmp_path) not in card.content

    expected = heart_rate(folder)
    shutil.rmtree(folder)
    for package in ("with the package", "without the package"):
        answer = run_python(hub, tmp_path / package, "-c", PREDICT_BY_REPOSITORY_ID, "someone/heart-rate", package)
        assert float(answer) == pytest.approx(expected, rel=1e-5)


PUSH_FROM_PYTHON = """
import shutil
import sys
import torch
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification
import cmssl_hf
from cmssl_hf.training.engine.provenance import run_of_model

for repo_id, folder in zip(("model-of-a-run", "someone/other"), sys.argv[1:]):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
    model.push_to_hub(repo_id)
    feature_extractor.push_to_hub(repo_id)
    shutil.rmtree(folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(f"someone/{repo_id.split('/')[-1]}")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    again = AutoFeatureExtractor.from_pretrained(f"someone/{repo_id.split('/')[-1]}")
    assert again.to_dict() == feature_extractor.to_dict()

assert run_of_model("someone/model-of-a-run") == {"identity": {}}
assert run_of_model("someone/other") is None
"""


def test_push_from_python(hub, tmp_path):
    """A model takes the card of the run that trained it along; one of no run gets the card of transformers."""
    folders = [tmp_path / "run", tmp_path / "other"]
    for folder in folders:
        torch.manual_seed(0)
        config = encoder_config(num_labels=1, id2label={0: "heart_rate"}, problem_type="regression", label_mean=70.0)
        CMSSLEncoderForSequenceClassification(config).save_pretrained(folder)
        CMSSLFeatureExtractor(patch_size=PATCH).save_pretrained(folder)
    (folders[0] / "run.json").write_text('{"identity": {}}')
    (folders[0] / "README.md").write_text(f'---\nlibrary_name: transformers\n---\n\n# Ours\n\nname = "{folders[0]}"\n')
    run_python(hub, tmp_path / "home1", "-c", PUSH_FROM_PYTHON, *map(str, folders))
    files = hub.files("models/someone/model-of-a-run")
    assert files["README.md"].decode().endswith('# Ours\n\nname = "someone/model-of-a-run"\n')
    assert files["run.json"] == b'{"identity": {}}'
    assert b"automatically generated" in hub.files("models/someone/other")["README.md"]


PUSH_CHANGED_MODELS = """
import os
import sys
import torch
from transformers import AutoModel, AutoModelForSequenceClassification
from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderModel, CMSSLFeatureExtractor

run, elsewhere = sys.argv[1:]
sizes = {"patch_size": 25, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}

def load(name=run, **kwargs):
    return AutoModelForSequenceClassification.from_pretrained(name, **kwargs)

load().push_to_hub("same")
load("someone/same").push_to_hub("same-again", tags=["ours"])
load().save_pretrained(elsewhere, push_to_hub=True, repo_id="same-saved")

model = load()
with torch.no_grad():
    model.classifier.out_proj.bias += 1
model.push_to_hub("other-weights")
model.push_to_hub("same")
load().push_to_hub("same-later")
model.push_to_hub("same-later", commit_message="Trained further")
model.save_pretrained(elsewhere, push_to_hub=True, repo_id="other-weights-saved")
load(label_mean=60.0).push_to_hub("other-settings")
load(num_labels=2, ignore_mismatched_sizes=True).push_to_hub("other-head")
load(dtype=torch.bfloat16).push_to_hub("other-precision")
AutoModel.from_pretrained(run).push_to_hub("no-head")
model = load("someone/same-again")
with torch.no_grad():
    model.encoder.patch_projection.weight.mul_(2)
model.push_to_hub("other-weights-of-the-hub")

extractor = CMSSLFeatureExtractor(patch_size=25)
extractor.push_to_hub("same-saved")
extractor.push_to_hub("same-saved")
for other in (CMSSLFeatureExtractor(patch_size=25, do_band_pass=False), CMSSLFeatureExtractor(("ecg",), patch_size=25)):
    for push in (other.push_to_hub, lambda name: other.save_pretrained(elsewhere, push_to_hub=True, repo_id=name)):
        try:
            push("same-saved")
        except ValueError as error:
            assert "someone/same-saved holds the results of a run with another feature extractor" in str(error)
        else:
            raise AssertionError("replaced")
        push("other-weights")

os.chdir(run)
CMSSLEncoderModel(CMSSLEncoderConfig(**sizes)).push_to_hub("untrained")
load().push_to_hub("same-untrained")
CMSSLEncoderModel(CMSSLEncoderConfig(**sizes)).push_to_hub("same-untrained")
"""


def test_a_changed_model_is_pushed_without_the_record_of_the_run(hub, tmp_path):
    """Other weights, head, settings or precision, from a folder or from the Hub: only what the run left carries its card."""
    torch.manual_seed(0)
    config = encoder_config(num_labels=1, id2label={0: "heart_rate"}, problem_type="regression", label_mean=70.0)
    CMSSLEncoderForSequenceClassification(config).save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"identity": {}, "results": {"error": 1.4}}')
    (tmp_path / "run" / "README.md").write_text("---\nlibrary_name: transformers\n---\n\nIts error is 1.4.\n")
    run_python(hub, tmp_path / "home", "-c", PUSH_CHANGED_MODELS, str(tmp_path / "run"), str(tmp_path / "elsewhere"))

    pushed = {name.rpartition("/")[2]: hub.files(name) for name in hub.repositories}
    changed = {name for name in pushed if name.startswith("other-")} | {"no-head", "same", "same-later"}
    for name in ("same-again", "same-saved"):
        assert json.loads(pushed[name]["run.json"])["results"] == {"error": 1.4}, name
        assert b"Its error is 1.4." in pushed[name]["README.md"], name
    assert ModelCard(pushed["same-again"]["README.md"].decode()).data.tags == ["ours"]
    for name in (*changed, "untrained", "same-untrained"):
        assert "run.json" not in pushed[name], name
        assert b"1.4" not in pushed[name]["README.md"], name
        assert "model.safetensors" in pushed[name], name
    for name in changed:
        assert b"was changed after the run that it was loaded from" in pushed[name]["README.md"], name
        assert ModelCard(pushed[name]["README.md"].decode()).data.library_name == "transformers"
    assert b"automatically generated" in pushed["untrained"]["README.md"]
    assert b"Nothing is recorded" in pushed["same-untrained"]["README.md"]
    assert hub.repositories["models/someone/same-later"].messages[1:] == ["Upload model", "Trained further"]


def test_a_model_saved_over_that_of_a_run_is_not_the_run_s(tmp_path):
    model = CMSSLEncoderForSequenceClassification(encoder_config(num_labels=1))
    model.save_pretrained(tmp_path)
    run = RunFolder(tmp_path, {"stage": "finetuning"})
    (tmp_path / "run.json").write_text('{"identity": {}}')
    run.note_results({"constant": {"mae": 1.0}})
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "run.json").read_text())["weights"] == {"model.safetensors": digest}
    assert hub_cmssl._holds(tmp_path, CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path), None)
    with torch.no_grad():
        model.classifier.out_proj.bias.add_(1)
    model.save_pretrained(tmp_path)
    assert not hub_cmssl._holds(tmp_path, CMSSLEncoderForSequenceClassification.from_pretrained(tmp_path), None)


def git_lfs_pointer(weights: Path) -> None:
    weights.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 2500000\n")


def cut_short(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1])


def emptied(weights: Path) -> None:
    weights.write_bytes(b"")


def zeroed(weights: Path) -> None:
    weights.write_bytes(bytes(weights.stat().st_size))


@pytest.mark.parametrize("damage", [git_lfs_pointer, cut_short, emptied, zeroed])
@pytest.mark.parametrize("shards", [1, 2])
def test_damaged_weights_are_named(damage, shards, tmp_path):
    model = CMSSLEncoderForSequenceClassification(encoder_config(num_labels=1))
    model.save_pretrained(tmp_path, max_shard_size="50GB" if shards == 1 else "10KB")
    weights = sorted(tmp_path.glob("*.safetensors"))[-1]
    assert (weights.name == "model.safetensors") is (shards == 1)
    damage(weights)
    what = "is a Git LFS pointer" if damage is git_lfs_pointer else "is cut short or damaged"
    for load in (CMSSLEncoderForSequenceClassification.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=rf"{weights.name}.* {what}"):
            load(tmp_path)
    if damage is git_lfs_pointer:
        for file in tmp_path.glob("model*"):
            file.unlink()
        damage(tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"pytorch_model.bin is a Git LFS pointer"):
            AutoModel.from_pretrained(tmp_path)
    tokenizer = CMSSLTokenizerModel(tokenizer_config())
    tokenizer.save_pretrained(tmp_path / "below" / "tokenizer")
    damage(tmp_path / "below" / "tokenizer" / "model.safetensors")
    with pytest.raises(ValueError, match=what):
        AutoModel.from_pretrained(tmp_path / "below", subfolder="tokenizer")


PUSH_DATASET = """
import sys
import datasets
from cmssl_hf.data.loading import load_dataset, load_dataset_builder
from cmssl_hf.data.sharing import push_dataset

options = {"num_subjects": 10, "seconds_per_subject": 30, "cache_dir": sys.argv[1]}
dataset = load_dataset("simulated", "rhythm", **options)
push_dataset(dataset, load_dataset_builder("simulated", "rhythm", **options), "someone/rhythms")
loaded = datasets.load_dataset("someone/rhythms")
for split, rows in dataset.items():
    assert loaded[split].features == rows.features
    assert loaded[split].to_dict() == rows.to_dict()
"""


def test_datasets(hub, tmp_path):
    run_python(hub, tmp_path / "home", "-c", PUSH_DATASET, str(tmp_path / "data"))
    card = DatasetCard(hub.files("datasets/someone/rhythms")["README.md"].decode())
    assert (card.data.license, card.data.pretty_name) == ("apache-2.0", "Simulation")
    assert [config["config_name"] for config in card.data.configs] == ["default"]
    assert 'load_dataset("someone/rhythms")' in card.text
    assert "sinus_rhythm, ectopic_beats, atrial_fibrillation" in card.text
    for row in (
        "| `start_time`    | float64         | s ",
        "| train      |     24 |          8 |",
        "`num_subjects=10`",
    ):
        assert row in card.text


def test_licences_that_do_not_allow_it(tmp_path):
    options = {"num_subjects": 10, "seconds_per_subject": 30, "cache_dir": tmp_path}
    dataset = load_dataset("simulated", "hr", **options)
    builder = load_dataset_builder("wfdb_pairs", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"is not pushed: its licence is not stated"):
        push_dataset(dataset, builder, "someone/records")
    with pytest.raises(ValueError, match=r"its licence \(PhysioNet Restricted Health Data License 1.5.0\) does not"):
        push_dataset(dataset, builder, "someone/records", license="PhysioNet Restricted Health Data License 1.5.0")


@pytest.mark.parametrize(
    ("license", "identifier", "allowed"),
    [
        ("ODC-By 1.0", "odc-by", True),
        ("CC BY 4.0", "cc-by-4.0", True),
        ("MIMIC part: ODbL 1.0; VitalDB part: CC BY-NC-SA 4.0", "other", True),
        ("one part: CC BY 4.0; other part: ask the authors", "other", False),
        ("CC BY-ND 4.0", "other", False),
    ],
)
def test_licences(license, identifier, allowed):
    assert hub_licence(license) == identifier
    assert may_be_passed_on(license) is allowed


@pytest.mark.parametrize(
    "name", ["bidmc", "csn", "physionet2017", "ppg_dalia", "ptb_xl", "pulsedb", "simulated", "uci_bp"]
)
def test_licences_of_all_builders_are_known(name):
    assert may_be_passed_on(load_dataset_builder(name).info.license)


def test_no_license_is_no_permission():
    assert not may_be_passed_on("")
    assert not may_be_passed_on(None)
