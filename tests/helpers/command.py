"""The command `cmssl-hf` in the process of the test."""

import sys

import pytest

from cmssl_hf.command_line.main import main


def run_command(monkeypatch, *arguments) -> object:
    """The exit status, or what the command ends with in words."""
    monkeypatch.setattr(sys, "argv", ["cmssl-hf", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code
