"""Stage 2: trains an encoder of one signal, by default to name the codes of a frozen tokenizer (`--objective tokens`).

    accelerate launch -q scripts/pretrain_encoder.py scripts/configs/pretrain_encoder_small-data.yaml --tokenizer runs/tokenizer \
        --output_dir runs/encoder
"""

from cmssl_hf.training.command import chosen_objective, command


def main() -> None:
    print(command(chosen_objective, presets="pretrain_encoder"), end="")


if __name__ == "__main__":
    main()
