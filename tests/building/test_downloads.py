"""Downloads, from a server on this machine: continued, verified, and extracted only within their folder."""

import hashlib
import io
import re
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cmssl_hf.building.downloads import DownloadError, download, fetch_release
from cmssl_hf.data.loading import load_dataset
from cmssl_hf.dataset_builders.csn.csn import Csn
from cmssl_hf.dataset_builders.physionet2017.physionet2017 import Physionet2017
from cmssl_hf.dataset_builders.ppg_dalia.ppg_dalia import PpgDalia
from cmssl_hf.dataset_builders.uci_bp.uci_bp import UciBp
from helpers.releases import write_csn_recording, write_dalia_subject, write_physionet2017_release, write_uci_fold


class Server(ThreadingHTTPServer):
    """Serves `files` by name; sends at most `limit` bytes of a file before it hangs up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.limit, self.ranges = {}, [], None, True

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, wanted = self.path[1:], self.headers.get("Range")
        self.server.requests.append((name, wanted))
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1)) if wanted and self.server.ranges else 0
        if first and first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.limit])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def zip_of(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def zip_of_folder(folder, prefix=""):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return zip_of({prefix + path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


def sums_of(members):
    return "".join(f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in members.items()).encode()


class TestDownload:
    CONTENT = bytes(range(256)) * 1000

    def test_whole_file(self, server, tmp_path):
        server.files["data.bin"] = self.CONTENT
        assert download(server.url("data.bin"), tmp_path).read_bytes() == self.CONTENT
        assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]

    @pytest.mark.parametrize("ranges", [True, False])
    def test_continues_after_an_interruption(self, server, tmp_path, ranges):
        server.files["data.bin"] = self.CONTENT
        server.limit, server.ranges = 100_000, ranges
        with pytest.raises(
            DownloadError, match=r"data\.bin ended after 100,000 of 256,000 bytes\. Run again to continue"
        ):
            download(server.url("data.bin"), tmp_path)
        server.limit = None
        assert download(server.url("data.bin"), tmp_path).read_bytes() == self.CONTENT
        assert server.requests == [("data.bin", None), ("data.bin", "bytes=100000-")]

    def test_what_is_longer_than_the_file_is_downloaded_anew(self, server, tmp_path):
        server.files["data.bin"] = self.CONTENT
        (tmp_path / "data.bin.part").write_bytes(self.CONTENT * 2)
        assert download(server.url("data.bin"), tmp_path).read_bytes() == self.CONTENT

    def test_errors_name_the_address(self, server, tmp_path):
        with pytest.raises(DownloadError, match=r"/nothing\.zip cannot be downloaded: HTTP Error 404"):
            download(server.url("nothing.zip"), tmp_path)
        with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1/a\.zip cannot be downloaded: .*Run again"):
            download("http://127.0.0.1:1/a.zip", tmp_path)


class TestFetchRelease:
    def test_archive_is_extracted_once(self, server, tmp_path):
        server.files["a+b.zip"] = zip_of({"folder/a.txt": "a"})
        for _ in range(2):
            folder = fetch_release([server.url("a+b.zip")], tmp_path / "cache/release")
            assert (folder / "folder/a.txt").read_text() == "a"
        assert len(server.requests) == 1
        assert sorted(path.name for path in folder.parent.iterdir()) == ["release", "release.lock"]
        fetch_release([server.url("a+b.zip")], folder, force=True)
        assert len(server.requests) == 2

    def test_archive_in_an_archive(self, server, tmp_path):
        server.files["outer.zip"] = zip_of({"part/inner.zip": zip_of({"a.txt": "a"}), "readme.txt": "r"})
        folder = fetch_release([server.url("outer.zip")], tmp_path / "release")
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
        assert files == ["part/a.txt", "readme.txt"]

    def test_what_macos_packs_beside_an_archive_is_none(self, server, tmp_path):
        members = {"part/inner.zip": zip_of({"a.txt": "a"}), "__MACOSX/part/._inner.zip": "Mac OS X"}
        server.files["outer.zip"] = zip_of(members)
        assert (fetch_release([server.url("outer.zip")], tmp_path / "release") / "part/a.txt").read_text() == "a"

    def test_tar_archive(self, server, tmp_path):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            member = tarfile.TarInfo("folder/a.txt")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"a"))
        server.files["a.tar.gz"] = content.getvalue()
        assert (fetch_release([server.url("a.tar.gz")], tmp_path / "release") / "folder/a.txt").read_text() == "a"

    @pytest.mark.parametrize("name", ["../evil.txt", "folder/../../evil.txt", "/evil.txt", "//evil.txt"])
    @pytest.mark.parametrize("nested", [False, True])
    def test_zip_cannot_write_outside(self, server, tmp_path, name, nested):
        archive = zip_of({"good.txt": "a", name: "b"})
        server.files["a.zip"] = zip_of({"inner.zip": archive}) if nested else archive
        with pytest.raises(DownloadError, match=r"\.zip is refused: its member '.*evil\.txt' lies outside of it"):
            fetch_release([server.url("a.zip")], tmp_path / "cache/release")
        assert not list(tmp_path.rglob("*.txt"))

    @pytest.mark.parametrize("kind", ["name", "link"])
    def test_tar_cannot_write_outside(self, server, tmp_path, kind):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            member = tarfile.TarInfo("../evil.txt" if kind == "name" else "link")
            if kind == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "../.."
            archive.addfile(member)
        server.files["a.tar"] = content.getvalue()
        with pytest.raises(DownloadError, match=r"a\.tar cannot be extracted: "):
            fetch_release([server.url("a.tar")], tmp_path / "cache/release")
        assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["release.lock"]

    # Archives hold the time at which they are made, and tests must have the same names in all processes.
    @pytest.mark.parametrize(
        "content", [b"<html>busy</html>", zip_of({"a.txt": "abc" * 100})[:-30]], ids=["a page", "half an archive"]
    )
    def test_what_is_no_archive(self, server, tmp_path, content):
        server.files["a.zip"] = content
        with pytest.raises(DownloadError, match=r"a\.zip is not an archive\. Run again"):
            fetch_release([server.url("a.zip")], tmp_path / "release")
        server.files["a.zip"] = zip_of({"a.txt": "a"})
        assert fetch_release([server.url("a.zip")], tmp_path / "release").is_dir()

    @pytest.mark.parametrize("inside", [True, False])
    def test_checksums(self, server, tmp_path, inside):
        members = {"a.txt": b"a", "folder/b.txt": b"b"}
        sums = sums_of(members)
        server.files["a.zip"] = zip_of(members | ({"SHA256SUMS.txt": sums} if inside else {}))
        server.files["SHA256SUMS.txt"] = sums_of({"a.zip": server.files["a.zip"], "not_downloaded.zip": b""})
        urls = [server.url("a.zip")] + ([] if inside else [server.url("SHA256SUMS.txt")])
        assert fetch_release(urls, tmp_path / "good").is_dir()
        changed = members | {"folder/b.txt": b"c"}
        server.files["a.zip"] = zip_of(changed | ({"SHA256SUMS.txt": sums} if inside else {}))
        name = "folder/b.txt" if inside else "a.zip"
        with pytest.raises(
            DownloadError, match=rf"1 downloaded file\(s\) differ from SHA256SUMS\.txt: {name}\. Run again"
        ):
            fetch_release(urls, tmp_path / "bad")
        assert not (tmp_path / "bad").exists()


def assert_downloaded_gives_the_same(name, data_dir, tmp_path, **options):
    local = load_dataset(name, data_dir=data_dir, cache_dir=tmp_path / "local", **options)
    streamed = load_dataset(name, cache_dir=tmp_path / "cache", streaming=True, **options)
    downloaded = load_dataset(name, cache_dir=tmp_path / "cache", **options)
    for split, rows in local.items():
        assert downloaded[split].to_list() == list(streamed[split]) == rows.to_list()


class TestBuilders:
    def test_archive_beside_a_table_and_checksums(self, server, tmp_path, monkeypatch):
        release = write_physionet2017_release(tmp_path / "release", "NAO~" * 10)
        files = {
            "training2017.zip": zip_of_folder(release / "training2017", "training2017/"),
            "REFERENCE-v3.csv": (release / "REFERENCE-v3.csv").read_bytes(),
        }
        server.files = files | {"SHA256SUMS.txt": sums_of(files)}
        monkeypatch.setattr(Physionet2017, "DOWNLOAD_URL", tuple(map(server.url, server.files)))
        assert_downloaded_gives_the_same("physionet2017", release, tmp_path)
        assert len(server.requests) == 3

    def test_archive_with_checksums(self, server, tmp_path, monkeypatch):
        for number in range(30):
            write_csn_recording(tmp_path / "release/WFDBRecords/00/000", number, ["426783006"])
        files = {
            path.relative_to(tmp_path / "release").as_posix(): path.read_bytes()
            for path in (tmp_path / "release").rglob("JS*")
        }
        server.files["csn.zip"] = zip_of(
            {f"csn/{name}": data for name, data in files.items()} | {"csn/SHA256SUMS.txt": sums_of(files)}
        )
        monkeypatch.setattr(Csn, "DOWNLOAD_URL", server.url("csn.zip"))
        assert_downloaded_gives_the_same("csn", tmp_path / "release", tmp_path)

    def test_archive_in_an_archive(self, server, tmp_path, monkeypatch):
        for number in (1, 2, 3):
            write_dalia_subject(tmp_path / "release", number)
        server.files["ppg+dalia.zip"] = zip_of({"data.zip": zip_of_folder(tmp_path / "release")})
        monkeypatch.setattr(PpgDalia, "DOWNLOAD_URL", server.url("ppg+dalia.zip"))
        assert_downloaded_gives_the_same("ppg_dalia", tmp_path / "release", tmp_path)

    def test_archive_without_suffix(self, server, tmp_path, monkeypatch):
        folder = tmp_path / "release/uci2_dataset"
        folder.mkdir(parents=True)
        for fold in range(3):
            write_uci_fold(folder, fold)
        server.files["38671886"] = zip_of_folder(tmp_path / "release")
        monkeypatch.setattr(UciBp, "DOWNLOAD_URL", server.url("38671886"))
        assert_downloaded_gives_the_same("uci_bp", tmp_path / "release", tmp_path)
        shutil.rmtree(tmp_path / "release")
        # All configurations share one download.
        load_dataset("uci_bp", "sbp", cache_dir=tmp_path / "cache")
        assert len(server.requests) == 1

    def test_interrupted_download_continues(self, server, tmp_path, monkeypatch):
        folder = tmp_path / "release"
        folder.mkdir()
        for fold in range(3):
            write_uci_fold(folder, fold)
        server.files["uci.zip"], server.limit = zip_of_folder(folder), 10_000
        monkeypatch.setattr(UciBp, "DOWNLOAD_URL", server.url("uci.zip"))
        with pytest.raises(DownloadError, match=r"uci\.zip ended after 10,000 of .* Run again to continue"):
            load_dataset("uci_bp", cache_dir=tmp_path / "cache")
        server.limit = None
        assert len(load_dataset("uci_bp", cache_dir=tmp_path / "cache")["test"]) == 6
        assert server.requests[-1] == ("uci.zip", "bytes=10000-")
