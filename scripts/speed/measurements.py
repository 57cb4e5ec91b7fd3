"""The measurements of `benchmark.py`, each of which it runs in a process of its own:

    python scripts/speed/measurements.py '{"measure": "speed", ...}'

prints one JSON object. Speed is measured with all sides in one process, which take turns; memory with one side alone.
"""

import contextlib
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch


def speed(workload: str, size: str, batch: int, device: str, sides: list, rounds: int) -> dict:
    """Seconds per batch of every side in every round; in a round each side has one turn, so that what else the machine
    does meets all of them."""
    from workloads import Side, build

    with contextlib.ExitStack() as stack:
        steps = {
            str(side): stack.enter_context(build(workload, side, size, batch, device))
            for side in (Side(*each) for each in sides)
        }
        seconds = {side: [] for side in steps}
        for round_ in range(rounds + 1):
            for side, step in steps.items():
                start = time.perf_counter()
                step()
                if device == "cuda":
                    torch.cuda.synchronize()
                if round_ > 0:
                    seconds[side].append(time.perf_counter() - start)
    return {"seconds": seconds}


def memory(workload: str, size: str, batch: int, device: str, side: list) -> dict:
    """Peak memory of this process in MB after three batches: of the device, or resident in main memory."""
    from workloads import Side, build

    with build(workload, Side(*side), size, batch, device) as step:
        for _ in range(3):
            step()
    return {"peak_mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak_mb()}


def our_data(path: str, batch: int, windows: int) -> dict:
    """Reads `windows` windows of a memory-mapped dataset in random order."""
    from datasets import Dataset

    from cmssl_hf.data.batches import WindowsCollator, WindowsDataset

    before = _anonymous_mb()
    dataset = WindowsDataset(Dataset.from_file(path), ["input_values"])
    collate = WindowsCollator(125)
    order = np.random.default_rng(0).permutation(len(dataset))[:windows]
    batches = [order[start : start + batch].tolist() for start in range(0, len(order) - batch + 1, batch)]
    return _read_all(lambda indices: collate(dataset.__getitems__(indices)), batches, before)


def published_data(num_windows: int, batch: int, windows: int) -> dict:
    """Reads `windows` windows of a list of tensors in random order, with the default data loader."""
    from torch.utils.data import DataLoader

    before = _anonymous_mb()
    # Written to, so that each holds its memory.
    dataset = [torch.randn(10, 2, 125) for _ in range(num_windows)]
    loader = iter(DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True))
    batches = range(min(windows, num_windows) // batch)
    return _read_all(lambda _: next(loader), batches, before) | {"windows": len(batches) * batch}


def startup() -> dict:
    """Seconds that `import cmssl_hf` adds to torch and transformers."""
    import transformers  # noqa: F401

    start = time.perf_counter()
    import cmssl_hf  # noqa: F401

    return {"import_seconds": time.perf_counter() - start}


def models(folder: str) -> dict:
    """Seconds that importing all models adds to torch, transformers and its Auto classes, and that loading the small encoder
    takes after that."""
    from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel  # noqa: F401

    start = time.perf_counter()
    import cmssl_hf

    for name in cmssl_hf.__all__:
        if name.startswith("CMSSL"):
            getattr(cmssl_hf, name)
    imported = time.perf_counter()
    if not Path(folder).exists():
        cmssl_hf.CMSSLEncoderModel(cmssl_hf.CMSSLEncoderConfig()).save_pretrained(folder)
    loading = time.perf_counter()
    AutoModel.from_pretrained(folder)
    return {"models_seconds": imported - start, "from_pretrained_seconds": time.perf_counter() - loading}


def _read_all(read, batches, before: float) -> dict:
    """Windows per second is the median over ten stretches, memory the largest seen at the end of a batch."""
    rates, peak = [], 0.0
    for stretch in np.array_split(np.arange(len(batches)), min(10, len(batches))):
        start = time.perf_counter()
        number = 0
        for index in stretch:
            number += len(_values(read(batches[index])))
        rates.append(number / (time.perf_counter() - start))
        peak = max(peak, _anonymous_mb())
    return {"windows_per_second": statistics.median(rates), "memory_mb": peak - before}


def _values(batch):
    return batch["input_values"] if isinstance(batch, dict) else batch


def peak_mb() -> float:
    """Peak of the resident memory of this process."""
    # Linux counts in `ru_maxrss` what the process that started this one held.
    if (peak := _status_mb("VmHWM")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _anonymous_mb() -> float:
    """Memory that this process cannot give back; pages of memory-mapped files, which it can, do not count."""
    anonymous = _status_mb("RssAnon")
    return peak_mb() if anonymous is None else anonymous


def _status_mb(field: str) -> float | None:
    """A size that Linux tells of this process; None elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields[field].split()[0]) * 1024 / 1e6 if field in fields else None


_MEASUREMENTS = {
    function.__name__: function for function in (speed, memory, our_data, published_data, startup, models)
}

if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    request.pop("threads", None)
    print(json.dumps(_MEASUREMENTS[request.pop("measure")](**request)))
