"""`cmssl-hf`: finds the subcommand and runs it."""

import difflib
import importlib
import signal
import sys
from dataclasses import dataclass

from .. import __version__, naming_the_extra


@dataclass(frozen=True)
class _Command:
    """What is known of a subcommand before it is imported.

    Attributes:
        module: has a function `main()` that reads `sys.argv`.
        summary: what it does.
        extra: of the package, that it needs.
    """

    module: str
    summary: str
    extra: str = "train"


COMMANDS = {
    "predict": _Command("cmssl_hf.command_line.predict", "what a fine-tuned model answers to recordings"),
    "embed": _Command("cmssl_hf.command_line.embed", "features of an encoder"),
    "tokens": _Command("cmssl_hf.command_line.tokens", "codes of a tokenizer, or of an encoder of one signal"),
    "atlas": _Command("cmssl_hf.command_line.atlas", "what the codes of a tokenizer stand for: a table and a figure"),
    "quality": _Command("cmssl_hf.command_line.quality", "what is wrong with recordings; needs no model"),
    "info": _Command("cmssl_hf.command_line.info", "what recordings hold; needs no model"),
    "demo": _Command("cmssl_hf.demo.main", "recordings and answers in a browser", extra="demo"),
    "prepare-data": _Command("cmssl_hf.scripts.prepare_data", "a release as Parquet shards of the models' input"),
    "inspect-dataset": _Command("cmssl_hf.scripts.inspect_dataset", "counts, labels and a figure of a dataset"),
    "pretrain-tokenizer": _Command("cmssl_hf.scripts.pretrain_tokenizer", "stage 1"),
    "pretrain-encoder": _Command("cmssl_hf.scripts.pretrain_encoder", "stage 2"),
    "finetune": _Command("cmssl_hf.scripts.finetune", "stage 3"),
    "run-finetuning": _Command("cmssl_hf.scripts.run_finetuning", "stage 3 for models x tasks x seeds"),
    "benchmark-tasks": _Command("cmssl_hf.scripts.benchmark_tasks", "compares models on tasks"),
    "quickstart": _Command("cmssl_hf.scripts.quickstart", "all three stages on simulated recordings"),
    "export-onnx": _Command("cmssl_hf.scripts.export_onnx", "a model for onnxruntime", extra="onnx"),
    "preset": _Command("cmssl_hf.command_line.preset", "where the YAML files are that come with the package"),
}


def usage() -> str:
    lines = [f"  {name:<19} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: cmssl-hf COMMAND ...", "", *lines, "", "`cmssl-hf COMMAND --help` lists what it takes."])


def main() -> None:
    """Runs the subcommand that the command line names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name == "--version":
        print(__version__)
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        sys.exit(f"error: there is no command {name!r}.{hint}\n\n{usage()}")
    command = COMMANDS[name]
    # As if it were a program of its own: what parses the arguments says its name.
    sys.argv = [f"cmssl-hf {name}", *arguments]
    try:
        with naming_the_extra(command.extra):
            sys.exit(importlib.import_module(command.module).main())
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        # Who reads the output has seen enough.
        sys.exit(128 + signal.SIGPIPE)
