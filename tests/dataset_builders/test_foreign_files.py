"""Releases as people have them - behind links, in capitals, among the files of their systems - give the same rows."""

import os
import shutil

import pytest

from cmssl_hf.building.release_files import all_files, beside, matching_files
from cmssl_hf.data.loading import load_dataset
from helpers.small_releases import WRITERS


JUNK = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "


def files_of(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def among_foreign_files(release, folder):
    """What macOS, Windows, Synology and editors leave, some of it under the names of recordings."""
    shutil.copytree(release, folder)
    for path in files_of(folder):
        (path.parent / f"._{path.name}").write_bytes(JUNK)
        for left in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", ".Trash-1000", "$RECYCLE.BIN"):
            (path.parent / left).mkdir(exist_ok=True)
            (path.parent / left / path.name).write_bytes(JUNK)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r"):
            (path.parent / name).write_bytes(JUNK)


def behind_linked_folders(release, folder):
    """Every file or folder at the top is a link, and there are links in circles and a second one to each folder."""
    folder.mkdir()
    for path in release.iterdir():
        (folder / path.name).symlink_to(path)
        if path.is_dir():
            (folder / f"{path.name}_zzz").symlink_to(path)
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to("..")
    (folder / "nowhere").symlink_to("nothing")


def behind_linked_files(release, folder):
    for path in files_of(release):
        link = folder / path.relative_to(release)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


def behind_one_link(release, folder):
    folder.mkdir()
    (folder / "linked").symlink_to(release)


def in_capitals(release, folder):
    for path in files_of(release):
        copy = folder / str(path.relative_to(release)).upper()
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def in_small_letters(release, folder):
    for path in files_of(release):
        copy = folder / str(path.relative_to(release)).lower()
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def saved_on_windows(release, folder):
    """Tables and headers with a byte order mark and other line ends."""
    shutil.copytree(release, folder)
    for path in files_of(folder):
        if path.suffix in (".csv", ".hea", ".txt"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


WAYS = [
    among_foreign_files,
    behind_linked_folders,
    behind_linked_files,
    behind_one_link,
    in_capitals,
    in_small_letters,
    saved_on_windows,
]


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """Per builder its release and the rows of it."""
    made = {}

    def release(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            WRITERS[name](folder)
            made[name] = (folder, load_dataset(name, data_dir=folder, cache_dir=tmp_path_factory.mktemp("cache")))
        return made[name]

    return release


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WRITERS)
def test_rows_do_not_depend_on_how_a_release_is_kept(releases, tmp_path, name, way):
    release, expected = releases(name)
    way(release, tmp_path / "kept")
    kept = load_dataset(name, data_dir=tmp_path / "kept", cache_dir=tmp_path / "cache")
    found = {split: rows.to_list() for split, rows in kept.items()}
    expected = {split: rows.to_list() for split, rows in expected.items()}
    if name in ("signalfolder", "wfdb_pairs"):
        # There the paths are the names.
        for row in [row for rows in (*found.values(), *expected.values()) for row in rows]:
            row["record_id"] = row["record_id"].removeprefix("linked/").lower()
            row["subject_id"] = row["subject_id"].lower()
    assert found == expected


@pytest.mark.parametrize("config_name", ["hr", "rr"])
@pytest.mark.parametrize("way", WAYS)
def test_bidmc_in_its_csv_form(tmp_path, way, config_name):
    release = tmp_path / "release"
    release.mkdir()
    for subject in (1, 8, 11):
        times = [index / 125 for index in range(3751)]
        columns = "".join(f"{time},{time * subject % 1},{time * time % 1}\n" for time in times)
        (release / f"bidmc_{subject:02d}_Signals.csv").write_text("Time [s], PLETH, II\n" + columns)
        (release / f"bidmc_{subject:02d}_Numerics.csv").write_text(
            "Time [s], HR\n" + "".join(f"{second},{60 + second}\n" for second in range(31))
        )
        (release / f"bidmc_{subject:02d}_Breaths.csv").write_text(
            "breaths ann1 [signal sample no], breaths ann2 [signal sample no]\n100,105\n700,\n1300,1305\n"
        )
        (release / f"bidmc_{subject:02d}_Fix.txt").write_text("Age: 64\nGender: F\n")
    way(release, tmp_path / "kept")
    one, other = (
        load_dataset("bidmc", config_name, data_dir=tmp_path / folder, cache_dir=tmp_path / "cache")
        for folder in ("release", "kept")
    )
    assert {split: rows.to_list() for split, rows in one.items()} == {
        split: rows.to_list() for split, rows in other.items()
    }
    assert one["test"][0]["age"] == 64


def test_a_copy_of_a_recording_is_not_another_person(tmp_path):
    """A release that lies twice in a folder, one of them unpacked beside the other."""
    for name in ("bidmc", "csn", "physionet2017", "ppg_dalia", "pulsedb"):
        folder = tmp_path / name
        (folder / "a").mkdir(parents=True)
        WRITERS[name](folder / "a")
        once = load_dataset(name, data_dir=folder, cache_dir=tmp_path / "cache")
        shutil.copytree(folder / "a", folder / "b")
        twice = load_dataset(name, data_dir=folder, cache_dir=tmp_path / "cache")
        assert twice.num_rows == once.num_rows
        assert {split: rows["record_id"][:] for split, rows in twice.items()} == {
            split: rows["record_id"][:] for split, rows in once.items()
        }


def test_links_are_followed_but_not_in_circles(tmp_path):
    folder, store = tmp_path / "data", tmp_path / "store"
    (folder / "own").mkdir(parents=True)
    (store / "deep").mkdir(parents=True)
    for path in (folder / "own/a.hea", store / "b.hea", store / "deep/c.hea", tmp_path / "outside.hea"):
        path.write_text("")
    (folder / "alias").symlink_to("own")
    (folder / "alias.hea").symlink_to("own/a.hea")
    (folder / "linked").symlink_to(store)
    (folder / "twice").symlink_to(store)
    (store / "back").symlink_to(folder)
    (store / "up").symlink_to(tmp_path)
    (store / "deep/round").symlink_to(store)
    (folder / "lost.hea").symlink_to("nowhere")
    assert [str(path.relative_to(folder)) for path in all_files(folder)] == [
        "linked/b.hea",
        "linked/deep/c.hea",
        "own/a.hea",
    ]
    assert [path.name for path in matching_files(folder, r"[BC]\.hea")] == ["b.hea", "c.hea"]
    assert folder / "own/a.hea" not in all_files(folder, leave_out=folder / "own")
    assert folder / "alias/a.hea" not in all_files(folder, leave_out=folder / "own")
    assert matching_files(os.path.join(folder, "twice"), r".*\.hea")  # A link itself may be the folder.


def test_a_folder_with_nothing_but_foreign_files_is_empty(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(JUNK)
    with pytest.raises(ValueError, match="is empty"):
        load_dataset("wfdb_pairs", data_dir=tmp_path)


def test_beside_prefers_the_name_as_it_is_spelled(tmp_path):
    for name in ("a.DAT", "b.dat", "B.DAT"):
        (tmp_path / name).write_text("")
    assert beside(tmp_path / "x", "a.dat") == tmp_path / "a.DAT"
    assert beside(tmp_path / "x", "b.dat") == tmp_path / "b.dat"
    assert beside(tmp_path / "x", "c.dat") == tmp_path / "c.dat"
