"""Measures this package against the published computation, on this machine.

    python scripts/speed/benchmark.py            # everything, about a quarter of an hour on two cores
    python scripts/speed/benchmark.py --quick    # every measurement once, small: does it run?
    python scripts/speed/benchmark.py --write docs/performance.md

Both sides do the same work on windows of 10 s; each measurement is a process of its own, in which the sides take turns. Writes
`performance_results.json` and two figures to `--output_dir`, prints the table, and with `--write` puts it into a document,
between the lines `<!-- benchmark -->` and `<!-- /benchmark -->`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tables_and_figures import plot_dataset_size, plot_throughput, tables, write_between_markers
from window_files import write_windows
from workloads import OBJECTIVES


PARTS = ("startup", "data", "memory", "speed", "objectives")
_MEASUREMENTS = Path(__file__).parent / "measurements.py"
#: Workload, size of the encoder, batch on a CPU, batch on a GPU.
_CASES = (
    ("stage 1", "small", 512, 2048),
    ("stage 2", "small", 512, 2048),
    ("stage 2", "base", 128, 2048),
    ("stage 2", "large", 32, 2048),
    ("fine-tuning", "small", 512, 2048),
    ("tokenising", "small", 512, 2048),
    ("embedding", "small", 512, 2048),
)
_SWEPT_BATCHES = (16, 64, 256)
_DATASET_SIZES = (10_000, 100_000, 1_000_000)
#: A list of a million tensors would take what the published code is known for; it is not run.
_LARGEST_LIST = 100_000
_READ_WINDOWS = 100_000
_DATA_BATCH = 512


def measure(threads: int | None, **request) -> dict:
    """Runs one measurement in a process of its own.

    Raises:
        subprocess.CalledProcessError: if it fails; what it printed is on stderr.
    """
    command = [sys.executable, str(_MEASUREMENTS), json.dumps({**request, "threads": threads})]
    print("  " + ", ".join(f"{name} {value}" for name, value in request.items() if name != "sides"), file=sys.stderr)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {**request, **json.loads(output.splitlines()[-1])}


def measure_speed(options: argparse.Namespace, device: str) -> list[dict]:
    dtypes = ("float32", "bfloat16") if device == "cpu" else ("float32", "float16", "bfloat16")
    sides = [(who, dtype) for dtype in dtypes for who in ("published", "ours")]
    results = []
    for workload, size, on_cpu, on_gpu in _CASES:
        if options.quick and size != "small":
            continue
        batch = 8 if options.quick else on_cpu if device == "cpu" else on_gpu
        checkpointed = [("ours, checkpointed", dtype) for dtype in dtypes] if workload.startswith("stage") else []
        results.append(_speed(options, device, workload, size, batch, sides + checkpointed))
    for workload in ("stage 1", "stage 2"):
        for batch in () if options.quick else _SWEPT_BATCHES:
            results.append(_speed(options, device, workload, "small", batch, sides))
    return results


def measure_objectives(options: argparse.Namespace, device: str) -> dict:
    batch = 8 if options.quick else 64 if device == "cpu" else 512
    dtype = "float32" if device == "cpu" else "bfloat16"
    return _speed(options, device, "objectives", "small", batch, [(name, dtype) for name in OBJECTIVES])


def _speed(options, device, workload, size, batch, sides) -> dict:
    rounds = 1 if options.quick else options.rounds
    request = {"workload": workload, "size": size, "batch": batch, "device": device, "sides": sides, "rounds": rounds}
    return measure(options.threads, measure="speed", **request)


def measure_memory(options: argparse.Namespace, device: str) -> list[dict]:
    batch = 8 if options.quick else 512 if device == "cpu" else 2048
    return [
        measure(
            options.threads,
            measure="memory",
            workload=workload,
            size="small",
            batch=batch,
            device=device,
            side=(who, dtype),
        )
        for workload in (("stage 1",) if options.quick else ("stage 1", "stage 2"))
        for dtype in ("float32", "bfloat16" if device == "cpu" else "float16")
        for who in ("published", "ours", "ours, checkpointed")
    ]


def measure_data(options: argparse.Namespace, folder: Path) -> list[dict]:
    results = []
    for num_windows in (1_024, 2_048) if options.quick else _DATASET_SIZES:
        file = folder / f"{num_windows}.arrow"
        write_windows(file, num_windows)
        request = {"batch": _DATA_BATCH, "windows": min(num_windows, _READ_WINDOWS)}
        results.append(
            {"num_windows": num_windows}
            | measure(options.threads, measure="our_data", path=str(file), **request)
            | {"path": file.name}
        )
        file.unlink()
        if num_windows <= _LARGEST_LIST:
            results.append(measure(options.threads, measure="published_data", num_windows=num_windows, **request))
    return results


def measure_startup(options: argparse.Namespace, folder: Path) -> dict:
    """Import and `from_pretrained`: medians of several processes, after a first one that fills the caches."""
    runs = [
        measure(options.threads, measure="startup")
        | measure(options.threads, measure="models", folder=str(folder / "model"))
        for _ in range(1 if options.quick else 4)
    ]
    names = ("import_seconds", "models_seconds", "from_pretrained_seconds")
    return {name: statistics.median(run[name] for run in runs[-3:]) for name in names}


def describe_machine(device: str, threads: int | None) -> dict:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "load_average_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="docs", help="folder for the results and the figures")
    parser.add_argument("--write", help="document that gets the table, between its markers")
    parser.add_argument("--quick", action="store_true", help="every measurement once, small")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these; others stay as measured")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side gets")
    parser.add_argument("--threads", type=int, help="threads of each measurement; as torch chooses if left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the GPU if there is one, if left out")
    parser.add_argument("--scratch_dir", help="folder on disk for datasets of up to 10 GB while they are read")
    options = parser.parse_args(arguments)

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    file = output_dir / "performance_results.json"
    measured = {} if set(options.parts) == set(PARTS) else json.loads(file.read_text())
    results = {**measured, "machine": describe_machine(device, options.threads), "quick": options.quick}
    with tempfile.TemporaryDirectory(dir=options.scratch_dir) as scratch:
        measures = {
            "startup": lambda: measure_startup(options, Path(scratch)),
            "data": lambda: measure_data(options, Path(scratch)),
            "memory": lambda: measure_memory(options, device),
            "speed": lambda: measure_speed(options, device),
            "objectives": lambda: measure_objectives(options, device),
        }
        for part in options.parts:
            results[part] = measures[part]()
            # After each part, so that an interruption leaves what is done.
            file.write_text(json.dumps(results, indent=1) + "\n")
    plot_throughput(results, output_dir / "throughput.png")
    plot_dataset_size(results, output_dir / "dataset_size.png")
    report = tables(results)
    print(report)
    if options.write:
        write_between_markers(Path(options.write), report)


if __name__ == "__main__":
    main()
