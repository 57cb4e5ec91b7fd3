"""Stage 3: fine-tunes an encoder for one task and tests it.

    accelerate launch scripts/finetune.py scripts/configs/finetune.yaml --task bidmc_hr --model_name_or_path runs/encoder \
        --data_dir <folder of the release> --output_dir runs/bidmc_hr
"""

from cmssl_hf.tasks import get_task
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.command import run_command
from cmssl_hf.training.finetuning import FinetuningArguments, TaskArguments, finetune
from cmssl_hf.training.results import result_table, verdict


def main() -> None:
    arguments, results = run_command(finetune, (TaskArguments, DataArguments, FinetuningArguments))
    if results is not None:
        task = get_task(arguments[0].task)
        print(f"\n{result_table(task, results)}\n\n{verdict(task, results)}")


if __name__ == "__main__":
    main()
