"""Datasets of any number of windows for `benchmark.py`: Arrow files of `input_values`, as preparing a release leaves them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Features

from cmssl_hf.data.features import INPUT_VALUES, input_values_to_arrow


_ROWS_PER_BATCH = 1000


def write_windows(path: Path, num_windows: int) -> None:
    """Writes windows of two channels of 1250 samples; the same few thousand again and again, since only size matters."""
    generator = np.random.default_rng(0)
    schema = Features({"input_values": INPUT_VALUES}).arrow_schema
    windows = generator.standard_normal((_ROWS_PER_BATCH, 2, 1250), dtype=np.float32)
    batch = pa.RecordBatch.from_arrays(
        [input_values_to_arrow(list(windows)).cast(schema.field(0).type)], schema=schema
    )
    with pa.ipc.new_stream(str(path), schema) as writer:
        for start in range(0, num_windows, _ROWS_PER_BATCH):
            writer.write_batch(batch.slice(0, min(_ROWS_PER_BATCH, num_windows - start)))
