"""Looks at a dataset: counts per split, distribution of the labels, what was left out and why, and a figure of some windows.

    python scripts/inspect_dataset.py ppg_dalia hr --data_dir ppg_dalia --output_dir figures
    python scripts/inspect_dataset.py ptb_xl rhythm --data_dir ptb-xl-1.0.3 --option lead=V1 --option sampling_rate=500

The figure shows windows that span the range of the labels, or one of each class, with the beats that are found in them.
"""

import argparse
import sys
from pathlib import Path

import datasets
import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cmssl_hf.building.dataset_builder import SignalDatasetBuilder
from cmssl_hf.building.ecg_recordings import LEADS
from cmssl_hf.data.loading import channels_of, dataset_names, load_dataset_builder
from cmssl_hf.extensions import IMPORT_HELP, import_extensions
from cmssl_hf.signals import detect_pulse_peaks, detect_r_peaks, heart_rate_from_beats
from cmssl_hf.training.engine.parsing import parse_options


# Of longer recordings the figure shows the beginning.
_SHOWN_SECONDS = 20
_DETECTORS = {"ecg": detect_r_peaks, "ppg": detect_pulse_peaks}
_COLOURS = {"ecg": "tab:red", "ppg": "tab:blue"}


def durations(dataset: datasets.Dataset) -> np.ndarray:
    """Length of each window in seconds."""
    column = dataset.data.column(next(name for name in ("signal", "ecg", "ppg") if name in dataset.column_names))
    if pa.types.is_list(column.type.value_type):  # several leads
        column = pc.list_element(column, 0)
    return pc.list_value_length(column).to_numpy() / dataset.data.column("sampling_rate").to_numpy()


def covered_hours(dataset: datasets.Dataset) -> float:
    """Hours of recording that lie in at least one window."""
    table = dataset.select_columns(["record_id", "start_time"]).to_pandas()
    table["seconds"] = durations(dataset)
    table = table.sort_values(["record_id", "start_time"])
    until_next = -table.groupby("record_id")["start_time"].diff(-1)
    return float(np.fmin(table["seconds"], until_next.fillna(np.inf)).sum()) / 3600


def label_summary(dataset: datasets.Dataset, label_names: tuple[str, ...]) -> str:
    """Distribution of the labels: how many rows have each class, or range and mean of each number."""
    labels = np.stack(dataset.data.column("label").to_numpy())
    if isinstance(dataset.features["label"], datasets.ClassLabel):
        return ", ".join(
            f"{name} {number:,}" for name, number in zip(label_names, np.bincount(labels, minlength=len(label_names)))
        )
    if label_names:
        counts = sorted(zip(labels.sum(axis=0).astype(int), label_names), reverse=True)
        present = [f"{name} {number:,}" for number, name in counts if number]
        none = f"none of them {np.sum(~labels.any(axis=1)):,}"
        return ", ".join(
            [*present, *([f"{len(counts) - len(present)} classes 0"] if len(present) < len(counts) else []), none]
        )
    columns = labels.reshape(len(labels), -1).T
    return "; ".join(
        f"{values.mean():.1f} +- {values.std():.1f}, quartiles "
        + " ".join(f"{value:.1f}" for value in np.percentile(values, (0, 25, 50, 75, 100)))
        for values in columns
    )


def describe(builder: SignalDatasetBuilder) -> str:
    """The printed account of a prepared dataset."""
    report = builder.preparation_report
    lines = [f"{builder.TITLE}, configuration {builder.config.name}"]
    for split, dataset in builder.as_dataset().items():
        seconds = durations(dataset)
        lengths = f"{seconds.min():g} s" if np.ptp(seconds) == 0 else f"{seconds.min():.1f}-{seconds.max():.1f} s"
        rates = ", ".join(f"{rate:g}" for rate in dataset.unique("sampling_rate"))
        lines.append(
            f"\n{split}: {len(dataset.unique('subject_id')):,} subjects, {len(dataset):,} windows of {lengths} at {rates} Hz,"
            f" {covered_hours(dataset):.2f} h"
        )
        if "label" in dataset.column_names:
            lines.append(f"  labels: {label_summary(dataset, builder.label_names)}")
        outcome = report["splits"][split]
        dropped = {reason: number for reason, number in outcome["windows"].items() if reason != "kept"}
        lines.append(
            f"  dropped: {', '.join(f'{number:,} {reason}' for reason, number in sorted(dropped.items())) or 'none'}"
        )
        lines += [f"  damaged: {problem}" for problem in outcome["damaged_records"].values()]
    reasons = pd.Series(report["skipped_records"], dtype=str).value_counts()
    lines += [f"\nskipped records: {number:,} {reason}" for reason, number in reasons.items()]
    return "\n".join(lines)


def example_rows(dataset: datasets.Dataset, number: int) -> list[int]:
    """Rows for the figure: one of each class in turn, spread over the range of a number, else spread over the dataset."""
    number = min(number, len(dataset))
    spread = np.linspace(0, len(dataset) - 1, number).astype(int)
    label = dataset.features.get("label")
    if isinstance(label, datasets.ClassLabel):
        labels = pd.Series(dataset["label"])
        in_turn = labels.groupby(labels).cumcount().sort_values(kind="stable").index[:number]
        return sorted(in_turn, key=lambda row: labels[row])
    if isinstance(label, datasets.Value):
        return [int(row) for row in np.argsort(dataset["label"], kind="stable")[spread]]
    return spread.tolist()


def label_text(row: dict, feature: object, label_names: tuple[str, ...]) -> str:
    label = row["label"]
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(label)
    if label_names:
        return ", ".join(name for name, present in zip(label_names, label) if present) or "none"
    return ", ".join(f"{value:.3g}" for value in np.atleast_1d(label))


def plot_windows(
    dataset: datasets.Dataset, label_names: tuple[str, ...], channel: str, number: int, path: Path
) -> None:
    """Draws windows with the R-peaks or pulse peaks found in them, and saves the figure.

    Args:
        dataset: one split.
        label_names: as of the builder.
        channel: what a column called `signal` holds, `"ecg"` or `"ppg"`.
        number: of windows.
        path: of the image.
    """
    columns = [name for name in ("ecg", "ppg", "signal") if name in dataset.column_names]
    rows = dataset.select(example_rows(dataset, number))
    figure, axes = plt.subplots(
        len(rows) * len(columns), figsize=(12, 1.7 * len(rows) * len(columns)), squeeze=False, layout="constrained"
    )
    for index, row in enumerate(rows):
        for axis, column in zip(axes[index * len(columns) :, 0], columns):
            kind, rate = channel if column == "signal" else column, row["sampling_rate"]
            signal = np.asarray(row[column])
            lead = ""
            if signal.ndim == 2:
                signal, lead = signal[1], f" lead {LEADS[1]}"
            beats = _DETECTORS[kind](signal, rate)
            title = " / ".join(dict.fromkeys((row["subject_id"], row["record_id"])))
            title += f", {row['start_time']:g} s, {kind.upper()}{lead}"
            title += f", {heart_rate_from_beats(beats, rate):.0f} beats/min found"
            if "label" in row:
                title += f", label: {label_text(row, dataset.features['label'], label_names)}"
            shown = round(_SHOWN_SECONDS * rate)
            times = np.arange(len(signal)) / rate
            axis.plot(times[:shown], signal[:shown], color=_COLOURS[kind], linewidth=0.8)
            beats = beats[beats < shown]
            axis.plot(times[beats], signal[beats], "k.", markersize=6)
            axis.set_title(title, fontsize=8, loc="left")
            axis.tick_params(labelsize=7)
            axis.margins(x=0.005)
    axes[-1, 0].set_xlabel("time in the window (s)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    arguments = import_extensions(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=IMPORT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=dataset_names())
    parser.add_argument("config_name", nargs="?", help="configuration; the default one if left out")
    parser.add_argument("--data_dir", help="folder of the release; downloaded where possible if left out")
    parser.add_argument("--output_dir", default=".", help="folder for the figure")
    parser.add_argument("--cache_dir", help="folder for the prepared data")
    parser.add_argument("--num_proc", type=int)
    parser.add_argument("--split", help="split that the figure shows; the first if left out")
    parser.add_argument("--num_windows", type=int, default=6, help="windows in the figure")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the dataset, e.g. lead=V1"
    )
    options = parser.parse_args(arguments)
    if malformed := [option for option in options.option if "=" not in option]:
        parser.error(f"--option takes NAME=VALUE, not {malformed[0]!r}")
    builder = load_dataset_builder(
        options.dataset,
        options.config_name,
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
        **parse_options(options.option),
    )
    builder.download_and_prepare(num_proc=options.num_proc)
    print(describe(builder))
    data = builder.as_dataset()
    split = options.split or next(iter(data))
    if split not in data:
        parser.error(f"there is no split {split!r}; there are {', '.join(data)}")
    channel = channels_of(builder)[0]
    path = Path(options.output_dir) / f"{options.dataset}_{builder.config.name}_{split}.png"
    plot_windows(data[split], builder.label_names, channel, options.num_windows, path)
    print(f"\nfigure: {path}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
