"""The installed package holds everything that the repository holds."""

import subprocess
import sys
import zipfile

from helpers.checkout import ROOT, copy_package


def test_wheel_holds_every_module(tmp_path):
    source = copy_package(tmp_path / "source")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path,
    ]
    subprocess.run([*command, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("cmssl_hf-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cmssl_hf").rglob("*.py")}
    expected |= {f"cmssl_hf/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "dataset_builders").rglob("*.py")}
    assert len(expected) > 100 and expected <= held
    assert "cmssl_hf/py.typed" in held
    commands = [*ROOT.glob("scripts/*.py"), *(ROOT / "scripts").rglob("*.yaml")]
    assert len(commands) > 20 and {f"cmssl_hf/{path.relative_to(ROOT).as_posix()}" for path in commands} <= held
    (entry_points,) = [name for name in held if name.endswith("entry_points.txt")]
    assert b"cmssl-hf = cmssl_hf.command_line.main:main" in zipfile.ZipFile(wheel).read(entry_points)
