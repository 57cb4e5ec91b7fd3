"""Stage 2: trains an encoder of one signal to name the codes of a frozen tokenizer.

    accelerate launch scripts/pretrain_encoder.py scripts/configs/pretrain_encoder.yaml --tokenizer runs/tokenizer \
        --output_dir runs/encoder
"""

import json

from cmssl_hf.training.arguments import DataArguments, EncoderArguments, EncoderTrainingArguments, parse_arguments
from cmssl_hf.training.command import run_stage
from cmssl_hf.training.encoder_pretraining import pretrain_encoder


def main() -> None:
    arguments = parse_arguments((EncoderArguments, DataArguments, EncoderTrainingArguments))
    metrics = run_stage(pretrain_encoder, *arguments)
    if metrics is not None:
        print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
