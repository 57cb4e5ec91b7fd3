"""Stage 1: trains a tokenizer.

accelerate launch -q scripts/pretrain_tokenizer.py scripts/configs/pretrain_tokenizer_small-data.yaml --output_dir runs/tokenizer
"""

from cmssl_hf.training.command import command
from cmssl_hf.training.tokenizer import TOKENIZER


def main() -> None:
    print(command(TOKENIZER, presets="pretrain_tokenizer"), end="")


if __name__ == "__main__":
    main()
