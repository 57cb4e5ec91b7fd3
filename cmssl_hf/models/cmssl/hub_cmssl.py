"""Models in folders and on the Hub: damaged weights are named, and a model is pushed with the card and the record of a run only
while it is what that run left.

A repository holds one model, at its root: from a subfolder transformers (5.23) loads weights, but no code. Where the code is
needed (`trust_remote_code`), fetch the repository with `huggingface_hub.snapshot_download` and load the folder in it.
"""

import hashlib
import json
import pickle
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils.hub import create_and_tag_model_card


# What the mixins are for. At run time a feature extractor loads no models, whose import takes seconds.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, SequenceFeatureExtractor
else:
    PreTrainedModel = SequenceFeatureExtractor = object


_CARD_FILE = "README.md"
_RUN_FILE = "run.json"
_WEIGHTS_FILES = "*.safetensors"

#: Entries of a config or feature extractor that do not change what a model computes.
_FORMALITIES = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "feature_extractor_type",
    "transformers_version",
)
_PUSH_OPTIONS = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "tags",
)

_CHANGED = (
    "This model was changed after the run that it was loaded from: it has other weights, another head, other settings or another"
    " precision. The results of that run are not results of this model."
)
_UNKNOWN = "Nothing is recorded of how this model was made."


def name_model(card: str, name: str) -> str:
    """The text of a model card whose code loads the model from `name`, a Hub id or a folder."""
    return re.sub(r'^name = ".*"$', lambda _: f'name = "{name}"', card, flags=re.MULTILINE)


class HubModelMixin(PreTrainedModel):
    """For models: what [`~PreTrainedModel.from_pretrained`], [`~PreTrainedModel.save_pretrained`] and `push_to_hub` do beyond
    those of transformers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers.

        Raises:
            ValueError: if a file of weights is a Git LFS pointer or damaged; the message names it.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (SafetensorError, pickle.UnpicklingError) as error:
            places = {name: kwargs.get(name) for name in ("revision", "cache_dir")}
            damage = _damage(pretrained_model_name_or_path, kwargs.get("subfolder") or "", **places)
            raise ValueError(damage or f"The weights of {pretrained_model_name_or_path}: {error}") from error

    def save_pretrained(
        self, save_directory, is_main_process: bool = True, state_dict=None, push_to_hub: bool = False, **kwargs
    ):
        """As in transformers; `push_to_hub=True` pushes as [`HubModelMixin.push_to_hub`] does."""
        options = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if name in kwargs}
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if push_to_hub and is_main_process:
            repo_id = options.pop("repo_id", Path(save_directory).name)
            self.push_to_hub(repo_id, state_dict=state_dict, **options, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: list[str] | str | None = None,
        **kwargs,
    ):
        """Uploads the model. The model card and `run.json` of the folder or repository that it was loaded from go with it if
        class, configuration and weights are still the same, to the bit: a copy in half precision is another model, since
        nobody measured it. Otherwise the repository gets a plain card, and a `run.json` that lies there is removed.

        Args:
            repo_id: name of the repository, created where there is none.
            commit_message, commit_description, private, token, revision, create_pr, tags: as in transformers.
            kwargs: further arguments of [`~PreTrainedModel.save_pretrained`].

        Returns:
            [`huggingface_hub.CommitInfo`].
        """
        hub = HfApi(token=token)
        repo_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/pr"):
            hub.create_branch(repo_id, branch=revision, exist_ok=True)
        run = _folder_of_run(self.config.name_or_path, hub)
        recorded = run if run is not None and _holds(run, self, kwargs.get("state_dict")) else None
        tags = list(dict.fromkeys([*(self.model_tags or []), *([tags] if isinstance(tags, str) else tags or [])]))
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            if recorded is not None:
                record = (recorded / _RUN_FILE).read_bytes()
                if "weights" in (notes := json.loads(record)):  # the same tensors need not be the same bytes in a file
                    notes["weights"] = {file.name: _sha256_of(file) for file in _weights_files(Path(folder))}
                    record = (json.dumps(notes, indent=2) + "\n").encode()
                (Path(folder) / _RUN_FILE).write_bytes(record)
            if recorded is not None and (recorded / _CARD_FILE).is_file():
                card = ModelCard(name_model((recorded / _CARD_FILE).read_text(encoding="utf-8"), repo_id))
                card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *tags])) or None
            # A card beside a `run.json` is that of the run's model; any other one may have been written by hand.
            elif recorded is None and (
                hub.file_exists(repo_id, _RUN_FILE, revision=revision)
                or (run is not None and not hub.file_exists(repo_id, _CARD_FILE, revision=revision))
            ):
                card = _plain_card(_UNKNOWN if run is None else _CHANGED, tags)
            else:
                card = create_and_tag_model_card(repo_id, tags, token=token)  # type: ignore[arg-type]  # it takes `bool` too
            card.save(Path(folder) / _CARD_FILE)
            return hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
                delete_patterns=_RUN_FILE if recorded is None else None,
            )


class HubFeatureExtractorMixin(SequenceFeatureExtractor):
    """For feature extractors: the one that a run's model was measured with is not replaced while the record is there."""

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """As in transformers; `push_to_hub=True` pushes as `push_to_hub` does."""
        files = super().save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    def push_to_hub(self, repo_id: str, **kwargs):
        """As in transformers.

        Raises:
            ValueError: if the repository holds the model and the record of a run with another feature extractor.
        """
        hub = HfApi(token=kwargs.get("token"))
        repo_id = hub.create_repo(repo_id, private=kwargs.get("private"), exist_ok=True).repo_id
        if hub.file_exists(repo_id, _RUN_FILE, revision=kwargs.get("revision")):
            self._refuse_unless_same(repo_id, token=hub.token, revision=kwargs.get("revision") or "main")
        return super().push_to_hub(repo_id, **kwargs)

    def _refuse_unless_same(self, name, **kwargs) -> None:
        try:
            there = type(self).from_pretrained(name, **kwargs)
        except OSError:
            return
        if _settings(there) != _settings(self):
            raise ValueError(
                f"{name} holds the results of a run with another feature extractor, which would not describe this one. Choose"
                " another place."
            )


def _plain_card(text: str, tags: list[str]) -> ModelCard:
    metadata = ModelCardData(library_name="transformers", tags=tags or None)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}\n")


def _folder_of_run(name: str | None, hub: HfApi) -> Path | None:
    """The folder or downloaded repository that a model was loaded from, if a run has left its record there."""
    if not name:
        return None
    if Path(name).is_dir():
        return Path(name) if (Path(name) / _RUN_FILE).is_file() else None
    try:
        if not hub.file_exists(name, _RUN_FILE):
            return None
        files = [_CARD_FILE, _RUN_FILE, "config.json", _WEIGHTS_FILES]
        return Path(snapshot_download(name, token=hub.token, allow_patterns=files))
    # It was a folder that is gone now, or belongs to somebody else.
    except (HFValidationError, GatedRepoError):
        return None


def _holds(folder: Path, model: Any, state_dict: dict[str, Any] | None) -> bool:
    """Whether the saved model in `folder` is that of its run, and is `model`: class, configuration and weights."""
    try:
        recorded = json.loads((folder / _RUN_FILE).read_bytes()).get("weights", {})
        if any(_sha256_of(folder / name) != digest for name, digest in recorded.items()):
            return False
        config = type(model.config).from_pretrained(folder)
        if config.architectures != [type(model).__name__] or _settings(config) != _settings(model.config):
            return False
        remaining = dict(model.state_dict() if state_dict is None else state_dict)
        for file in _weights_files(folder):
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - it is no mapping
                    saved, own = stored.get_tensor(name), remaining.pop(name, None)
                    if own is None or own.dtype != saved.dtype or not own.cpu().equal(saved):
                        return False
    except (OSError, ValueError, SafetensorError):
        return False
    return not remaining


def _sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _settings(part: Any) -> dict[str, Any]:
    """What a config or feature extractor says, as it is read back from a file."""
    settings = json.loads(json.dumps(part.to_dict()))
    return {name: value for name, value in settings.items() if name not in _FORMALITIES}


def _weights_files(folder: Path) -> list[Path]:
    """The files of weights that transformers loads from a folder: one, or the shards."""
    single = folder / SAFE_WEIGHTS_NAME
    return [single] if single.is_file() else sorted(folder.glob(SAFE_WEIGHTS_NAME.replace(".", "-*-of-*.")))


def _damage(name: Any, subfolder: str, revision: str | None, cache_dir: Any) -> str | None:
    """What is wrong with the files of weights of a folder or of a repository in the cache."""
    folder = Path(name)
    if not folder.is_dir():
        try:
            options = {"cache_dir": cache_dir, "local_files_only": True}
            folder = Path(snapshot_download(str(name), revision=revision, **options))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    for file in sorted(file for kind in (_WEIGHTS_FILES, "*.bin") for file in (folder / subfolder).glob(kind)):
        with file.open("rb") as content:
            if content.read(23) == b"version https://git-lfs":
                return (
                    f"{file} is a Git LFS pointer instead of the weights: run `git lfs pull` in the clone, or download the"
                    " file again."
                )
        if file.suffix == ".bin":
            continue
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            size = file.stat().st_size
            return f"{file} ({size} bytes) is cut short or damaged: {error}. Copy or download it again."
    return None


__all__ = ["HubFeatureExtractorMixin", "HubModelMixin", "name_model"]
