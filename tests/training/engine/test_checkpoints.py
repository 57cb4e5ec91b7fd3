"""What makes a checkpoint whole: a fixed set of files, each as it was written."""

import json

import pytest

from cmssl_hf.training.engine.arguments import StageArguments
from cmssl_hf.training.engine.checkpoints import (
    MANIFEST_FILE,
    CheckpointError,
    find_damage,
    last_whole_checkpoint,
    write_manifest,
)
from helpers.tiny import write_checkpoint_files


PARTS = ["config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"]


def write_checkpoint(folder, num_processes=1):
    write_checkpoint_files(folder, num_processes)
    write_manifest(folder, num_processes)
    return folder


def states(num_processes):
    return ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{rank}.pth" for rank in range(num_processes)]


def rewrite_manifest(folder, change):
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_whole_checkpoint(num_processes, tmp_path):
    assert find_damage(write_checkpoint(tmp_path, num_processes)) is None


@pytest.mark.parametrize(
    ("name", "num_processes"),
    [(name, number) for number in (1, 2, 4) for name in (*PARTS, *states(number))],
)
def test_file_that_neither_is_there_nor_listed_is_missed(name, num_processes, tmp_path):
    write_checkpoint(tmp_path, num_processes)
    (tmp_path / name).unlink()
    assert find_damage(tmp_path) == f"{name} is missing"
    rewrite_manifest(tmp_path, lambda manifest: manifest["files"].pop(name))
    assert find_damage(tmp_path) == f"{name} is missing"
    (tmp_path / MANIFEST_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        write_manifest(tmp_path, num_processes)
    assert not (tmp_path / MANIFEST_FILE).exists()


def test_random_numbers_of_one_process_are_not_those_of_two(tmp_path):
    write_checkpoint_files(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"rng_state_0\.pth is missing"):
        write_manifest(tmp_path, 2)


@pytest.mark.parametrize("content", ["{}", '{"files": {}}', '{"num_processes": 1, "files": {}}'])
def test_manifest_that_vouches_for_nothing_is_not_enough(content, tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text(content)
    assert find_damage(tmp_path) in ("config.json is missing", "its manifest.json cannot be read")


@pytest.mark.parametrize("number", ["[]", '"x"', "{}", "0", "-1", "1.5", "1.0", "999999999999", "Infinity", "NaN"])
def test_manifest_without_the_number_of_processes_cannot_be_read(number, tmp_path):
    write_checkpoint(tmp_path)
    rewrite_manifest(tmp_path, lambda manifest: manifest.update(num_processes=json.loads(number)))
    assert find_damage(tmp_path) == "its manifest.json cannot be read"


@pytest.mark.parametrize(
    ("part", "forms"),
    [
        (
            "model.safetensors",
            ["model.safetensors.index.json", "pytorch_model_fsdp.bin", "pytorch_model_fsdp_0/a.distcp"],
        ),
        ("optimizer.pt", ["optimizer.bin", "optimizer_0/a.distcp"]),
    ],
)
def test_other_forms_of_weights_and_optimizer(part, forms, tmp_path):
    write_checkpoint_files(tmp_path, 2)
    (tmp_path / part).unlink()
    for form in forms:
        path = tmp_path / form
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"part")
        write_manifest(tmp_path, 2)
        assert find_damage(tmp_path) is None
        path.unlink()
        (tmp_path / MANIFEST_FILE).unlink()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_manifest_of_an_earlier_version_lists_files_only(num_processes, tmp_path):
    write_checkpoint(tmp_path, num_processes)
    files = json.loads((tmp_path / MANIFEST_FILE).read_text())["files"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(files))
    assert find_damage(tmp_path) is None
    del files[states(num_processes)[0]]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(files))
    assert find_damage(tmp_path) == "rng_state.pth is missing"


def test_run_continues_from_the_last_checkpoint_with_all_parts(tmp_path):
    for step in (2, 4, 6):
        write_checkpoint(tmp_path / f"checkpoint-{step}", 2)
    for step, name in ((4, "optimizer.pt"), (6, "rng_state_1.pth")):
        (tmp_path / f"checkpoint-{step}" / name).unlink()
        rewrite_manifest(tmp_path / f"checkpoint-{step}", lambda manifest, name=name: manifest["files"].pop(name))
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_strategy": "epoch", "save_strategy": "steps"}, r"`save_strategy` steps and `eval_strategy` epoch"),
        ({"save_only_model": True}, r"`save_only_model` leaves out what a run needs to continue from its checkpoints"),
    ],
)
def test_settings_whose_checkpoints_would_not_continue_exactly_are_refused(options, message, tmp_path):
    options = {"load_best_model_at_end": False, "report_to": "none"} | options
    with pytest.raises(ValueError, match=message):
        StageArguments(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize(
    ("evaluated", "saved"),
    [("steps", "steps"), ("steps", "epoch"), ("epoch", "epoch"), ("no", "steps"), ("epoch", "no")],
)
def test_other_combinations_of_saving_and_evaluating_are_not(evaluated, saved, tmp_path):
    StageArguments(
        output_dir=str(tmp_path), eval_strategy=evaluated, save_strategy=saved, eval_steps=5, load_best_model_at_end=False,
        report_to="none",
    )  # fmt: skip
