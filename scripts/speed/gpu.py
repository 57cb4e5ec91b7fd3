"""Measures on a GPU, in under six minutes, what decides the speed of pre-training there, against the published computation.

    python scripts/speed/gpu.py --output_dir runs/gpu
    python scripts/speed/gpu.py --output_dir runs/gpu --small --device cpu    # does it run?

One process. After each part `gpu.json` in `--output_dir` holds what is done so far: the card and its measured peak, speed (sides
take turns, round by round; the reference is the published computation in float16, its own), peak memory, the trainers with the base
presets against the same steps on a batch that stays on the card, the kernels that take the time, and at last what compiling the
layers gains, for which time may be lacking. A measurement that fails is noted with its error; the others go on.
"""

import argparse
import contextlib
import functools
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from benchmark import describe_machine
from trainer_speed import trainer_speed
from workloads import NUM_PATCHES, TRAINING, Side, build

from cmssl_hf import CMSSLEncoderConfig, CMSSLEncoderForPreTraining


CASES = (
    ("stage 1", "small"),
    ("stage 2", "small"),
    ("stage 2", "base"),
    ("stage 2", "large"),
    ("fine-tuning", "small"),
    ("tokenising", "small"),
    ("embedding", "small"),
)
REFERENCE = Side("published", "float16")
SIDES = (
    REFERENCE,
    Side("published", "bfloat16"),
    Side("published", "float32"),
    Side("ours", "bfloat16"),
    Side("ours", "float16"),
    Side("ours", "float32"),
    Side("ours, fused attention", "bfloat16"),
)
MEMORY_SIDES = (
    REFERENCE,
    Side("published", "float32"),
    Side("ours", "bfloat16"),
    Side("ours", "float16"),
    Side("ours", "float32"),
    Side("ours, checkpointed", "bfloat16"),
)
COMPILED = Side("ours, compiled", "bfloat16")


class Measurement:
    """The parts, on one device.

    Args:
        device: `"cuda"` or `"cpu"`.
        small: a few windows and steps: does it run?
        deadline: `time.perf_counter()` after which no side is compiled any more.
    """

    def __init__(self, device: str, small: bool, deadline: float):
        self.device, self.small, self.deadline = device, small, deadline
        self.batch = 4 if small else 2048
        self.rounds, self.seconds_per_turn = (1, 0.0) if small else (3, 0.25)
        self.cases = tuple(case for case in CASES if case[1] == "small") if small else CASES

    def machine(self) -> dict:
        return describe_machine(self.device, None) | {"measured_peak_tflops": self.peaks}

    @functools.cached_property
    def peaks(self) -> dict[str, float]:
        """TFLOP/s of a large product, by number format."""
        size = 64 if self.small else 8192
        peaks = {}
        for dtype in ("bfloat16", "float16", "float32"):
            factor = torch.randn(size, size, device=self.device, dtype=getattr(torch, dtype))
            (seconds,) = self._turns([functools.partial(torch.mm, factor, factor)])
            peaks[dtype] = 2 * size**3 / min(seconds) / 1e12
        return peaks

    def speed(self) -> list[dict]:
        return [self._tried(self._speed, *case, SIDES) for case in self.cases]

    def compiled(self) -> list[dict]:
        results = []
        for workload, size in self.cases:
            if workload in TRAINING and time.perf_counter() < self.deadline:
                results.append(
                    self._tried(self._speed, workload, size, (REFERENCE, Side("ours", "bfloat16"), COMPILED))
                )
            elif workload in TRAINING:
                results.append({"workload": workload, "size": size, "skipped": "no time was left"})
        return results

    def memory(self) -> list[dict]:
        return [
            self._tried(self._memory, *case, side)
            for case in self.cases
            if case[0] in TRAINING
            for side in MEMORY_SIDES
        ]

    def trainers(self) -> list[dict]:
        steps = 3 if self.small else 60
        return [self._tried(self._trainer, stage, "base", steps) for stage in ("tokenizer", "encoder")]

    def profile(self) -> list[dict]:
        return [self._tried(self._profile, *case) for case in self.cases if case in (CASES[0], CASES[1], CASES[3])]

    def _tried(self, measure: Callable[..., dict], name: str, size: str, *arguments: object) -> dict:
        """What a measurement returns or, since time on a GPU is short and the others are worth having, how it failed."""
        try:
            return measure(name, size, *arguments)
        except Exception as error:
            traceback.print_exc()
            return {"workload": name, "size": size, "error": f"{type(error).__name__}: {error}"}
        finally:
            self._free()

    def _trainer(self, stage: str, size: str, steps: int) -> dict:
        return trainer_speed(stage, self.device, self.small, steps)

    def _speed(self, workload: str, size: str, sides: tuple[Side, ...]) -> dict:
        case = {"workload": workload, "size": size, "batch": self.batch}
        with contextlib.ExitStack() as stack:
            steps = [stack.enter_context(build(workload, side, size, self.batch, self.device)) for side in sides]
            seconds = dict(zip(map(str, sides), self._turns(steps)))
            del steps
        rate = {side: self.batch / statistics.median(turns) for side, turns in seconds.items()}
        ratio = {
            side: statistics.median(theirs / ours for theirs, ours in zip(seconds[str(REFERENCE)], turns))
            for side, turns in seconds.items()
        }
        case |= {"windows_per_second": rate, "ratio_to_published_float16": ratio, "seconds_per_batch": seconds}
        if workload == "stage 2":
            case["matrix_tflops"] = {side: each * self._operations(size) / 1e12 for side, each in rate.items()}
            case["share_of_measured_peak"] = {
                str(side): case["matrix_tflops"][str(side)] / self.peaks[side.dtype] for side in sides
            }
        return case

    def _turns(self, steps: list[Callable[[], object]]) -> list[list[float]]:
        """Seconds per call of each step in each round, after a warm-up."""
        for step in steps:
            for _ in range(1 if self.small else 3):
                step()
        self._wait()
        calls = [self._calls(step) for step in steps]
        seconds: list[list[float]] = [[] for _ in steps]
        for _ in range(self.rounds):
            for index, step in enumerate(steps):
                start = time.perf_counter()
                for _ in range(calls[index]):
                    step()
                self._wait()
                seconds[index].append((time.perf_counter() - start) / calls[index])
        return seconds

    def _calls(self, step: Callable[[], object]) -> int:
        start = time.perf_counter()
        step()
        self._wait()
        return max(1, min(50, int(self.seconds_per_turn / (time.perf_counter() - start))))

    def _operations(self, size: str) -> float:
        """Operations of the products of one window and training step of stage 2: two per weight and patch forward, four backward."""
        with torch.device("meta"):
            model = CMSSLEncoderForPreTraining(CMSSLEncoderConfig.from_size(size))
        weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
        return 6.0 * weights * NUM_PATCHES

    def _memory(self, workload: str, size: str, side: Side) -> dict:
        """`peak_mb`, which only a GPU tells."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with build(workload, side, size, self.batch, self.device) as step:
            for _ in range(1 if self.small else 3):
                step()
            self._wait()
            peak = torch.cuda.max_memory_allocated() / 1e6 if self.device == "cuda" else None
        return {"workload": workload, "size": size, "batch": self.batch, "side": str(side), "peak_mb": peak}

    def _profile(self, workload: str, size: str) -> dict:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with build(workload, Side("ours", "bfloat16"), size, self.batch, self.device) as step:
            step()
            self._wait()
            with torch.profiler.profile(activities=activities) as profiler:
                for _ in range(1 if self.small else 5):
                    step()
                self._wait()
        of_device = "self_device_time_total" if self.device == "cuda" else "self_cpu_time_total"
        events = [(event.key, getattr(event, of_device), event.count) for event in profiler.key_averages()]
        total = sum(time for _, time, _ in events)
        longest = sorted(events, key=lambda event: -event[1])[:25]
        shares = [{"name": name, "share": time / max(total, 1), "calls": calls} for name, time, calls in longest]
        return {"workload": workload, "size": size, "microseconds": total, "longest": shares}

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _free(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


PARTS = ("machine", "speed", "memory", "trainers", "profile", "compiled")


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, help="folder for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a few windows and steps: does it run?")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=300, help="after these no further case is compiled")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    file = Path(options.output_dir) / "gpu.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(options.device, options.small, start + options.seconds)
    results: dict = {"small": options.small, "seconds": {}}
    for part in options.parts:
        began = time.perf_counter()
        results[part] = getattr(measurement, part)()
        results["seconds"][part] = time.perf_counter() - began
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{part}: {results['seconds'][part]:.0f} s, {time.perf_counter() - start:.0f} s in all", file=sys.stderr)
    print(table(results))
    return results


def table(results: dict) -> str:
    """Speed as lines of text: windows/s and the ratio to the published computation in float16."""
    lines = []
    for part in ("speed", "compiled"):
        for case in results.get(part) or ():
            for side, rate in case.get("windows_per_second", {}).items():
                ratio = case["ratio_to_published_float16"][side]
                lines.append(f"{case['workload']:12} {case['size']:6} {side:36} {rate:12,.0f} {ratio:6.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
