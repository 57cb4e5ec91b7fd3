"""Uploads the models that come with the package to the Hub, as `<namespace>/cmssl-<name>`, with their code and cards.

    python scripts/push_pretrained.py --namespace me

Needs a token with write access (`hf auth login`).
"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from pack_pretrained import load_model

import cmssl_hf
from cmssl_hf.shipped import pretrained_names


def write_repository(name: str, repo_id: str, folder: Path) -> None:
    """A shipped model as a repository that loads without this package: its code, weights in single precision, and the card, whose
    example loads it from `repo_id`."""
    shipped = Path(cmssl_hf.pretrained(name))
    load_model(shipped).save_pretrained(folder)
    cmssl_hf.CMSSLFeatureExtractor.from_pretrained(shipped).save_pretrained(folder)
    for record in ("run.json", "README.md"):
        if (shipped / record).is_file():
            shutil.copy(shipped / record, folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    load = rf'^import cmssl_hf\n\nname = cmssl_hf\.pretrained\("{name}"\)$'
    (folder / "README.md").write_text(re.sub(load, f'name = "{repo_id}"', card, flags=re.MULTILINE), encoding="utf-8")


def push(namespace: str, names: list[str], private: bool = False) -> list[str]:
    """Uploads; returns the ids of the repositories."""
    hub = HfApi()
    repositories = []
    for name in names:
        repo_id = hub.create_repo(f"{namespace}/cmssl-{name}", private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            write_repository(name, repo_id, Path(folder))
            hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"cmssl_hf {cmssl_hf.__version__}")
        repositories.append(repo_id)
        print(repo_id)
    return repositories


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", required=True, help="user or organisation")
    parser.add_argument(
        "--names", nargs="+", default=pretrained_names(), choices=pretrained_names(), help="all if left out"
    )
    parser.add_argument("--private", action="store_true", help="create private repositories")
    arguments = parser.parse_args()
    push(arguments.namespace, arguments.names, arguments.private)
