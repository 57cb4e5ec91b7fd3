"""YAML files and flags to dataclasses."""

from pathlib import Path

import pytest
import yaml

from cmssl_hf import CMSSLEncoderConfig, CMSSLTokenizerConfig
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainingArguments
from cmssl_hf.training.engine.arguments import parse_arguments, parse_options
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments


TOKENIZER = (TokenizerArguments, DataArguments, TokenizerTrainingArguments)
FINETUNING = (TaskArguments, DataArguments, FinetuningArguments)


@pytest.fixture
def file(tmp_path):
    def write(name="run.yaml", **values):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


def test_flags_override_files_and_later_files_earlier_ones(file):
    first = file("a.yaml", learning_rate=0.1, max_steps=10, seed=1)
    second = file("b.yaml", max_steps=20, seed=2)
    _, _, training = parse_arguments(TOKENIZER, [first, second, "--seed", "3", "--use_cpu"])
    assert (training.learning_rate, training.max_steps, training.seed) == (0.1, 20, 3)


def test_numbers_that_yaml_reads_as_text(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-3\nweight_decay: 1.0e-5\n")
    _, _, training = parse_arguments(TOKENIZER, [str(path), "--use_cpu"])
    assert (training.learning_rate, training.weight_decay) == (1e-3, 1e-5)


def test_lists_booleans_and_options(file):
    path = file(channels=["ppg"], do_band_pass=False, dataset_options={"num_subjects": 4})
    model, data, _ = parse_arguments(
        TOKENIZER, [path, "--config_overrides", "codebook_size=64,ema_decay=0.9", "--use_cpu"]
    )
    assert model.channels == ["ppg"]
    assert data.do_band_pass is False
    assert data.dataset_options == {"num_subjects": 4}
    assert model.config_overrides == {"codebook_size": 64, "ema_decay": 0.9}


def test_required_argument_may_come_from_the_file(file):
    task, _, _ = parse_arguments(FINETUNING, [file(task="bidmc_hr"), "--use_cpu"])
    assert task.task == "bidmc_hr"


def test_required_argument_that_is_missing(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(FINETUNING, ["--use_cpu"])
    assert "--task" in capsys.readouterr().err


def test_unknown_names_in_a_file_are_refused(file):
    path = file(learning_rate=0.1, lerning_rate=0.1, batchsize=3)
    with pytest.raises(ValueError, match=r"run\.yaml names arguments that do not exist: batchsize, lerning_rate"):
        parse_arguments(TOKENIZER, [path])


@pytest.mark.parametrize("arguments", [["--lerning_rate", "1"], ["--learning_rate", "fast"]])
def test_unknown_flags_and_wrong_values_are_refused(arguments, capsys):
    with pytest.raises((SystemExit, ValueError)) as error:
        parse_arguments(TOKENIZER, [*arguments, "--use_cpu"])
    assert "rate" in capsys.readouterr().err + str(error.value)


def test_file_that_is_no_mapping(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ValueError, match=r"list\.yaml must hold `name: value` lines"):
        parse_arguments(TOKENIZER, [str(tmp_path / "list.yaml")])


def test_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        parse_arguments(TOKENIZER, [str(tmp_path / "nothing.yaml")])


def test_empty_file_changes_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    _, data, _ = parse_arguments(TOKENIZER, [str(tmp_path / "empty.yaml"), "--use_cpu"])
    assert data.dataset_options == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("", {}),
        ({"a": 1}, {"a": 1}),
        ("a=1,b=0.5,c=text,d=true,e=null", {"a": 1, "b": 0.5, "c": "text", "d": True, "e": None}),
        (" a = 1 , b = x ", {"a": 1, "b": "x"}),
    ],
)
def test_parse_options(text, expected):
    assert parse_options(text) == expected


def test_option_without_value():
    with pytest.raises(ValueError, match="`name=value,name=value`, but got 'num_subjects'"):
        parse_options("num_subjects")


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (TokenizerArguments, {}),
        (EncoderArguments, {"tokenizer": "runs/tokenizer"}),
        (TaskArguments, {"task": "bidmc_hr"}),
    ],
)
def test_config_fields_that_do_not_exist_are_refused(arguments, values):
    with pytest.raises(ValueError, match="`config_overrides` names fields that do not exist: hiden_size"):
        arguments(config_overrides="hiden_size=3", **values)


ENCODER = (EncoderArguments, DataArguments, EncoderTrainingArguments)
KINDS = {"tokenizer": (TOKENIZER, ()), "encoder": (ENCODER, ("--tokenizer", "t")), "finetune": (FINETUNING, ())}
CONFIGS = Path(__file__).parents[1] / "scripts" / "configs"


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.yaml") if "benchmark" not in path.name))
def test_shipped_files_can_be_read(file):
    ((dataclass_types, required),) = [value for kind, value in KINDS.items() if kind in file]
    task = ("--task", "simulated_hr") if dataclass_types is FINETUNING else ()
    half_precision = ("--fp16", "false", "--bf16", "false")
    flags = [str(CONFIGS / file), *required, *task, "--use_cpu", *half_precision]
    model, _, training = parse_arguments(dataclass_types, flags)
    assert training.load_best_model_at_end
    # Every field that a file overrides makes a config.
    config = {TokenizerArguments: CMSSLTokenizerConfig}.get(type(model), CMSSLEncoderConfig)
    assert config(**model.config_overrides)


@pytest.mark.parametrize("stage", ["tokenizer", "encoder"])
@pytest.mark.parametrize("preset", ["reference", "small-data", "base"])
def test_presets(stage, preset):
    assert (CONFIGS / f"pretrain_{stage}_{preset}.yaml").is_file()
