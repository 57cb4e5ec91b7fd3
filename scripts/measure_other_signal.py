"""Measures what an encoder of the PPG knows of the ECG: R-peaks of the ECG that it expects, against the real ones.

    python scripts/measure_other_signal.py --tokenizer runs/pretrained/tokenizer --encoder runs/pretrained/ppg-encoder \\
        --dataset bidmc --data_dir bidmc

All subjects of the dataset are measured, whatever the split; a model that was trained or validated on any of them is refused. Beside
the encoder stand one with random weights, and the onsets of the pulses less the mean delay that other subjects have.
"""

import argparse

import numpy as np
import torch
from datasets import DatasetDict, concatenate_datasets

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLFeatureExtractor, CMSSLTokenizerModel
from cmssl_hf.data.batches import input_values_to_numpy
from cmssl_hf.data.features import extract_features
from cmssl_hf.evaluation.other_signal import compare_r_peaks, expected_ecg
from cmssl_hf.training.arguments import DataArguments
from cmssl_hf.training.data import describe_data, load_raw_data
from cmssl_hf.training.engine.command import orderly_end
from cmssl_hf.training.engine.provenance import refuse_seen_test_subjects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder or Hub id of a tokenizer of ECG and PPG")
    parser.add_argument(
        "--encoder", required=True, help="folder or Hub id of an encoder of the PPG that names its codes"
    )
    parser.add_argument("--dataset", default="bidmc", help="a dataset with ECG and PPG")
    parser.add_argument("--data_dir", help="folder with the release")
    parser.add_argument("--dataset_options", default={}, help="e.g. `stride_seconds=10`")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--accept_unknown_provenance", action="store_true", help="measure models without `run.json`")
    arguments = parser.parse_args()
    with orderly_end():
        data = DataArguments(
            dataset=arguments.dataset,
            dataset_config="pairs",
            data_dir=arguments.data_dir,
            dataset_options=arguments.dataset_options,
        )
        extractor = CMSSLFeatureExtractor.from_pretrained(arguments.tokenizer)
        raw = concatenate_datasets([*load_raw_data(data).values()])
        rows = extract_features(raw, extractor, drop_unusable=True)
        for model in (arguments.tokenizer, arguments.encoder):
            described = describe_data(DatasetDict({"test": rows}), data)
            refuse_seen_test_subjects(model, described, arguments.accept_unknown_provenance)
        windows = np.stack(input_values_to_numpy(rows.with_format("arrow")[:]["input_values"]))
        ecg, ppg = (windows[:, extractor.channels.index(channel)] for channel in ("ecg", "ppg"))
        tokenizer = CMSSLTokenizerModel.from_pretrained(arguments.tokenizer).eval()
        encoder = CMSSLEncoderForPreTraining.from_pretrained(arguments.encoder).eval()
        torch.manual_seed(0)
        models = {"encoder": encoder, "random weights": CMSSLEncoderForPreTraining(encoder.config).eval()}
        expected = {
            name: np.concatenate(
                [
                    expected_ecg(model, tokenizer, torch.from_numpy(ppg[start : start + arguments.batch_size, None]))
                    for start in range(0, len(ppg), arguments.batch_size)
                ]
            )
            for name, model in models.items()
        }
        table = compare_r_peaks(list(ecg), list(ppg), expected, rows["subject_id"], extractor.sampling_rate)
        print(f"{len(rows):,} windows of {len(set(rows['subject_id']))} subjects of {arguments.dataset}")
        print(table.round(3).to_markdown(index=False))


if __name__ == "__main__":
    main()
