"""Prepares a dataset for training: from its release to Parquet shards of the models' input.

python scripts/prepare_data.py pulsedb --data_dir PulseDB --output_dir prepared/pulsedb --dtype int16 --num_proc 8
accelerate launch --multi_gpu --num_machines 4 ... scripts/prepare_data.py pulsedb ... --output_dir ...  # a shared folder

`--multi_gpu` serves machines without GPUs as well: it connects the processes, and no GPU is used here.

A run that was interrupted continues when it is started again with the same arguments.
"""

import argparse
import shutil
import sys
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from cmssl_hf import CMSSLFeatureExtractor
from cmssl_hf.data.loading import channels_of, dataset_names, load_dataset_builder, options_for_channels
from cmssl_hf.data.prepared.storage import SAMPLE_DTYPES
from cmssl_hf.data.prepared.writing import Preparation, PreparationEstimate
from cmssl_hf.extensions import IMPORT_HELP, import_extensions
from cmssl_hf.training.engine.command import orderly_end
from cmssl_hf.training.engine.parsing import parse_options


def parse_arguments() -> argparse.Namespace:
    with orderly_end():
        arguments = import_extensions(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=IMPORT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=dataset_names())
    parser.add_argument("config_name", nargs="?", help="configuration of the dataset; its default one if left out")
    parser.add_argument("--data_dir", help="folder with the release, where it is not downloaded")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--dtype", choices=SAMPLE_DTYPES, default="float32", help="of the stored samples")
    parser.add_argument("--shard_megabytes", type=float, default=32, help="what an interruption costs, at most")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that each launched process starts")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the dataset, e.g. form=subsets"
    )
    parser.add_argument("--channels", nargs="+", choices=("ecg", "ppg"), help="signals to keep; all if left out")
    parser.add_argument(
        "--sampling_rate", type=int, default=125, help="of the models that will read the signals, in Hz"
    )
    parser.add_argument("--no_band_pass", action="store_true", help="leave the signals unfiltered")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    # Processes may finish hours apart.
    state = PartialState(cpu=True, timeout=timedelta(days=30))
    with state.main_process_first():
        options = parse_options(arguments.option)
        if arguments.channels:
            options = options_for_channels(arguments.dataset, options, arguments.channels)
        builder = load_dataset_builder(
            arguments.dataset, arguments.config_name, data_dir=arguments.data_dir, **options
        )
        feature_extractor = CMSSLFeatureExtractor(
            channels=arguments.channels or channels_of(builder),
            sampling_rate=arguments.sampling_rate,
            do_band_pass=not arguments.no_band_pass,
        )
        preparation = Preparation(
            builder,
            feature_extractor,
            arguments.output_dir,
            dtype=arguments.dtype,
            shard_bytes=int(arguments.shard_megabytes * 1e6),
        )
    plan = [_plan(preparation) if state.is_main_process else None]
    plan = broadcast_object_list(plan)[0]
    num_shards = len(plan[state.process_index :: state.num_processes])
    state.print(f"{len(plan)} shards, {state.num_processes} x {arguments.num_proc} processes.")
    summaries = preparation.run(plan, state.process_index, state.num_processes, arguments.num_proc)
    num_windows = 0
    with tqdm(total=num_shards, unit="shard", disable=not state.is_main_process) as progress:
        for summary in summaries:
            num_windows += summary.num_windows
            progress.set_postfix_str(f"{num_windows:,} windows", refresh=False)
            progress.update()
    state.wait_for_everyone()
    if state.is_main_process:
        _report(preparation.finish(plan), preparation.output_dir)
    state.wait_for_everyone()
    state.destroy_process_group()


def _plan(preparation: Preparation) -> list:
    plan = preparation.load_plan()
    if plan is not None:
        num_done = sum((preparation.output_dir / shard.file).exists() for shard in plan)
        print(f"Continuing: {num_done} of {len(plan)} shards are there.")
        return plan
    estimate = preparation.estimate()
    preparation.output_dir.mkdir(parents=True, exist_ok=True)
    _announce(preparation, estimate)
    return preparation.make_plan(estimate)


def _announce(preparation: Preparation, estimate: PreparationEstimate) -> None:
    name = f"{preparation.builder.name}/{preparation.builder.config.name}"
    records = ", ".join(f"{split} {len(members):,}" for split, members in preparation.records.items())
    print(f"{name}: {estimate.num_records:,} recordings ({records})")
    print(f"About {estimate.num_windows:,} windows, judging from {estimate.num_sampled} recordings.\n")
    print("    stored as   size on disk   largest error   rms error   (1 = standard deviation of a window)")
    for dtype in SAMPLE_DTYPES:
        size, error = _size(estimate.num_bytes(dtype)), estimate.errors[dtype]
        mark = "->" if dtype == preparation.dtype else "  "
        print(f" {mark} {dtype:9}   {size:>12}   {error.largest:13.2g}   {error.rms:9.2g}")
    free = shutil.disk_usage(preparation.output_dir).free
    print(f"\n{_size(free)} are free in {preparation.output_dir}.")
    if estimate.num_bytes(preparation.dtype) > free:
        print("WARNING: that is probably not enough.")


def _report(manifest: dict, folder: Path) -> None:
    for split, content in manifest["splits"].items():
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(content["windows"].items()))
        print(f"{split}: {content['num_windows']:,} windows, {_size(content['num_bytes'])} ({outcomes})")
        for problem in content["damaged_records"].values():
            print(f"    damaged, left out: {problem}")
    error = manifest["storage_error"]
    print(f"Error of the stored samples: at most {error['largest']:.2g}, rms {error['rms']:.2g}.")
    print(f"Complete: load_prepared({str(folder)!r}).")


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


if __name__ == "__main__":
    main()
