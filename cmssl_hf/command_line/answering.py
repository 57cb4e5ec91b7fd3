"""Runs something over files and writes what it says of each into a table: one bad file does not end the rest."""

import argparse
import contextlib
import functools
import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from ..models.cmssl.recordings_cmssl import CHANNEL_PATTERNS
from .files import RECORDING_SUFFIXES, recordings_in
from .table import Table


#: Files that are answered at a time, so that short recordings share the batches of the model.
_FILES_AT_A_TIME = 16
#: Files without an answer that are named at the end; all are in the table.
_NAMED_FILES = 20

#: Options with which one run may continue another's table.
_CHANGES_NOTHING = ("output", "num_proc", "batch_size")

#: What ends a command with a line of words.
_REFUSALS = (ValueError, OSError, ImportError, BrokenProcessPool)

Rows = list[dict[str, Any]]
#: Gives the rows of one recording after the other. A recording without an answer is one row, its `reason`.
AnswerFiles = Callable[[Sequence[str]], Iterable[Rows]]


def add_files(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command that reads recordings and writes a row or more for each."""
    add_recordings(parser)
    parser.add_argument("--output", required=True, help="the table: .csv, .parquet, .json or .jsonl")
    parser.add_argument("--num_proc", type=positive_count, default=1, help="processes; each loads the model")


def add_recordings(parser: argparse.ArgumentParser) -> None:
    """Which files are read, and how."""
    parser.add_argument("recordings", nargs="+", help="files, and folders with all that is below them")
    parser.add_argument(
        "--pattern",
        help=f"which files of folders, e.g. '*.csv'; all that end in {', '.join(RECORDING_SUFFIXES)} if left out",
    )
    parser.add_argument("--sampling_rate", type=positive, help="in Hz, where the files do not state it")
    parser.add_argument(
        "--column",
        type=_column,
        help="column or WFDB channel to read, where its name does not say what it is; ecg=NAME,ppg=NAME of two signals",
    )


def positive(text: str) -> float:
    """A number of seconds or Hz."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, but is {text}")
    return number


def positive_count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {text}")
    return number


def _column(text: str) -> str | dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    named = {channel: name for channel, is_named, name in parts if is_named and channel in CHANNEL_PATTERNS}
    return named if len(named) == len(parts) else text


def write_table(make_answer: Callable[[argparse.Namespace], AnswerFiles], options: argparse.Namespace) -> int:
    """Answers all recordings.

    Args:
        make_answer: called with `options` in each process; picklable.
        options: of `add_files`, among others.

    Returns:
        The exit status: 0, or 1 if a recording has no answer. Those are named on stderr, and have a row with the `reason`.
    """
    try:
        num_files = sum(1 for _ in _recordings(options))
        if num_files == 0:
            raise ValueError(f"There is no recording in {', '.join(options.recordings)}.")
        command = {name: value for name, value in vars(options).items() if name not in _CHANGES_NOTHING}
        table = Table(options.output, command)
    except _REFUSALS as error:
        sys.exit(f"error: {error}")
    try:
        with _terminable(), tqdm(total=num_files, unit="recording", disable=None) as progress:
            progress.update(len(table.done))
            left = (file for file in _recordings(options) if _printable(file) not in table.done)
            for file, rows in _answers(make_answer, options, left):
                table.add([{"file": _printable(file), **row} for row in rows])
                progress.update()
            failed = _report_failures(table, num_files)
            table.finish()
    except BaseException as error:
        if table.abandon():
            print(f"\nWhat is done is in {table.partial}; the same command continues it.", file=sys.stderr)
        if isinstance(error, _REFUSALS):
            sys.exit(f"error: {error}")
        if isinstance(error, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise
    return 1 if failed else 0


def _recordings(options: argparse.Namespace) -> Iterator[str]:
    """Those that are given, without the table that an earlier run left among them."""
    table = os.path.realpath(options.output)
    files = recordings_in(options.recordings, options.pattern)
    return (file for file in files if os.path.realpath(file) != table)


def _report_failures(table: Table, num_files: int) -> int:
    failed = 0
    for row in table.rows():
        if row.keys() <= {"file", "reason"}:
            failed += 1
            if failed <= _NAMED_FILES:
                print(f"no answer: {row['file']}: {row['reason']}", file=sys.stderr)
    if failed:
        more = "" if failed <= _NAMED_FILES else f" {failed - _NAMED_FILES} more are not named here."
        print(f"{failed} of {num_files} recordings have no answer; the table says why.{more}", file=sys.stderr)
    return failed


def _answers(
    make_answer: Callable[[argparse.Namespace], AnswerFiles], options: argparse.Namespace, files: Iterator[str]
) -> Iterator[tuple[str, Rows]]:
    parts: Iterator[list[str]] = iter(lambda: list(islice(files, _FILES_AT_A_TIME)), [])
    if options.num_proc == 1:
        answer_files = make_answer(options)
        for part in parts:
            yield from zip(part, _one_by_one(answer_files, part))
        return
    waiting: deque[tuple[list[str], Future[list[Rows]]]] = deque()
    start = (make_answer, options)
    # Forked processes would inherit locks of torch's threads.
    pool = ProcessPoolExecutor(options.num_proc, get_context("spawn"), initializer=_start_process, initargs=start)
    try:
        for part in parts:
            waiting.append((part, pool.submit(_answer_in_process, part)))
            if len(waiting) > 2 * options.num_proc:
                part, future = waiting.popleft()
                yield from zip(part, future.result())
        for part, future in waiting:
            yield from zip(part, future.result())
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(make_answer: Callable[[argparse.Namespace], AnswerFiles], options: argparse.Namespace) -> None:
    global _answer_files_of_process
    # Ctrl-C reaches all processes, and the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.num_proc))
    _answer_files_of_process = functools.cache(lambda: make_answer(options))


_answer_files_of_process: Callable[[], AnswerFiles]


def _answer_in_process(files: Sequence[str]) -> list[Rows]:
    return list(_one_by_one(_answer_files_of_process(), files))


def _one_by_one(answer_files: AnswerFiles, files: Sequence[str]) -> Iterator[Rows]:
    """The rows of each file; whatever is wrong with one does not end the others."""
    num_done = 0
    try:
        for rows in answer_files(files):
            yield rows
            num_done += 1
        return
    # Parsers of damaged files raise almost anything.
    except Exception as error:
        left = files[num_done:]
        if len(left) == 1:
            kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
            yield [{"reason": f"{kind}{error}"}]
            return
    for file in left:
        yield from _one_by_one(answer_files, [file])


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as an exception does."""

    def terminate(*_: Any) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _printable(file: str) -> str:
    """Names of files need not be text."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")
