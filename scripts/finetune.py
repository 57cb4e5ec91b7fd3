"""Stage 3: fine-tunes an encoder for one task and tests it.

    accelerate launch -q scripts/finetune.py scripts/configs/finetune.yaml --task bidmc_hr --model_name_or_path runs/encoder \
        --data_dir <folder of the release> --output_dir runs/bidmc_hr
"""

from cmssl_hf.training.command import command
from cmssl_hf.training.finetuning import FINETUNING


def main() -> None:
    print(command(FINETUNING, presets="finetune"), end="")


if __name__ == "__main__":
    main()
