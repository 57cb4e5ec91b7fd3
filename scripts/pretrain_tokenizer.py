"""Stage 1: trains a tokenizer.

accelerate launch scripts/pretrain_tokenizer.py scripts/configs/pretrain_tokenizer_small-data.yaml --output_dir runs/tokenizer
"""

import json

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.engine.command import run_command
from cmssl_hf.training.tokenizer import TokenizerArguments, TokenizerTrainingArguments, pretrain_tokenizer


def main() -> None:
    _, metrics = run_command(pretrain_tokenizer, (TokenizerArguments, DataArguments, TokenizerTrainingArguments))
    if metrics is not None:
        print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
