"""All three stages, end to end: `make quickstart`, or `make quickstart DATA=<folder of the BIDMC release>`.

Trains a joint ECG+PPG tokenizer, a PPG encoder and a heart-rate model with `accelerate launch`, on simulated recordings or on
the BIDMC release, tests the last on subjects that no stage has seen, and says how to use it.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path


SCRIPTS = Path(__file__).parent

USAGE = """
The models are in {run}: tokenizer, encoder, heart_rate. To predict from an array:

    import cmssl_hf, torch
    from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained("{run}/heart_rate")
    extract = AutoFeatureExtractor.from_pretrained("{run}/heart_rate")
    bpm = model(**extract(ppg=my_array, sampling_rate=64, return_tensors="pt")).logits
"""


def launch(stage: str, config: str, *flags: str) -> None:
    """Runs one stage in as many processes as there are cores (two at most) or, with a GPU, in one."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    command += ["--config_file", str(SCRIPTS / "accelerate" / accelerate_config())]
    command += [str(SCRIPTS / f"{stage}.py"), str(SCRIPTS / "configs" / config), *flags]
    print(f"\n=== {stage.replace('_', ' ')} ===", flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if subprocess.run(command, env=environment).returncode:
        sys.exit(
            f"{stage} failed; what is above says why. The stages that are done are kept and will not be run again."
        )


def accelerate_config() -> str:
    import torch

    return "gpu_1.yaml" if torch.cuda.is_available() else "cpu_2.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", help="folder of the BIDMC release; simulated recordings if left out")
    parser.add_argument("--output_dir", default="quickstart_run", help="where the models go")
    options = parser.parse_args()

    if options.data_dir is not None and not Path(options.data_dir).is_dir():
        parser.error(f"there is no folder {options.data_dir}")
    run = Path(options.output_dir) / ("simulated" if options.data_dir is None else "bidmc")
    if options.data_dir is None:
        data, task = ["--dataset", "simulated", "--dataset_options", "num_subjects=120"], "simulated_hr"
    else:
        data, task = ["--dataset", "bidmc", "--data_dir", options.data_dir], "bidmc_hr"
    tokenizer, encoder, heart_rate = (str(run / name) for name in ("tokenizer", "encoder", "heart_rate"))
    launch("pretrain_tokenizer", "quickstart_tokenizer.yaml", *data, "--output_dir", tokenizer)
    launch("pretrain_encoder", "quickstart_encoder.yaml", *data, "--tokenizer", tokenizer, "--output_dir", encoder)
    launch(
        "finetune",
        "quickstart_finetune.yaml",
        *data,
        *("--task", task, "--model_name_or_path", encoder, "--output_dir", heart_rate),
    )
    print_health(run)
    print(USAGE.format(run=run))


def print_health(run: Path) -> None:
    """One line per pre-training stage, from its validation subjects."""
    tokenizer = json.loads((run / "tokenizer" / "eval_results.json").read_text())
    encoder = json.loads((run / "encoder" / "eval_results.json").read_text())
    print(
        f"\ntokenizer, validation: explained variance ECG {tokenizer['eval_ecg_explained_variance']:.2f},"
        f" PPG {tokenizer['eval_ppg_explained_variance']:.2f}; {tokenizer['eval_codes_in_use']} codes in use,"
        f" perplexity {tokenizer['eval_perplexity']:.0f}\n"
        f"encoder, validation: cross-entropy {encoder['eval_cross_entropy']:.2f}"
        f" (token frequencies {encoder['eval_token_frequency_cross_entropy']:.2f}),"
        f" top-5 {encoder['eval_top5_accuracy']:.1%}"
    )


if __name__ == "__main__":
    main()
