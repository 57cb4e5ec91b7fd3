"""Compares recordings of ECG and PPG with simulated ones: rhythm, delay of the pulse, shape and spectrum of 10-second windows.

    python scripts/compare_recordings.py --dataset bidmc --data_dir bidmc --num_windows 1000

Prints quartiles of both, and `overlap`: how often a simulated window lies above one of the recordings (0.5: alike).
"""

import argparse

from datasets import concatenate_datasets

from cmssl_hf.evaluation.likeness import compare_windows, measure_windows
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.data import load_raw_data
from cmssl_hf.training.engine.command import orderly_end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a dataset with ECG and PPG")
    parser.add_argument("--data_dir", help="folder with the release")
    parser.add_argument("--dataset_options", default={}, help="e.g. `subject=record`")
    parser.add_argument("--simulation", default={}, help="options of `simulated`, e.g. `arrhythmia_share=0.5`")
    parser.add_argument("--num_windows", type=int, default=1000, help="windows of each that are drawn at random")
    arguments = parser.parse_args()
    with orderly_end():
        chosen = (
            ("simulated", None, arguments.simulation),
            (arguments.dataset, arguments.data_dir, arguments.dataset_options),
        )
        measured = []
        for dataset, folder, options in chosen:
            data = DataArguments(dataset=dataset, dataset_config="pairs", data_dir=folder, dataset_options=options)
            windows = concatenate_datasets([*load_raw_data(data).values()]).shuffle(seed=0)
            measured.append(measure_windows(windows.select(range(min(arguments.num_windows, len(windows))))))
        table = compare_windows(*measured)
        table.columns = [name.replace("first", "simulated").replace("second", arguments.dataset) for name in table]
        print(table.round(3).to_markdown())


if __name__ == "__main__":
    main()
