"""YAML files and flags to dataclasses."""

import re

import pytest
import yaml

from cmssl_hf import CMSSLEncoderConfig, CMSSLTokenizerConfig
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainingArguments
from cmssl_hf.training.engine.parsing import parse_arguments, parse_options
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments
from helpers.checkout import ROOT


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
    task, _, _ = parse_arguments(FINETUNING, [file(task="bidmc_hr", from_scratch="small"), "--use_cpu"])
    assert task.task == "bidmc_hr"


def test_required_argument_that_is_missing(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(ENCODER, ["--use_cpu"])
    assert "--tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--task", "bidmc_hr", "--label", "systolic"]])
def test_a_task_or_labels_are_required(flags):
    with pytest.raises(ValueError, match="Give either `--task`, such as bidmc_hr, or `--label`"):
        parse_arguments(FINETUNING, ["--from_scratch", "small", *flags, "--use_cpu"])


def test_labels_override_the_task_of_a_file(file):
    path = file(task="bidmc_hr", from_scratch="small")
    task, *_ = parse_arguments(FINETUNING, [path, "--label", "systolic", "diastolic", "--use_cpu"])
    assert (task.task, task.label) == (None, ["systolic", "diastolic"])
    task, *_ = parse_arguments(
        FINETUNING, [file(label="systolic", from_scratch="small"), "--task", "bidmc_hr", "--use_cpu"]
    )
    assert (task.task, task.label) == ("bidmc_hr", [])


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
        (TaskArguments, {"task": "bidmc_hr", "from_scratch": "small"}),
    ],
)
def test_config_fields_that_do_not_exist_are_refused(arguments, values):
    with pytest.raises(ValueError, match="`config_overrides` names fields that do not exist: hiden_size"):
        arguments(config_overrides="hiden_size=3", **values)


ENCODER = (EncoderArguments, DataArguments, EncoderTrainingArguments)
KINDS = {"tokenizer": (TOKENIZER, ()), "encoder": (ENCODER, ("--tokenizer", "t")), "finetune": (FINETUNING, ())}
CONFIGS = ROOT / "scripts" / "configs"


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.yaml") if "benchmark" not in path.name))
def test_shipped_files_can_be_read(file):
    ((dataclass_types, required),) = [value for kind, value in KINDS.items() if kind in file]
    task = ("--task", "simulated_hr", "--model_name_or_path", "runs/encoder") if dataclass_types is FINETUNING else ()
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("channel_loss_weights=[1,2]", {"channel_loss_weights": [1, 2]}),
        ("a=[1,[2,3]],b={low: 1, high: [4,5]},c=x", {"a": [1, [2, 3]], "b": {"low": 1, "high": [4, 5]}, "c": "x"}),
        ("{a: 1, b: [1, 2]}", {"a": 1, "b": [1, 2]}),
        ("a='x,y',b=\"p,q\"", {"a": "x,y", "b": "p,q"}),
        ("a=1e-3,b=-2E5,c=1e-3x", {"a": 1e-3, "b": -2e5, "c": "1e-3x"}),
        ("a=b=c", {"a": "b=c"}),
        (["a=1,2", "b=[1]"], {"a": "1,2", "b": [1]}),
    ],
)
def test_values_of_options_may_hold_commas(text, expected):
    assert parse_options(text) == expected


def test_options_as_text_stay_as_they_are_written():
    assert parse_options(["bidmc=/data/2024", "csn=007"], as_text=True) == {"bidmc": "/data/2024", "csn": "007"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("a=1,a=2", "'a' is given twice"),
        ("a=[1", "value of the option 'a' cannot be read as YAML: '\\[1'"),
        ("=1", "`name=value,name=value`, but got '=1'"),
        ("{a: 1", r"`{name: value, name: value}`, but got '{a: 1'"),
        (["wfdb_pairs"], "but got 'wfdb_pairs'"),
    ],
)
def test_options_that_cannot_be_read(options, message):
    with pytest.raises(ValueError, match=message):
        parse_options(options)


def test_options_with_lists_on_the_command_line(capsys):
    model, *_ = parse_arguments(TOKENIZER, ["--config_overrides", "channel_loss_weights=[1,2]", "--use_cpu"])
    assert model.config_overrides == {"channel_loss_weights": [1, 2]}
    with pytest.raises(SystemExit):
        parse_arguments(TOKENIZER, ["--config_overrides", "codebook_size", "--use_cpu"])
    assert "config-overrides: Options are given as `name=value,name=value`" in capsys.readouterr().err


def test_one_value_is_a_list_of_one(file):
    path = file(channels="ppg", additional_data="wfdb_pairs=folder", exclude_issues="ppg_flat")
    model, data, _ = parse_arguments(TOKENIZER, [path, "--use_cpu"])
    assert (model.channels, data.additional_data) == (["ppg"], ["wfdb_pairs=folder"])
    assert data.exclude_issues == ["ppg_flat"]
    assert data.additional_folders == {"wfdb_pairs": "folder"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_steps", "10", 10),
        ("max_steps", 10.0, 10),
        ("max_steps", "1e3", 1000),
        ("learning_rate", 1, 1.0),
        ("learning_rate", "1e-3", 1e-3),
        ("push_to_hub", "no", False),
        ("data_seed", None, None),
        ("early_stopping_patience", "3", 3),
        ("report_to", ["tensorboard"], ["tensorboard"]),
        ("lr_scheduler_kwargs", {"min_lr": 1e-5}, {"min_lr": 1e-5}),
        ("optim", "sgd", "sgd"),
        ("label_names", "labels", ["labels"]),
        ("dataset_options", "num_subjects=4,split=[1,2]", {"num_subjects": 4, "split": [1, 2]}),
        ("dataset_options", None, {}),
    ],
)
def test_values_of_a_file_that_a_field_takes(file, name, value, expected):
    _, data, training = parse_arguments(TOKENIZER, [file(**{name: value}), "--use_cpu"])
    assert getattr(data if name in vars(data) else training, name) == expected


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("max_steps", 10.5, "a whole number"),
        ("max_steps", "10.5", "a whole number"),
        ("max_steps", True, "a whole number"),
        ("max_steps", [10], "a whole number"),
        ("max_steps", None, "a whole number"),
        ("save_total_limit", 1.5, "a whole number or nothing"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", False, "a number"),
        ("warm_start_steps", float("inf"), "a whole number"),
        ("kmeans_windows", 1.5, "a whole number"),
        ("use_cpu", 3, "true or false"),
        ("do_band_pass", "perhaps", "true or false or nothing"),
        ("eval_strategy", False, "text (in quotes, where YAML reads something else)"),
        ("dataset", 2017, "text (in quotes, where YAML reads something else) or nothing"),
        ("channels", [1, 2], "a list, each item text (in quotes, where YAML reads something else)"),
        ("channels", {"ecg": 1}, "a list, each item text (in quotes, where YAML reads something else)"),
        ("dataset_options", [1], "options (`name: value`, or `name=value,name=value`)"),
        ("config_overrides", "codebook_size", "options (`name: value`, or `name=value,name=value`)"),
    ],
)
def test_values_of_a_file_of_the_wrong_kind_are_refused(file, name, value, right):
    with pytest.raises(ValueError, match=re.escape(f"run.yaml: `{name}` must be {right}, but is ")):
        parse_arguments(TOKENIZER, [file(**{name: value}), "--use_cpu"])


def test_numbers_with_exponents_within_options(tmp_path):
    (tmp_path / "run.yaml").write_text("config_overrides: {ema_decay: 9e-1}\n")
    model, *_ = parse_arguments(TOKENIZER, [str(tmp_path / "run.yaml"), "--use_cpu"])
    assert model.config_overrides == {"ema_decay": 0.9}


@pytest.mark.parametrize(
    "flags", [["--from_scratch", "base"], ["--from-scratch=base"], ["--model_name_or_path", "base"]]
)
def test_a_random_start_overrides_the_model_of_a_file(file, flags):
    task, *_ = parse_arguments(
        FINETUNING, [file(task="bidmc_hr", model_name_or_path="runs/encoder"), *flags, "--use_cpu"]
    )
    assert (task.model_name_or_path, task.from_scratch) == (None, "base")


def test_a_prepared_folder_overrides_the_dataset_of_a_file(file, monkeypatch):
    settings = {"dataset": "pulsedb", "config_name": "pairs", "options": {"form": "subsets"}}
    monkeypatch.setattr("cmssl_hf.training.arguments.read_manifest", lambda folder: {"settings": settings})
    path = file(dataset="simulated", dataset_config="hr", dataset_options={"num_subjects": 4})
    _, data, _ = parse_arguments(TOKENIZER, [path, "--prepared_dir", "prepared", "--use_cpu"])
    assert (data.dataset, data.dataset_config, data.dataset_options) == ("pulsedb", "pairs", {"form": "subsets"})
    with pytest.raises(ValueError, match="prepared with dataset 'pulsedb', but 'simulated' is asked for"):
        parse_arguments(TOKENIZER, [path, "--prepared_dir", "prepared", "--dataset", "simulated", "--use_cpu"])


def test_a_model_overrides_the_random_start_of_a_file(file):
    path = file(task="bidmc_hr", from_scratch="small")
    task, *_ = parse_arguments(FINETUNING, [path, "--model_name_or_path", "runs/encoder", "--use_cpu"])
    assert (task.model_name_or_path, task.from_scratch) == ("runs/encoder", None)


def test_the_former_name_of_a_random_start_still_means_it(caplog):
    task = TaskArguments(task="bidmc_hr", model_name_or_path="small")
    assert (task.model_name_or_path, task.from_scratch) == (None, "small")
    assert "`model_name_or_path` small, for random weights, is now `from_scratch` small" in caplog.text


def test_a_folder_that_is_called_like_a_size_is_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert TaskArguments(task="bidmc_hr", model_name_or_path="small").model_name_or_path == "small"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TaskArguments, {}, "either `model_name_or_path`.* or `from_scratch`"),
        (TaskArguments, {"model_name_or_path": "m", "from_scratch": "small"}, "either `model_name_or_path`"),
        (TaskArguments, {"from_scratch": "tiny"}, r"published size \(small, base, large\), but got 'tiny'"),
        (TaskArguments, {"from_scratch": "small", "random_weights": True}, "`random_weights` does nothing with"),
        (TaskArguments, {"from_scratch": "small", "num_folds": 4}, r"`num_folds` \(4\) does nothing without `fold`"),
        (TaskArguments, {"from_scratch": "small", "balance_classes": -1}, "`balance_classes` must be at least 0"),
        (
            TaskArguments,
            {"from_scratch": "small", "config_overrides": {"class_weights": [1, 2]}},
            "cannot set class_weights: .* `balance_classes`",
        ),
        (
            EncoderArguments,
            {
                "encoder_size": "base",
                "config_overrides": {
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 32,
                },
            },
            "`encoder_size` base does nothing",
        ),
        (EncoderArguments, {"config_overrides": {"window_seconds": 10}}, "cannot set window_seconds"),
        (TokenizerArguments, {"config_overrides": {"channels": ["ppg"]}}, "give them as `channels`"),
        (
            TokenizerTrainingArguments,
            {"revival_usage": 0.5},
            r"`revival_usage` \(0.5\) does nothing without `revival_steps`",
        ),
        (
            TokenizerTrainingArguments,
            {"kmeans_windows": 0, "kmeans_iterations": 3},
            "`kmeans_iterations` .* `kmeans_windows`",
        ),
        (TokenizerTrainingArguments, {"resume_from_checkpoint": "c"}, "`resume_from_checkpoint` does nothing here"),
        (TokenizerTrainingArguments, {"do_predict": True}, "`do_predict` does nothing here"),
        (EncoderTrainingArguments, {"soft_target_temperature": -1}, "`soft_target_temperature` must be at least 0"),
    ],
)
def test_arguments_that_would_do_nothing_are_refused(kind, values, message):
    required = {TaskArguments: {"task": "bidmc_hr"}, EncoderArguments: {"tokenizer": "t"}, TokenizerArguments: {}}.get(
        kind, {"use_cpu": True}
    )
    with pytest.raises(ValueError, match=message):
        kind(**required, **values)


def test_former_places_of_arguments_still_work_with_a_warning():
    with pytest.warns(FutureWarning, match=r"TaskArguments is now in cmssl_hf\.training\.finetuning\."):
        from cmssl_hf.training.arguments import TaskArguments as former
    assert former is TaskArguments
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from cmssl_hf.training.arguments import Nothing  # noqa: F401
