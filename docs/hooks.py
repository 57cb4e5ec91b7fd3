"""Hooks of mkdocs: the README of each dataset builder becomes a page, so that links to it lead there on the site too."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


_READMES = {
    f"datasets/{path.parent.name}.md": path
    for path in sorted((Path(__file__).parents[1] / "dataset_builders").glob("*/README.md"))
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav.append({"Datasets": [*_READMES]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, path in _READMES.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    # From a page of the documents, and from the README of another builder.
    markdown = re.sub(r"\.\./dataset_builders/(\w+)/README\.md", r"datasets/\1.md", markdown)
    return re.sub(r"\(\.\./(\w+)/README\.md", r"(\1.md", markdown)
