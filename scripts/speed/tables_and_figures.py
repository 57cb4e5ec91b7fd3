"""Tables and figures of `benchmark.py` from its results."""

import statistics
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt


_MARKERS = ("<!-- benchmark -->", "<!-- /benchmark -->")
_COLOURS = {"published": "tab:gray", "ours": "tab:blue", "ours, checkpointed": "tab:green"}


def ratio(case: dict, side: str, reference: str) -> float:
    """How many times faster `side` is than `reference`: the median over the rounds of a case."""
    seconds = case["seconds"]
    return statistics.median(slow / fast for slow, fast in zip(seconds[reference], seconds[side]))


def throughput(case: dict, side: str) -> float:
    """Windows per second of a side, by its median round."""
    return case["batch"] / statistics.median(case["seconds"][side])


def tables(results: dict) -> str:
    """All results as Markdown."""
    return "\n\n".join(
        (
            _machine(results),
            _speed(results["speed"]),
            *([_objectives(results["objectives"])] if "objectives" in results else []),
            _memory(results["memory"]),
            _data(results["data"]),
            _startup(results),
        )
    )


def _machine(results: dict) -> str:
    machine = results["machine"]
    name = machine["gpu"] or f"{machine['cores']} cores of {machine['processor']}, {machine['threads']} thread(s)"
    load = machine["load_average_at_start"]
    busy = f"; load average at the start {load:.1f}" if load is not None else ""
    quick = " **Quick run: the numbers mean nothing.**" if results["quick"] else ""
    return f"Measured on {name}, torch {machine['torch']}{busy}.{quick}"


def _speed(cases: list[dict]) -> str:
    rows = []
    for case in cases:
        for side in case["seconds"]:
            who, _, dtype = side.rpartition(", ")
            if who == "published":
                continue
            same = f"published, {dtype}"
            rows.append(
                (
                    case["workload"] + ("" if case["workload"] in ("stage 1", "tokenising") else f", {case['size']}"),
                    case["batch"],
                    dtype,
                    who,
                    f"{throughput(case, same):,.0f}",
                    f"{throughput(case, side):,.0f}",
                    f"**{ratio(case, side, same):.2f}**",
                    f"{ratio(case, side, 'published, float32'):.2f}",
                )
            )
    header = ("work", "batch", "type", "who", "published, windows/s", "ours, windows/s", "ratio", "ratio to float32")
    return _table(header, rows)


def _objectives(case: dict) -> str:
    reference, *_ = case["seconds"]
    rows = [
        (
            side.rpartition(", ")[0],
            case["batch"],
            side.rpartition(", ")[2],
            f"{throughput(case, side):,.0f}",
            f"{ratio(case, reference, side):.2f}",
        )
        for side in case["seconds"]
    ]
    return _table(("objective", "batch", "type", "windows/s", "time of a step, that of tokens being 1"), rows)


def _memory(cases: list[dict]) -> str:
    published = {
        (case["workload"], case["side"][1]): case["peak_mb"] for case in cases if case["side"][0] == "published"
    }
    rows = []
    for case in cases:
        who, dtype = case["side"]
        reference = published[case["workload"], dtype]
        if who != "published":
            share = f"**{case['peak_mb'] / reference:.2f}**"
            rows.append(
                (case["workload"], case["batch"], dtype, who, f"{reference:,.0f}", f"{case['peak_mb']:,.0f}", share)
            )
    return _table(("peak memory", "batch", "type", "who", "published, MB", "ours, MB", "share"), rows)


def _data(cases: list[dict]) -> str:
    rows = [
        (
            f"{case['num_windows']:,}",
            "memory-mapped (ours)" if case["measure"] == "our_data" else "list of tensors (published)",
            f"{case['windows_per_second']:,.0f}",
            f"{case['memory_mb']:,.0f}",
        )
        for case in cases
    ]
    return _table(("windows in the dataset", "kept as", "windows/s in random order", "memory, MB"), rows)


def _startup(results: dict) -> str:
    startup = results["startup"]
    return (
        f"`import cmssl_hf` after torch and transformers: {startup['import_seconds']:.2f} s; all its models:"
        f" {startup['models_seconds']:.2f} s; `AutoModel.from_pretrained` of the small encoder after that:"
        f" {startup['from_pretrained_seconds']:.2f} s."
    )


def _table(header: tuple, rows: list[tuple]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def plot_throughput(results: dict, path: Path) -> None:
    """Windows per second against batch size, for both stages of pre-training."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, workload in zip(axes, ("stage 1", "stage 2")):
        cases = [case for case in results["speed"] if case["workload"] == workload and case["size"] == "small"]
        cases.sort(key=lambda case: case["batch"])
        for side in cases[0]["seconds"]:
            who, _, dtype = side.rpartition(", ")
            shown = [case for case in cases if side in case["seconds"]]
            axis.plot(
                [case["batch"] for case in shown],
                [throughput(case, side) for case in shown],
                color=_COLOURS[who],
                linestyle="-" if dtype == "float32" else "--" if dtype == "bfloat16" else ":",
                marker="o",
                label=side,
            )
        axis.set(title=workload, xlabel="batch (windows)", xscale="log", ylim=(0, None))
        # The minor labels of a logarithmic axis would lie over each other.
        axis.set_xticks([], minor=True)
        axis.set_xticks(sizes := sorted({case["batch"] for case in cases}), labels=map(str, sizes))
    axes[0].set_ylabel("windows per second")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_dataset_size(results: dict, path: Path) -> None:
    """Memory and time per window against the size of the dataset."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for measure, who in (("published_data", "published"), ("our_data", "ours")):
        cases = [case for case in results["data"] if case["measure"] == measure]
        sizes = [case["num_windows"] for case in cases]
        axes[0].plot(sizes, [case["memory_mb"] for case in cases], "o-", color=_COLOURS[who], label=who)
        axes[1].plot(sizes, [1e6 / case["windows_per_second"] for case in cases], "o-", color=_COLOURS[who])
    axes[0].set(xlabel="windows in the dataset", ylabel="memory (MB)", xscale="log", yscale="log")
    axes[1].set(xlabel="windows in the dataset", ylabel="µs per window, random order", xscale="log", ylim=(0, None))
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write_between_markers(path: Path, text: str) -> None:
    """Replaces what stands between the markers of a document.

    Raises:
        ValueError: if the document lacks them.
    """
    document = path.read_text()
    start, end = (document.find(marker) for marker in _MARKERS)
    if not 0 <= start < end:
        raise ValueError(f"{path} lacks the lines {_MARKERS[0]} and {_MARKERS[1]}.")
    path.write_text(document[: start + len(_MARKERS[0])] + f"\n{text}\n" + document[end:])
