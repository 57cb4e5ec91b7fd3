"""A run's folder: claimed once, continued by the same run only, never overwritten."""

import copy
import json
import subprocess
from dataclasses import fields
from importlib import metadata

import pytest
import transformers
from packaging.version import Version

from cmssl_hf.training.encoder import EncoderTrainingArguments
from cmssl_hf.training.engine import run_folder
from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.engine.checkpoints import write_manifest
from cmssl_hf.training.engine.run_folder import RunFolder, commit_of, model_identity, read_run, training_identity
from cmssl_hf.training.finetuning import FinetuningArguments
from cmssl_hf.training.tokenizer import TokenizerTrainingArguments
from helpers.tiny import encoder_config, write_checkpoint_files


IDENTITY = {"stage": "tokenizer", "model": {"channels": ("ecg", "ppg"), "size": 3}, "training": {"seed": 1}}


def arguments(kind=TokenizerTrainingArguments, **options):
    return kind(use_cpu=True, report_to="none", **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_fresh_folder_is_claimed(tmp_path):
    folder = tmp_path / "runs" / "a"
    assert RunFolder(folder, IDENTITY, {"builds_on": None}).open() is None
    stored = read_run(folder)
    assert stored["identity"] == json.loads(json.dumps(IDENTITY))
    for package in ("torch", "transformers", "accelerate", "datasets", "numpy", "scipy", "wfdb", "h5py"):
        assert stored["environment"][package] == metadata.version(package)
    assert "commit" in stored["environment"]
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_commit_is_a_hash_and_tells_of_changes(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "module.py").write_text("1")
    (tmp_path / "installed.py").write_text("2")
    git("add", "module.py")
    assert commit_of(tmp_path / "module.py") is None
    git("commit", "-qm", "first")
    git("tag", "-am", "release", "v1.0")
    head = git("rev-parse", "HEAD")
    assert len(head) == 40
    assert commit_of(tmp_path / "module.py") == head
    # A package that is installed within the repository of something else is no part of it.
    assert commit_of(tmp_path / "installed.py") is None
    (tmp_path / "module.py").write_text("3")
    assert commit_of(tmp_path / "module.py") == f"{head}-dirty"


def test_package_outside_of_any_repository_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path / "module.py") is None


def test_same_run_continues_from_its_last_checkpoint(tmp_path):
    RunFolder(tmp_path, IDENTITY).open()
    assert RunFolder(tmp_path, IDENTITY).open() is None
    for step in (9, 80, 100):
        write_checkpoint_files(tmp_path / f"checkpoint-{step}")
        write_manifest(tmp_path / f"checkpoint-{step}")
    assert RunFolder(tmp_path, IDENTITY).open() == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"seed": 2}}, r"training\.seed \(1 there, 2 now\)"),
        ({"stage": "encoder"}, r"stage \('tokenizer' there, 'encoder' now\)"),
        ({"model": {"channels": ("ppg",), "size": 3}}, r"model\.channels \(\['ecg', 'ppg'\] there, \['ppg'\] now\)"),
        ({"tokenizer": "abc"}, r"tokenizer \(None there, 'abc' now\)"),
    ],
)
def test_different_run_is_refused_and_nothing_changes(tmp_path, change, message):
    RunFolder(tmp_path, IDENTITY).open()
    (tmp_path / "checkpoint-10").mkdir()
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=message) as error:
        RunFolder(tmp_path, IDENTITY | change).open()
    assert str(tmp_path) in str(error.value)
    assert contents(tmp_path) == before


def test_run_that_never_got_to_a_checkpoint_does_not_hold_its_folder(tmp_path):
    RunFolder(tmp_path, IDENTITY).open()
    assert RunFolder(tmp_path, IDENTITY | {"stage": "encoder"}).open() is None
    assert read_run(tmp_path)["identity"]["stage"] == "encoder"


def test_folder_with_something_else_is_refused_and_nothing_changes(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds no run but is not empty \(thesis\.tex\)"):
        RunFolder(tmp_path, IDENTITY).open()
    assert contents(tmp_path) == {"thesis.tex": b"x"}


def test_results_are_added(tmp_path):
    folder = RunFolder(tmp_path, IDENTITY)
    folder.open()
    folder.note_results({"eval_loss": 1.0})
    folder.note_results({"mae": 2.0})
    assert read_run(tmp_path)["results"] == {"mae": 2.0}
    assert RunFolder(tmp_path, IDENTITY).open() is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"identitx": {}}', "\x00"])
def test_damaged_record_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged: "):
        RunFolder(tmp_path, IDENTITY).open()


def test_folder_without_run(tmp_path):
    assert read_run(tmp_path) is None
    assert read_run(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-5},
        {"max_steps": 7},
        {"seed": 43},
        {"warm_start_steps": 3},
        {"weight_decay": 0.5},
        {"lr_scheduler_type": "linear"},
        {"per_device_train_batch_size": 3},
        {"gradient_accumulation_steps": 2},
        {"lr_scheduler_kwargs": {"num_cycles": 3}},
        {"adam_beta2": 0.95},
        {"metric_for_best_model": "eval_ppg_l1"},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5, "save_steps": 5},
        {"load_best_model_at_end": False},
        {"bf16": True},
        {"data_seed": 3},
        {"dataloader_drop_last": True},
        {"train_sampling_strategy": "sequential"},
        {"neftune_noise_alpha": 5.0},
        {"accelerator_config": {"split_batches": True}},
        {"dataloader_in_order": False},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5, "save_steps": 10},
    ],
)
def test_settings_that_decide_the_result_make_another_run(change):
    assert training_identity(arguments(**change)) != training_identity(arguments())


@pytest.mark.parametrize(
    "change",
    [
        {"logging_steps": 3},
        {"output_dir": "elsewhere"},
        {"disable_tqdm": True},
        {"dataloader_num_workers": 2},
        {"gradient_checkpointing": True},
        {"save_total_limit": 7},
        {"hub_model_id": "someone/else"},
    ],
)
def test_settings_that_do_not_decide_the_result_may_change(change):
    assert training_identity(arguments(**change)) == training_identity(arguments())


def test_precision_that_a_launcher_sets_decides_too(monkeypatch):
    plain = training_identity(arguments())
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert training_identity(arguments()) == training_identity(arguments(bf16=True)) != plain


KINDS = (TokenizerTrainingArguments, EncoderTrainingArguments, FinetuningArguments)


@pytest.mark.parametrize("kind", KINDS)
def test_every_argument_decides_unless_it_is_said_to_be_free(kind):
    plain = arguments(kind)
    expected = training_identity(plain)
    for field in fields(kind):
        changed = copy.copy(plain)
        if field.name not in run_folder._NOTED_OTHERWISE:
            setattr(changed, field.name, "something else")
            assert (training_identity(changed) == expected) == (field.name in run_folder._MAY_DIFFER), field.name


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="older versions lack some of the arguments"
)
def test_only_arguments_that_exist_are_said_to_be_free():
    names = {field.name for kind in KINDS for field in fields(kind)}
    assert run_folder._MAY_DIFFER | run_folder._NOTED_OTHERWISE | set(run_folder._ALWAYS_NOTED) <= names
    assert not run_folder._MAY_DIFFER & {*run_folder._NOTED_OTHERWISE, *run_folder._ALWAYS_NOTED}


def test_record_of_an_older_version_is_still_the_same_run(tmp_path, caplog):
    """Version 0.1.0 noted neither precision nor arguments that were seldom given."""
    now = {"stage": "finetuning", "training": training_identity(arguments())}
    noted = {name: value for name, value in now["training"].items() if name != "mixed_precision"}
    RunFolder(tmp_path, {**now, "training": noted}).open()
    RunFolder(tmp_path, now).note_results({"mae": 1.0})
    RunFolder(tmp_path, now).open()
    assert not caplog.records
    RunFolder(tmp_path, {**now, "training": training_identity(arguments(bf16=True, data_seed=3))}).open()
    assert "did not note data_seed=3, mixed_precision=bf16; they are taken to be the same" in caplog.text
    with pytest.raises(FileExistsError, match=r"training\.seed \(42 there, 43 now\)"):
        RunFolder(tmp_path, {**now, "training": training_identity(arguments(seed=43))}).open()


def test_the_same_global_batch_is_the_same_run():
    one = arguments(per_device_train_batch_size=8)
    two = arguments(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert training_identity(one)["global_batch_size"] == training_identity(two)["global_batch_size"] == 8


def test_head_learning_rate_is_part_of_fine_tuning():
    plain, other = (arguments(FinetuningArguments, head_learning_rate=rate) for rate in (None, 1e-3))
    assert training_identity(plain) != training_identity(other)


def test_identity_of_a_model_is_that_of_its_folder(tmp_path):
    config = encoder_config(label_mean=1.0)
    config.save_pretrained(tmp_path)
    reloaded = type(config).from_pretrained(tmp_path)
    as_json = json.loads(json.dumps(model_identity(config)))
    assert json.loads(json.dumps(model_identity(reloaded))) == as_json
    assert json.loads(json.dumps(model_identity(encoder_config(label_mean=2.0)))) != as_json


@pytest.mark.parametrize("kind", [TokenizerTrainingArguments, EncoderTrainingArguments, FinetuningArguments])
def test_all_that_a_stage_adds_decides_its_run(kind, tmp_path):
    """But for the floor of a warning."""
    added = {field.name for field in fields(kind)} - {field.name for field in fields(StageArguments)}
    arguments = kind(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert added - {"perplexity_floor"} <= set(training_identity(arguments))


def test_a_record_from_before_a_field_of_the_model_is_of_its_default(tmp_path):
    old = {"stage": "encoder", "model": {"hidden_size": 16}}
    RunFolder(tmp_path, old).open()
    (tmp_path / "model.safetensors").write_bytes(b"work")
    defaults = {"hidden_size": 256, "patch_embedding": "linear"}

    def now(kind):
        return RunFolder(
            tmp_path, {**old, "model": {"hidden_size": 16, "patch_embedding": kind}}, model_defaults=defaults
        )

    assert now("linear").open() is None
    with pytest.raises(FileExistsError, match=r"model.patch_embedding \('linear' there, 'conv' now\)"):
        now("conv").open()
