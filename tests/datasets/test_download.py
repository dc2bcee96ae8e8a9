import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from scgpcl.datasets import DownloadError
from scgpcl.datasets._download import RECORD, cache_folder, record
from scgpcl.datasets._download import fetch as fetch_only
from scgpcl.datasets._sources import File

BODY = bytes(range(256)) * 400


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture(autouse=True)
def _quiet():
    logger = logging.getLogger("pooch.core")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.fixture
def file(server):
    server.files["a.txt"] = BODY
    return File(f"{server.address}/folder/a.txt", "a.txt")


def fetch(file, folder):
    """As `load` does it with a file that can be read."""
    path = fetch_only(file, folder)
    record(file, path)
    return path


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} if folder.exists() else set()


def test_downloads_once_and_records_the_checksum(server, file, tmp_path):
    folder = tmp_path / "new" / "cache"
    assert fetch(file, folder).read_bytes() == BODY
    assert json.loads((folder / RECORD).read_text()) == {"a.txt": sha256(BODY)}
    assert fetch(file, folder) == folder / "a.txt"
    assert server.requests == ["a.txt"]
    assert left(folder) == {"a.txt", RECORD}


def test_a_known_checksum_is_verified_and_not_recorded(server, file, tmp_path):
    known = File(file.url, file.name, sha256(BODY))
    assert fetch(known, tmp_path).read_bytes() == BODY
    assert left(tmp_path) == {"a.txt"}
    wrong = File(file.url, "b.txt", sha256(b"other"))
    server.files["b.txt"] = BODY
    with pytest.raises(DownloadError, match=r"Expected b.txt with SHA-256 \w{64} \(the known one\)") as error:
        fetch(wrong, tmp_path)
    assert file.url in str(error.value)
    assert left(tmp_path) == {"a.txt"}


def test_a_file_that_changed_on_the_server_is_refused(server, file, tmp_path):
    path = fetch(file, tmp_path)
    path.unlink()
    server.files["a.txt"] = b"something else"
    with pytest.raises(DownloadError, match="that of its first download, kept in") as error:
        fetch(file, tmp_path)
    assert str(tmp_path / RECORD) in str(error.value)
    assert left(tmp_path) == {RECORD}
    # What the message says works.
    (tmp_path / RECORD).write_text("{}")
    assert fetch(file, tmp_path).read_bytes() == b"something else"


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, file, tmp_path):
    path = fetch(file, tmp_path)
    path.write_bytes(BODY[:-1])
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert len(server.requests) == 2


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(server, file, tmp_path):
    server.broken.add("a.txt")
    with pytest.raises(DownloadError, match="Expected to download") as error:
        fetch(file, tmp_path)
    for text in (file.url, str(tmp_path), str(tmp_path / "a.txt")):
        assert text in str(error.value)
    assert left(tmp_path) == set()
    server.broken.clear()
    assert fetch(file, tmp_path).read_bytes() == BODY


def test_an_interrupted_repair_keeps_the_old_file(server, file, tmp_path):
    path = fetch(file, tmp_path)
    path.write_bytes(b"damaged")
    server.broken.add("a.txt")
    with pytest.raises(DownloadError, match=f"The file in the cache has another checksum: {sha256(b'damaged')}"):
        fetch(file, tmp_path)
    assert path.read_bytes() == b"damaged"


def test_without_network_the_address_and_the_folder_are_named(server, tmp_path):
    port = server.http.server_port
    server.http.server_close()  # nobody listens at this port any more
    url = f"http://127.0.0.1:{port}/a.txt"
    with pytest.raises(DownloadError) as error:
        fetch(File(url, "a.txt"), tmp_path)
    for text in (url, str(tmp_path), f"put it at {tmp_path / 'a.txt'}"):
        assert text in str(error.value)
    # What the message says works.
    (tmp_path / "a.txt").write_bytes(BODY)
    assert fetch(File(url, "a.txt"), tmp_path).read_bytes() == BODY
    assert json.loads((tmp_path / RECORD).read_text()) == {"a.txt": sha256(BODY)}


def test_a_file_that_is_gone_is_told(server, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        fetch(File(f"{server.address}/gone.txt", "gone.txt"), tmp_path)
    assert left(tmp_path) == set()


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a file system that nobody can write to")
def test_a_read_only_folder_is_told_before_anything_is_asked_for(server, file):
    with pytest.raises(DownloadError, match="Expected a cache folder that can be written to") as error:
        fetch(file, Path("/sys/scgpcl"))
    for text in (file.url, "/sys/scgpcl", "SCGPCL_CACHE"):
        assert text in str(error.value)
    assert server.requests == []


def test_a_read_only_folder_that_has_the_file_is_good(server, file, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(BODY)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert left(tmp_path) == {"a.txt"}
    assert server.requests == []


def test_a_folder_whose_name_is_a_file_is_told(file, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(DownloadError, match="Expected a cache folder"):
        fetch(file, tmp_path / "cache")


def test_a_damaged_record_is_told(file, tmp_path):
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(DownloadError, match="Expected a table of checksums"):
        fetch(file, tmp_path)


def test_folder_is_given_or_that_of_the_environment_or_the_usual_one(monkeypatch, tmp_path):
    monkeypatch.setenv("SCGPCL_CACHE", str(tmp_path / "env"))
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder(None) == tmp_path / "env"
    monkeypatch.delenv("SCGPCL_CACHE")
    assert cache_folder(None).name == "scgpcl"


def test_nothing_is_imported_for_downloads_until_one_is_wanted():
    code = (
        "import sys, scgpcl.datasets._load, scgpcl.datasets;print({'pooch'} & {m.split('.')[0] for m in sys.modules})"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
