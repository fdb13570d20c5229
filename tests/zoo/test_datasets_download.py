import hashlib
import http.server
import shutil
import socket
import threading

import published_files
import pytest
import together

from probegen_jax.errors import UserError
from probegen_jax.zoo.files.download import Address, fetch
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.published import loading


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every path but those that name a fault."""

    content = b""
    requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        if "broken" in self.path:
            self.wfile.write(self.server.content[: len(self.server.content) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(self.server.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as running:
        running.content = bytes(range(256)) * 4096
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def leftovers(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_download_is_kept_with_its_checksum_and_not_repeated(server, tmp_path):
    checksum = hashlib.sha256(server.content).hexdigest()
    address = Address(f"{server.url}/zoo.zip?dl=1", "zoo.zip", checksum)
    path = fetch(address, tmp_path)
    assert path.read_bytes() == server.content
    assert (tmp_path / "zoo.zip.sha256").read_text() == f"{checksum}  zoo.zip\n"
    assert fetch(address, tmp_path) == path
    assert server.requests == 2  # one to see that it answers, one for the file
    assert leftovers(tmp_path) == ["zoo.zip", "zoo.zip.sha256"]


def test_a_wrong_checksum_is_told_and_nothing_is_kept(server, tmp_path):
    address = Address(f"{server.url}/zoo.zip", "zoo.zip", "0" * 64)
    with pytest.raises(UserError, match=f"has SHA-256 [0-9a-f]{{64}}, expected {'0' * 64}; run"):
        fetch(address, tmp_path)
    assert leftovers(tmp_path) == []


def test_a_kept_archive_is_checked_against_the_checksum(server, tmp_path):
    fetch(Address(f"{server.url}/zoo.zip", "zoo.zip"), tmp_path)
    with pytest.raises(UserError, match=r"zoo\.zip: has SHA-256 .*; delete it and run again"):
        fetch(Address(f"{server.url}/zoo.zip", "zoo.zip", "0" * 64), tmp_path)


@pytest.mark.parametrize(
    ("path", "fault"),
    [("broken/zoo.zip", "the connection broke half-way"), ("missing", "the server answers 404")],
)
def test_a_failed_download_is_told_and_nothing_is_kept(path, fault, server, tmp_path):
    with pytest.raises(UserError, match=f"the download failed .*{fault}.*manual_dir=DIR"):
        fetch(Address(f"{server.url}/{path}", "zoo.zip"), tmp_path)
    assert leftovers(tmp_path) == []


def test_no_connection_is_told_at_once(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/zoo.zip"
        with pytest.raises(UserError, match=r"the download failed \(no connection\)"):
            fetch(Address(url, "zoo.zip"), tmp_path)
    assert leftovers(tmp_path) == []


def test_what_a_killed_download_left_is_removed(server, tmp_path):
    folder = tmp_path / "partial.zoo.zip"
    folder.mkdir()
    (folder / "half").write_bytes(b"half")
    fetch(Address(f"{server.url}/zoo.zip", "zoo.zip"), tmp_path)
    assert leftovers(tmp_path) == ["zoo.zip", "zoo.zip.sha256"]


def test_an_unwritable_folder_is_told(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory.*data_dir=DIR"):
        fetch(Address(f"{server.url}/zoo.zip", "zoo.zip"), tmp_path / "file" / "sub")


def test_a_zoo_is_downloaded_prepared_and_loaded_from_then_on(server, tmp_path):
    pytest.importorskip("torch")
    networks = published_files.mnist_inr(tmp_path, 40)
    archive = published_files.zipped(tmp_path, "mnist-inrs", tmp_path / "made.zip")
    server.content = archive.read_bytes()
    checksum = hashlib.sha256(server.content).hexdigest()
    data = tmp_path / "data"

    broken = Request(url=f"{server.url}/broken.zip")
    with pytest.raises(UserError, match="the connection broke half-way"):
        loading.load("mnist_inr", data, request=broken)
    wrong = Request(url=f"{server.url}/zoo.zip", sha256="f" * 64)
    with pytest.raises(UserError, match="has SHA-256"):
        loading.load("mnist_inr", data, request=wrong)
    assert not list(data.rglob("dataset_info.json"))
    assert not list(data.rglob("*.zip"))

    right = Request(url=f"{server.url}/zoo.zip", sha256=checksum)
    assert len(loading.load("mnist_inr", data, request=right)) == len(networks)
    served = server.requests
    assert len(loading.load("mnist_inr", data)) == len(networks)
    assert server.requests == served


def test_a_damaged_download_is_found_by_the_archives_own_checksums(server, tmp_path):
    pytest.importorskip("torch")
    published_files.mnist_inr(tmp_path, 40)
    archive = published_files.zipped(tmp_path, "mnist-inrs", tmp_path / "made.zip")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    server.content = bytes(content)
    request = Request(url=f"{server.url}/zoo.zip")
    with pytest.raises(UserError, match=r"cannot be unpacked \(.*\); delete the archive and"):
        loading.load("mnist_inr", tmp_path / "data", request=request)


def test_another_address_is_another_zoo_whatever_its_file_is_called(server, tmp_path, capsys):
    pytest.importorskip("torch")
    data, found = tmp_path / "data", {}
    for name, number in (("one", 40), ("two", 50)):
        published_files.mnist_inr(tmp_path / name, number)
        archive = published_files.zipped(tmp_path / name, "mnist-inrs", tmp_path / f"{name}.zip")
        server.content = archive.read_bytes()
        request = Request(url=f"{server.url}/{name}/mnist-inrs.zip")
        found[request] = hashlib.sha256(server.content).hexdigest()
        assert len(loading.load("mnist_inr", data, request=request)) == number
    served, server.content = server.requests, b""
    for request, number in zip(found, (40, 50), strict=True):
        assert len(loading.load("mnist_inr", data, request=request)) == number
        by_checksum = Request(sha256=found[request])
        assert len(loading.load("mnist_inr", data, request=by_checksum)) == number
    with pytest.raises(UserError, match=r"zoos of http.*, http.* are prepared; say which is meant"):
        loading.load("mnist_inr", data)
    assert server.requests == served
    # The archives are kept by their address, too: from them it is prepared once more.
    shutil.rmtree(data / "mnist_inr")
    shutil.rmtree(data / "beside")
    for request, number in zip(found, (40, 50), strict=True):
        assert len(loading.load("mnist_inr", data, request=request)) == number
    assert server.requests == served


@pytest.mark.parametrize("requested", [{}, {"url": "http://localhost:1/x.zip"}])
def test_what_was_downloaded_needs_its_archive_no_more(requested, server, tmp_path, capsys):
    """A user's address that is prepared stays prepared; another one is not passed over."""
    pytest.importorskip("torch")
    published_files.mnist_inr(tmp_path, 40)
    archive = published_files.zipped(tmp_path, "mnist-inrs", tmp_path / "made.zip")
    server.content = archive.read_bytes()
    data, request = tmp_path / "data", Request(url=f"{server.url}/zoo.zip")
    loading.prepared("mnist_inr", data, request=request)
    shutil.rmtree(data / "downloads")
    capsys.readouterr()
    if requested:
        with pytest.raises(UserError, match=r"localhost:1/x\.zip: the download failed"):
            loading.prepared("mnist_inr", data, request=Request(**requested))
        assert f"was made of other files, from {request.url}" in capsys.readouterr().out
    else:
        loading.prepared("mnist_inr", data)
        told = f"no manual_dir or download_url is given; using what was prepared from {request.url}"
        assert told in capsys.readouterr().out


def test_of_two_processes_one_downloads_and_the_other_waits(server, tmp_path):
    code = """
        from probegen_jax.zoo.files import download
        knock = download._knock
        download._knock = lambda address: (hold(), knock(address))
        folder = pathlib.Path(sys.argv[1]) / "downloads"
        path = download.fetch(download.Address(sys.argv[2], "zoo.zip"), folder)
        print(path.stat().st_size)
    """
    first, second = together.run(code, tmp_path, f"{server.url}/zoo.zip")
    folder, size = tmp_path / "downloads", str(len(server.content))
    waits = f"waiting for another process that downloads {folder / 'zoo.zip'}"
    assert (first, second) == ([size], [waits, size])
    assert server.requests == 2
    assert leftovers(folder) == ["zoo.zip", "zoo.zip.sha256"]
