"""`cmssl-hf preset`: where the YAML files are that come with the package."""

import argparse
import sys

from ..presets import find_preset, preset_names


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Prints the path of a YAML file that comes with the package, of a stage of training or of `accelerate`;"
        " without a name, all names. `cp $(cmssl-hf preset finetune) my.yaml` begins one of your own."
    )
    parser.add_argument("name", nargs="?")
    name = parser.parse_args().name
    if name is None:
        print("\n".join(preset_names()))
        return
    try:
        print(find_preset(name))
    except ValueError as error:
        sys.exit(f"error: {error}")
