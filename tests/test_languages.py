"""docs/languages.md: what it shows in other languages runs as it stands, with what npm installs, on a real server."""

import os
import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from grpc import StatusCode

from tests.doors import PICTURE, Scripted, opened
from tests.foreign import Foreign, alone, refused
from tests.programs import TIME, running
from yandexart_grpc.errors import ContentRefused
from yandexart_grpc.server.backends.demo import REFUSAL

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "languages.md").read_text()
(PROGRAM,), (BUF_YAML,) = (re.findall(rf"(?s)```{tag}\n(.+?)```", PAGE) for tag in ("js", "yaml"))
INSTALL, GENERATE, REFLECTED, DESCRIBED = re.findall(r"(?s)```bash\n(.+?)```", PAGE)
BASH = ("bash", "-euo", "pipefail", "-c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the page says should be in it."""
    if missing := [tool for tool in ("bash", "jq", "node", "npm") if not shutil.which(tool)]:
        pytest.skip(f"{', '.join(missing)}: not installed")
    folder = tmp_path_factory.mktemp("languages")
    shutil.copytree(ROOT / "proto", folder / "proto")
    (folder / "generate.js").write_text(PROGRAM)
    (folder / "buf.yaml").write_text(BUF_YAML)
    told = os.environ | {"npm_config_fetch_retries": "0", "npm_config_audit": "false", "npm_config_fund": "false"}
    done = subprocess.run([*BASH, INSTALL], cwd=folder, env=told, capture_output=True, text=True, timeout=TIME, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install here: {done.stderr[-500:]}")
    return folder


async def picture(endpoint: str, folder: Path, script: str, **more: str | Path) -> bytes:
    """The image that a script writes."""
    async with running(endpoint, folder, *BASH, script, **more) as process:
        _, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    path = folder / "cat.jpeg"
    data = path.read_bytes()
    path.unlink()
    return data


async def test_node_makes_an_image(folder: Path) -> None:
    """The program orders with the key, the seed and the ratio that it names, and writes the image as it was made."""
    backend = Scripted()
    async with opened(backend) as server:
        assert await picture(server.endpoint, folder, GENERATE) == PICTURE
    assert backend.authorizations == ["Api-Key AQVN"]
    assert [(one.prompt, one.seed, one.aspect_ratio) for one in backend.asked] == [("a red cat", 42, (16, 9))]


async def test_node_speaks_tls(folder: Path, tmp_path: Path) -> None:
    """Over TLS, with a key that the server asks for, it gets its image as well."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    (tmp_path / "keys").write_text("anna AQVN b1g\n")
    both = str(tmp_path / "both.pem")
    async with opened(Scripted(), tls_cert=both, tls_key=both, key_file=str(tmp_path / "keys")) as server:
        roots = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": tmp_path / "ca.pem"}
        assert await picture(server.endpoint, folder, GENERATE, **roots) == PICTURE


async def test_node_asks_again(folder: Path) -> None:
    """A server that holds no reads is asked again, also after a read that failed; the order is sent once, with its key."""
    with closing(Foreign(image=PICTURE, reads=[refused(StatusCode.UNAVAILABLE), alone])) as server:
        assert await picture(server.listen(), folder, GENERATE) == PICTURE
    assert (len(server.submits), len(server.reads)) == (1, 3)
    assert server.submits[0].metadata["idempotency-key"]
    assert {call.metadata["prefer"] for call in server.reads} == {"wait=30"}


async def test_node_tells_a_failure(folder: Path) -> None:
    """An operation that ends with an error is no image: its words are told, and there is no file."""
    async with (
        opened(Scripted(ContentRefused(REFUSAL))) as server,
        running(server.endpoint, folder, "node", "generate.js", "a red cat", "none.jpeg") as node,
    ):
        _, wrong = await node.communicate()
    assert node.returncode == 1
    assert f"ended without an image: {REFUSAL}" in wrong.decode()
    assert not (folder / "none.jpeg").exists()


async def test_buf_asks_the_server_for_its_schema(folder: Path) -> None:
    """By reflection, an order, a held read and the image take no file of the contract."""
    backend = Scripted()
    async with opened(backend) as server:
        assert await picture(server.endpoint, folder, REFLECTED) == PICTURE
    assert [one.prompt for one in backend.asked] == ["a red cat"]


async def test_buf_takes_the_schema_from_proto(folder: Path) -> None:
    """With a descriptor set, a server without reflection is called."""
    with closing(Foreign(image=PICTURE)) as server:
        async with running(server.listen(), folder, *BASH, DESCRIBED) as process:
            said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    assert '"id"' in said.decode()
    assert [call.request.model_uri for call in server.submits] == ["art://b1g/yandex-art/latest"]


def test_packages_are_those_of_the_files() -> None:
    """The packages of Go and Java that the page names are options of the files."""
    files = "".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto"))
    for option in ("go_package", "java_package"):
        (named,) = re.findall(rf"`{option}`: `([^`]+)`", PAGE)
        assert re.search(rf'option {option} = "{re.escape(named)}[;"]', files)
