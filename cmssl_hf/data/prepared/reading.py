"""Reading what `Preparation` wrote."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from cmssl_hf.building.splits import SPLITS

from ..features import INPUT_VALUES
from .storage import restore_samples
from .writing import MANIFEST_FILE, PLAN_FILE


def load_prepared(
    folder: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None, num_proc: int | None = None
) -> datasets.DatasetDict:
    """Loads a prepared folder, memory-mapped.

    The first call copies the shards to Arrow files in the cache of `datasets`, with samples as float32 whatever their type
    on disk; it takes as much disk as a preparation in float32. Training reads those at memory speed.

    Args:
        folder: the `output_dir` of the preparation.
        cache_dir: folder of the Arrow files; the one of `datasets` if left out.
        num_proc: number of processes that copy.

    Returns:
        For each split the columns `input_values` (list of channels of float32 samples at the feature extractor's rate),
        `subject_id`, `record_id`, `start_time`, `label` where the dataset has labels, and what else the builder provides.

    Raises:
        FileNotFoundError: if `folder` holds no preparation.
        ValueError: if the preparation is not complete, or shards are missing or were changed since.
    """
    folder = Path(folder).expanduser().resolve()
    read_manifest(folder)
    builder = _Prepared(
        cache_dir=str(cache_dir) if cache_dir is not None else None,
        data_dir=str(folder),
        hash=hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()[:16],
    )
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset()


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a prepared folder: settings, counts, what was left out and why, and the shards.

    Raises:
        FileNotFoundError: if `folder` holds no preparation.
        ValueError: if the preparation is not complete, or shards are missing or were changed since.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).exists():
        if not (folder / PLAN_FILE).exists():
            raise FileNotFoundError(f"{folder} holds no prepared dataset: there is no {MANIFEST_FILE}.")
        shards = json.loads((folder / PLAN_FILE).read_text())["shards"]
        num_done = sum((folder / shard["file"]).exists() for shard in shards)
        raise ValueError(
            f"The preparation in {folder} is not complete: {num_done} of {len(shards)} shards are there. Run it again with"
            " the same arguments; it continues where it stopped."
        )
    manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
    files = {file: size for split in manifest["splits"].values() for file, size in split["files"].items()}
    for file in files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"{folder / MANIFEST_FILE} names the shard {file!r}, which leads out of the folder.")
    wrong = [file for file, size in files.items() if _size(folder / file) != size]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(files)} shards in {folder} are missing or not as they were written, the first one"
            f" {wrong[0]}. Copy the folder again, or run the preparation again."
        )
    return manifest


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


class _Prepared(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # `datasets` has no types
    """Copies Parquet shards to Arrow files, restoring the samples."""

    def _info(self) -> datasets.DatasetInfo:
        manifest = json.loads((Path(self.config.data_dir) / MANIFEST_FILE).read_text())
        first = next(file for split in manifest["splits"].values() for file in split["files"])
        schema = pq.read_schema(Path(self.config.data_dir) / first)
        features = datasets.Features.from_arrow_schema(schema)
        features.pop("scale", None)
        features["input_values"] = INPUT_VALUES
        return datasets.DatasetInfo(features=features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        folder = Path(self.config.data_dir)
        splits = json.loads((folder / MANIFEST_FILE).read_text())["splits"]
        return [
            datasets.SplitGenerator(
                name=split, gen_kwargs={"shards": [str(folder / file) for file in splits[split]["files"]]}
            )
            for split in SPLITS
            if split in splits
        ]

    def _generate_tables(self, shards: list[str]) -> Iterator[tuple[int, pa.Table]]:
        key = 0
        for shard in shards:
            file = pq.ParquetFile(shard)
            for group in range(file.num_row_groups):
                table = restore_samples(file.read_row_group(group))
                yield key, table.select(list(self.info.features)).cast(self.info.features.arrow_schema)
                key += 1
