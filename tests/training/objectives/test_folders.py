"""What each objective leaves: the folder of an encoder that fine-tuning, pipelines and cards take as it is."""

import json

import numpy as np
import pytest
from transformers import AutoModel, pipeline

from cmssl_hf.evaluation.encoders import describe_encoder, read_encoders
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.provenance import is_fully_known, subjects_seen
from cmssl_hf.training.engine.run_folder import read_run
from cmssl_hf.training.stage import get_objective
from helpers.objectives import HEADS, PARTS
from helpers.stages import PEOPLE, TINY_ENCODER, run_finetuning, training


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, cache):
    """Pre-trains with an objective once: the results, and the folder of the run."""
    runs = {}

    def once(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp("run") / name
            runs[name] = pretrain(name, folder, cache), folder
        return runs[name]

    return once


def pretrain(name, folder, cache, fields=TINY_ENCODER, **options):
    arguments_class, *_, training_class = PARTS[name]
    options = ({} if name == "masked" else HEADS) | options
    data = DataArguments(
        dataset="simulated", dataset_config="pairs", cache_dir=str(cache), dataset_options=dict(PEOPLE)
    )
    return get_objective(name).function(
        arguments_class(config_overrides=fields, **options),
        data,
        training(training_class, folder, max_steps=2, eval_steps=2, save_steps=2),
    )


#: The others take the same way.
SHORT = ("simclr", "clip")


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in PARTS]
)
def test_folder_is_that_of_an_encoder(name, pretrained, cache, tmp_path):
    results, run_folder = pretrained(name)
    folder = run_folder / "ppg" if name == "clip" else run_folder
    prefix = "eval_ppg_" if name == "clip" else "eval_"
    assert np.isfinite([results["eval_loss"], results[f"{prefix}probe_heart_rate_r2"]]).all()
    model = AutoModel.from_pretrained(folder)
    assert (type(model).__name__, model.config.channels) == ("CMSSLEncoderModel", ("ppg",))
    extract = pipeline("physiological-signal-feature-extraction", model=str(folder))
    signal = np.sin(np.arange(1250) / 10)
    assert np.shape(extract({"ppg": signal, "sampling_rate": 125})["value"]) == (32,)
    run = read_run(folder)
    assert run["identity"]["stage"] == name and run["identity"]["model"]["channels"] == ["ppg"]
    assert run["weights"].keys() == {"model.safetensors"} and is_fully_known(run)
    assert len(subjects_seen(run)) == 18
    card = (folder / "README.md").read_text()
    assert "pre-trained, without labels, to" in card and "codebook" not in card and "name its codes" not in card
    metrics = run_finetuning(tmp_path / "hr", cache, folder, max_steps=2)
    assert np.isfinite(next(iter(metrics.values()))["mae"])
    assert get_objective(name).label in (tmp_path / "hr" / "README.md").read_text()


def test_options_of_an_objective_make_another_run(pretrained, cache):
    _, folder = pretrained("simclr")
    with pytest.raises(FileExistsError, match=r"objective.temperature \(0.1 there, 0.5 now\)"):
        pretrain("simclr", folder, cache, temperature=0.5)


def test_clip_leaves_an_encoder_of_each_signal(pretrained, cache):
    results, run_folder = pretrained("clip")
    for channel in ("ecg", "ppg"):
        folder = run_folder / channel
        assert AutoModel.from_pretrained(folder).config.channels == (channel,)
        assert json.loads((folder / "preprocessor_config.json").read_text())["channels"] == [channel]
        assert (folder / "README.md").read_text().count(f"Encoder of {channel.upper()}") == 1
    assert read_run(run_folder / "ecg")["weights"] != read_run(run_folder / "ppg")["weights"]
    assert pretrain("clip", run_folder, cache) == read_run(run_folder)["results"] == results


def test_folder_is_that_of_a_resnet(cache, tmp_path):
    narrow = {"base_filters": 4, "num_blocks": 5}
    results = pretrain("simclr", tmp_path / "run", cache, narrow, backbone="resnet1d")
    assert np.isfinite([results["eval_loss"], results["eval_probe_heart_rate_r2"]]).all()
    model = AutoModel.from_pretrained(tmp_path / "run")
    assert (type(model).__name__, model.config.base_filters) == ("ResNet1DModel", 4)
    assert model.norm.num_batches_tracked == 2
    extract = pipeline("physiological-signal-feature-extraction", model=str(tmp_path / "run"))
    assert np.shape(extract({"ppg": np.sin(np.arange(1250) / 10), "sampling_rate": 125})["value"]) == (8,)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "ResNet-1D, which reads one signal and was pre-trained, without labels, to tell two" in card
    assert "# (8,)" in card and "import cmssl_hf\n" in card and "trust_remote_code" not in card
    metrics = run_finetuning(tmp_path / "hr", cache, tmp_path / "run", max_steps=2)
    assert np.isfinite(next(iter(metrics.values()))["mae"])
    encoders = read_encoders([f"simclr={tmp_path / 'run'}"])
    described = describe_encoder(encoders["ppg"]["simclr"][0])
    assert described["backbone"]["model_type"] == "resnet1d" and described["pretraining"]["steps"] == 2
