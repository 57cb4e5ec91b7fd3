"""Makes a run's model one of those that come with the package.

    python scripts/pack_pretrained.py --run runs/pretrained/heart-rate --name heart-rate

`cmssl_hf/pretrained/<name>/` gets the configuration, the feature extractor, the card, the record of the run and the weights in half
precision, in which models are small enough for a package; they are loaded in single precision. The rounded model must answer as the
run's own does, or nothing is written.
"""

import argparse
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

import cmssl_hf
from cmssl_hf.building.simulation import draw_subject, simulate_recording


PRETRAINED = Path(cmssl_hf.__file__).with_name("pretrained")
#: How far the rounded model may be off: the largest difference of an output relative to their standard deviation, and the share of
#: patches that may get another code (of two that lie equally near).
LARGEST_DIFFERENCE, LARGEST_SHARE_OF_CODES = 0.05, 0.01


def load_model(folder: str | Path) -> PreTrainedModel:
    """The model of a folder with the head that it was saved with, for inference."""
    (architecture,) = AutoConfig.from_pretrained(folder).architectures
    return getattr(cmssl_hf, architecture).from_pretrained(folder, dtype=torch.float32).eval()


def outputs_of(folder: str | Path, num_people: int = 16) -> np.ndarray:
    """What a model makes of simulated people: logits, hidden states, or codes (whole numbers)."""
    model = load_model(folder)
    extractor = cmssl_hf.CMSSLFeatureExtractor.from_pretrained(folder)
    seconds = model.config.window_seconds or 10
    signals: dict[str, list[np.ndarray]] = {channel: [] for channel in extractor.channels}
    for seed in range(num_people):
        generator = np.random.default_rng(seed)
        recording = simulate_recording(draw_subject(generator), seconds, 125, generator)
        for channel in extractor.channels:
            signals[channel].append(getattr(recording, channel))
    inputs = extractor(**signals, sampling_rate=125, return_tensors="pt")
    with torch.no_grad():
        if isinstance(model, cmssl_hf.CMSSLTokenizerModel):
            return model.encode(**inputs).numpy()
        outputs = model(**inputs)
    return (outputs.logits if "logits" in outputs else outputs.last_hidden_state).numpy()


def card_of(run: Path, name: str, data: str | None) -> str:
    """The card of a run under the name that its model has in the package, with what is to be said of the data."""
    card = (run / "README.md").read_text(encoding="utf-8")
    card = re.sub(r"^- name: .*$", f"- name: {name}", card, count=1, flags=re.MULTILINE)
    card = re.sub(
        r'^name = ".*"$', f'import cmssl_hf\n\nname = cmssl_hf.pretrained("{name}")', card, flags=re.MULTILINE
    )
    return card if data is None else card.replace("\n## Results\n", f"\n{data}\n\n## Results\n", 1)


def pack(run: Path, name: str, data: str | None = None) -> Path:
    """Writes the folder of the package.

    Args:
        run: folder of a finished run.
        name: of the model.
        data: what the card says of the data, beside what the run has recorded.

    Raises:
        ValueError: if the rounded model answers otherwise than the run's.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, name)
        folder.mkdir()
        shutil.copy(run / "preprocessor_config.json", folder)
        extractor = json.loads((folder / "preprocessor_config.json").read_text())
        extractor.pop("auto_map", None)
        (folder / "preprocessor_config.json").write_text(json.dumps(extractor, indent=2, sort_keys=True) + "\n")
        config = json.loads((run / "config.json").read_text())
        for code in ("auto_map", "custom_pipelines", "_name_or_path"):
            config.pop(code, None)
        (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")
        weights = load_file(run / "model.safetensors")
        # What only further training needs, and the model makes of the rest.
        weights.pop("codebook.vector_sum", None)
        halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
        save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
        own, rounded = outputs_of(run), outputs_of(folder)
        if np.issubdtype(own.dtype, np.integer):
            off = float((own != rounded).mean())
            if off > LARGEST_SHARE_OF_CODES:
                raise ValueError(f"In half precision {run} gives other codes to {off:.1%} of the patches.")
        else:
            off = float(np.abs(own - rounded).max() / own.std())
            if not off <= LARGEST_DIFFERENCE:
                raise ValueError(f"In half precision {run} answers otherwise: by {off:.3g} standard deviations.")
        record = json.loads((run / "run.json").read_text())
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        record["weights"] = {"model.safetensors": digest}
        (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n")
        (folder / "README.md").write_text(card_of(run, name, data), encoding="utf-8")
        target = PRETRAINED / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
    print(f"{target}: differs by {off:.2g}")
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--name", required=True, help="what `cmssl_hf.pretrained` calls the model")
    parser.add_argument(
        "--data", help="what the card says of the data beside what is recorded: their source and licence"
    )
    arguments = parser.parse_args()
    pack(arguments.run, arguments.name, arguments.data)
