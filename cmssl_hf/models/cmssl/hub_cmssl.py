"""Pushing a model that a run has trained: its card and the record of the run go with it."""

import re
from pathlib import Path


_CARD_FILE = "README.md"
_RUN_FILE = "run.json"


def name_model(card: str, name: str) -> str:
    """The text of a model card whose code loads the model from `name`, a Hub id or a folder."""
    return re.sub(r'^name = ".*"$', lambda _: f'name = "{name}"', card, flags=re.MULTILINE)


class RunRecordMixin:
    """For models: `push_to_hub` takes the model card and `run.json` of the folder that the model was loaded from along, where
    there are any; otherwise the card is the one that transformers writes."""

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        folder, target = Path(self.config._name_or_path), Path(working_dir)
        if (folder / _RUN_FILE).is_file():
            (target / _RUN_FILE).write_bytes((folder / _RUN_FILE).read_bytes())
            if (folder / _CARD_FILE).is_file():
                card = (folder / _CARD_FILE).read_text(encoding="utf-8")
                (target / _CARD_FILE).write_text(name_model(card, repo_id), encoding="utf-8")
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


__all__ = ["RunRecordMixin", "name_model"]
