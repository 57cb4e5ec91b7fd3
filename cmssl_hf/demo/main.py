"""`cmssl-hf demo`: serves the page, or writes the folder of a Space."""

import argparse
import shutil
from pathlib import Path

from .app import MODELS, build, launch


_SPACE = Path(__file__).with_name("space")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A page in the browser: drop a recording, see its beats, quality, codes and a model's answer over time."
    )
    parser.add_argument(
        "--model", nargs="+", default=MODELS, help="folders or Hub ids in place of those of the package"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, help="7860 or the next one that is free, if left out")
    parser.add_argument("--space", type=Path, help="write what deploys as a Space into this folder, and end")
    options = parser.parse_args()
    if options.space is not None:
        shutil.copytree(_SPACE, options.space, dirs_exist_ok=True)
        print(f"{options.space} is ready: `hf upload NAME/{options.space.name} {options.space} --repo-type space`.")
        return
    launch(build(options.model), options.host, options.port)
