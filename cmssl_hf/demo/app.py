"""The page: a recording goes in, a figure, a sentence and a table come out."""

import csv
import html
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio

from ..command_line.rows import answer_rows
from .figure import SHOWN_SECONDS, draw
from .view import view_files


#: Models of the package that were fine-tuned.
MODELS = ("heart-rate", "respiration", "rhythm", "ecg-diagnosis")

_INTRODUCTION = """# Heart rate, respiration and rhythm from ECG and PPG
Choose a recording: a table, WFDB (header and signals together), EDF, DICOM, Empatica E4, Apple Health and others. It is read on the
machine that runs this page, and deleted within an hour or two. In the figure, drag to zoom; a code shows its waveform under the
pointer. Not a medical device."""


def build(models: Sequence[str] = MODELS) -> gradio.Blocks:
    """The page.

    Args:
        models: names of the package, folders or Hub ids; the first one answers unless another one is chosen.
    """
    tables = tempfile.TemporaryDirectory()

    def answer(
        files: list[str] | None, model: str, rate: float | None, column: str | None
    ) -> tuple[str, Any, str | None]:
        try:
            view = view_files(files or [], model, rate or None, (column or "").strip() or None)
        except ValueError as error:
            # Names of files are shown as a page.
            return f"### No answer\n{html.escape(str(error), quote=False)}", None, None
        # gradio has a copy of the one before, which it deletes in time.
        for older in Path(tables.name).iterdir():
            older.unlink()
        name = Path((files or [""])[0]).stem
        return say(view.answer), draw(view), _write_table(view.answer, Path(tables.name, f"{name}.csv"))

    with gradio.Blocks(title="CM-SSL", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(_INTRODUCTION)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=340):
                files = gradio.File(label="Recording", file_count="multiple", height=150)
                model = gradio.Dropdown([*models], value=models[0], label="Model")
                rate = gradio.Number(0, label="Sampling rate (Hz)", info="0: as the file states it")
                column = gradio.Textbox(label="Column or channel", info="if its name does not say what it is")
                button = gradio.Button("Answer", variant="primary")
            with gradio.Column(scale=3, min_width=700):
                said = gradio.Markdown()
                figure = gradio.Plot(show_label=False)
                table = gradio.DownloadButton("Table", size="sm")
        given, shown = [files, model, rate, column], [said, figure, table]
        gradio.on([files.upload, button.click], answer, given, shown, api_name="answer")
    return page


def launch(page: gradio.Blocks, host: str | None = "127.0.0.1", port: int | None = None, **options: Any) -> Any:
    """Serves the page; `host=None` leaves the address to gradio, which knows that of a Space."""
    return page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        footer_links=[],
        # Fonts and icons that need no other server.
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        **options,
    )


def say(answer: Mapping[str, Any]) -> str:
    """The answer to a recording in a sentence or two of Markdown."""
    rests = f"It rests on {answer['usable_share']:.0%} of the recording; quality {answer['quality']:.2f}."
    if answer["end"] > SHOWN_SECONDS:
        rests += f" The figure shows the first {SHOWN_SECONDS / 60:.0f} minutes, the table all."
    if answer["value"] is None:
        return f"### No answer\n{answer['reason']} {rests}"
    if "scores" in answer:
        value = answer["value"]
        likely = ", ".join(f"{name} {share:.2f}" for name, share in answer["scores"].items())
        rests = f"Probabilities: {likely}. {rests}"
        if answer.get("set"):
            rests = f"With a probability of {answer['coverage']:.0%} one of {', '.join(answer['set'])}. {rests}"
        return f"### {value if isinstance(value, str) else ', '.join(value) or 'none'}\n{rests}"
    unit = answer["unit"] or ""
    values = ", ".join(f"{name.replace('_', ' ')} {value:.1f} {unit}" for name, value in answer["value"].items())
    for name, (low, high) in (answer.get("interval") or {}).items():
        between = f"{name.replace('_', ' ')} is between {low:.1f} and {high:.1f} {unit}"
        rests = f"With a probability of {answer['coverage']:.0%}, {between}. {rests}"
    return f"### {values}\n{rests}"


def _write_table(answer: Mapping[str, Any], path: Path) -> str:
    rows = answer_rows(answer, per_window=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


__all__ = ["MODELS", "build", "launch", "say"]
