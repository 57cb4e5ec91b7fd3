"""Stage 2: trains an encoder of one signal to name the codes of a frozen tokenizer.

    accelerate launch scripts/pretrain_encoder.py scripts/configs/pretrain_encoder_small-data.yaml --tokenizer runs/tokenizer \
        --output_dir runs/encoder
"""

import json

from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.encoder import EncoderArguments, EncoderTrainingArguments, pretrain_encoder
from cmssl_hf.training.engine.command import run_command


def main() -> None:
    _, metrics = run_command(pretrain_encoder, (EncoderArguments, DataArguments, EncoderTrainingArguments))
    if metrics is not None:
        print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
