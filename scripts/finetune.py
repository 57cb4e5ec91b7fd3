"""Stage 3: fine-tunes an encoder for one task and tests it.

    accelerate launch scripts/finetune.py scripts/configs/finetune.yaml --task bidmc_hr --model_name_or_path runs/encoder \
        --data_dir <folder of the release> --output_dir runs/bidmc_hr
"""

from cmssl_hf.tasks import get_task
from cmssl_hf.training.arguments import DataArguments, FinetuningArguments, TaskArguments, parse_arguments
from cmssl_hf.training.command import run_stage
from cmssl_hf.training.finetuning import finetune
from cmssl_hf.training.reports import result_table


def main() -> None:
    arguments = parse_arguments((TaskArguments, DataArguments, FinetuningArguments))
    results = run_stage(finetune, *arguments)
    if results is not None:
        print(result_table(get_task(arguments[0].task), results))


if __name__ == "__main__":
    main()
