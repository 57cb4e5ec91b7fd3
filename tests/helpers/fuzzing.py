"""Damaged inputs for readers, tried in processes of their own: crashes, hangs and growing memory are findings, too."""

import multiprocessing
import os
import re
import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


#: What a number in a text is replaced by.
_NUMBERS = [
    b"0",
    b"-1",
    b"1e9",
    b"nan",
    b"inf",
    b"4294967296",
    b"999999999999999999999",
    b"0.0001",
    b"",
    b"x",
    b"2147483647",
]
_TEXTS = [
    b"\x00",
    b"\n",
    b"\xff\xfe",
    b",",
    b"/",
    b"../../x",
    b"~",
    b"[",
    b"{",
    b": ",
    b"- ",
    b'"',
    b"#",
    b"&a *a ",
    b"!!python/name:os.system ",
]

_ADDRESS_SPACE = 8 * 2**30


@dataclass
class Findings:
    """What became of the inputs.

    Attributes:
        outcomes: number of inputs that were read, refused, or neither.
        problems: for inputs that were neither, by number, what happened instead.
        growth: bytes by which the memory of a process grew after its first tenth of inputs.
    """

    outcomes: Counter = field(default_factory=Counter)
    problems: dict[int, str] = field(default_factory=dict)
    growth: int = 0


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """A damaged copy: bits flipped, parts cut out, repeated, zeroed or exchanged, numbers and texts replaced."""
    content = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        size = len(content)
        # Headers decide more than samples do.
        reach = size if rng.random() < 0.5 else min(size, 600)
        first = int(rng.integers(0, max(reach, 1)))
        last = min(size, first + int(2 ** rng.uniform(0, 9)))
        kind = int(rng.integers(0, 9))
        if kind <= 1:
            for position in rng.integers(0, max(reach, 1), int(rng.integers(1, 9))):
                if position < size:
                    content[position] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            del content[first:]
        elif kind == 3:
            del content[first:last]
        elif kind == 4:
            content[first:first] = content[first:last] * int(rng.integers(1, 4))
        elif kind == 5:
            content[first:last] = bytes(last - first) if rng.random() < 0.5 else b"\xff" * (last - first)
        elif kind == 6:
            content[first:last] = rng.bytes(last - first)
        elif kind == 7:
            content[first:first] = _TEXTS[int(rng.integers(0, len(_TEXTS)))]
        else:
            numbers = [*re.finditer(rb"\d+(\.\d+)?", bytes(content[:4000]))]
            if numbers:
                match = numbers[int(rng.integers(0, len(numbers)))]
                content[match.start() : match.end()] = _NUMBERS[int(rng.integers(0, len(_NUMBERS)))]
    return bytes(content)


def fuzz(
    prepare: Callable[[Path], tuple[list[Path], Callable[[], object]]],
    folder: Path,
    count: int,
    documented: tuple[type[BaseException], ...] = (ValueError,),
    seconds_per_input: float = 20.0,
) -> Findings:
    """Lets a reader read damaged files.

    Args:
        prepare: writes whole files to a folder; returns those that are to be damaged, one at a time, and the reader.
        folder: an empty folder.
        count: number of inputs.
        documented: errors with which the reader may refuse an input.
        seconds_per_input: beyond this a reader hangs.
    """
    findings, first = Findings(), 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cmssl_hf.data.loading", "cmssl_hf.training.tokenizer", "scipy.io", "wfdb"])
    while first < count:
        attempt = folder / f"from{first}"
        attempt.mkdir(parents=True)
        current, results = context.Value("q", first), context.SimpleQueue()
        process = context.Process(
            target=_work, args=(prepare, attempt, first, count, documented, current, results), daemon=True
        )
        process.start()
        last, since = first, time.monotonic()
        limit = 60 + seconds_per_input  # the first input waits for imports
        while process.is_alive() or not results.empty():
            # The process waits when nobody takes its results.
            while not results.empty():
                _note(findings, *results.get())
            process.join(0.05)
            if current.value != last:
                last, since, limit = current.value, time.monotonic(), seconds_per_input
            elif time.monotonic() - since > limit:
                process.kill()
                process.join()
                findings.problems[last] = f"hangs for {seconds_per_input} s"
        if process.exitcode == 0:
            break
        last = current.value
        findings.outcomes["crash"] += 1
        findings.problems.setdefault(last, f"ends the process: exit code {process.exitcode}")
        first = last + 1
    return findings


def _note(findings: Findings, number: int, outcome, problem: str | None) -> None:
    if number < 0:
        findings.growth = max(findings.growth, outcome)
        return
    findings.outcomes[outcome] += 1
    if problem is not None:
        findings.problems[number] = problem


def _work(prepare, folder: Path, first: int, count: int, documented, current, results) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, resource.RLIM_INFINITY))
    with open(folder / "output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    warnings.simplefilter("ignore")
    files, read = prepare(folder)
    whole = {file: file.read_bytes() for file in files}
    read()
    memory = None
    for number in range(first, count):
        current.value = number
        rng = np.random.default_rng(number)
        file = files[int(rng.integers(0, len(files)))]
        file.write_bytes(mutate(whole[file], rng))
        try:
            read()
            results.put((number, "read", None))
        except documented:
            results.put((number, "refused", None))
        except BaseException:
            results.put((number, "other", f"{file.name}: {traceback.format_exc()[-1500:]}"))
        file.write_bytes(whole[file])
        if number == first + (count - first) // 10:
            memory = _resident_bytes()
    if memory is not None:
        results.put((-1, _resident_bytes() - memory, None))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
