"""The files of deploy/ and the pages for operators: they say what the code does, and what they start really starts."""

import ast
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
import yaml
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import capacity
from benchmarks.fleet import evenness, most_in
from benchmarks.fleet_world import Fleet, Gcra
from benchmarks.lean import jpeg
from tests.documents import parsed
from tests.doors import Caller, Scripted, opened
from tests.postgres import PROGRAMS, Postgres
from yandexart_grpc import YandexArt
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import GOODBYE
from yandexart_grpc.server.settings import KEEP
from yandexart_grpc.server.store import open_store

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "yandexart_grpc"
DEPLOY = ROOT / "deploy"
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES: dict[str, Any] = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
SERVICE: dict[str, Any] = COMPOSE["services"]["server"]
POD: dict[str, Any] = KUBERNETES["Deployment"]["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def interpolated(text: str) -> str:
    """A word of a Compose file where no variable is set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)


LINES = {
    "compose.yaml": [interpolated(word) for word in SERVICE["command"]],
    "kubernetes.yaml": list(CONTAINER["args"]),
}
"""The commands of the servers, without `yandexart`, which is the entry point of the image."""


def option(line: list[str], name: str) -> str:
    """What an option is given in a command."""
    (found,) = (word.partition("=")[2] for word in line if word.startswith(f"{name}="))
    return found


def seconds(text: str) -> float:
    """A span of Compose or of ours, of one unit."""
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


@contextmanager
def serving(line: list[str]) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process of a server, and the port of its gRPC door. It is killed in the end, if it is still there."""
    command = [str(Path(sys.executable).with_name("yandexart")), *line]
    process = subprocess.Popen(command, env=os.environ | {"YC_API_KEY": "AQVN"}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip().rpartition(":")[2]
    finally:
        process.kill()
        process.communicate()


def tool(name: str, *arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment of the tests."""
    command = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    environment = os.environ | {"UV_SYSTEM_CERTS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


class TestDeployment:
    """What is in deploy/."""

    def test_the_compose_file_fits_the_specification(self) -> None:
        """The schema is that of the Compose specification."""
        done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_manifests_fit_the_api(self) -> None:
        """The schemas are those of Kubernetes, and no field is unknown to them."""
        done = tool("kubernetes-validate", "--strict", DEPLOY / "kubernetes.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        assert set(KUBERNETES) == {"Deployment", "Service", "PodDisruptionBudget"}

    @pytest.mark.parametrize("name", LINES)
    def test_a_command_is_one_of_ours(self, name: str) -> None:
        """It is taken by the command line, and by the settings."""
        taken = parsed(LINES[name])
        settings = {key: value for key, value in taken.items() if key != "log_format"}
        assert list(ServerSettings(**settings).problems()) == []

    @pytest.mark.parametrize("name", LINES)
    def test_no_secret_stands_in_a_command(self, name: str) -> None:
        """Passwords and keys come as variables and files."""
        assert not re.search(r"PASSWORD|API_KEY|://[^/]*:[^/]*@", " ".join(LINES[name]))

    @pytest.mark.parametrize("name", LINES)
    def test_a_command_serves(self, name: str, postgres: Postgres, tmp_path: Path) -> None:
        """On a real PostgreSQL it starts, is healthy as its health check sees it, is stopped by SIGTERM, and rereads its keys."""
        (tmp_path / "keys").write_text("alice s3cret\n")
        line = [*LINES[name], "--listen=127.0.0.1:0", "--http=127.0.0.1:0"]
        line += [f"--store={postgres.database()}", f"--key-file={tmp_path / 'keys'}"]
        with serving(line) as (process, port):
            check = SERVICE["healthcheck"]["test"]
            assert check[:3] == ["CMD", "python", "-c"]
            healthy = [sys.executable, "-W", "error", "-c", check[3].replace("50051", port)]
            assert subprocess.run(healthy, check=False).returncode == 0
            (tmp_path / "keys").write_text("bob an0ther\n")
            process.send_signal(signal.SIGHUP)
            with YandexArt(endpoint=f"http://127.0.0.1:{port}", folder_id="b1g", credentials="an0ther") as art:
                if "--backend=demo" in line:
                    assert art.generate("a red cat").width == 1024
                else:
                    art.warm_up()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0

    def test_ports_are_those_of_the_command(self) -> None:
        """What is published, probed and pointed at is what the servers listen on."""
        for name, line in LINES.items():
            ports = {option(line, door).rpartition(":")[2] for door in ("--listen", "--http")}
            assert ports == set(re.findall(r"\d+", next(re.finditer(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE))[1])), name
        for published in SERVICE["ports"]:
            first, last, inside = map(int, re.findall(r":(\d+)-(\d+):(\d+)", published)[0])
            assert last - first + 1 == SERVICE["deploy"]["replicas"]
            assert str(inside) in ports
            assert published.startswith("127.0.0.1:")
        named = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
        assert set(map(str, named.values())) == ports
        assert all(named[port["targetPort"]] == port["port"] for port in KUBERNETES["Service"]["spec"]["ports"])
        probes = [CONTAINER[probe]["grpc"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
        assert probes == [{"port": named["grpc"]}] * 3

    def test_nobody_is_killed_while_he_works(self) -> None:
        """A server is given longer than it takes for itself."""
        slack = GOODBYE + 5
        assert seconds(option(LINES["compose.yaml"], "--grace")) + slack < seconds(SERVICE["stop_grace_period"])
        pause = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
        grace = seconds(option(LINES["kubernetes.yaml"], "--grace"))
        assert pause + grace + slack < POD["terminationGracePeriodSeconds"]

    def test_names_in_the_manifests_fit_together(self) -> None:
        """Selectors select the pods, volumes exist, and keys are where the command looks for them."""
        labels = KUBERNETES["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert KUBERNETES["Deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert KUBERNETES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
        assert KUBERNETES["Service"]["spec"]["selector"] == labels
        assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
        assert option(CONTAINER["args"], "--key-file").startswith(CONTAINER["volumeMounts"][0]["mountPath"] + "/")
        assert option(SERVICE["command"], "--key-file") == f"/run/secrets/{SERVICE['secrets'][0]}"
        assert set(SERVICE["secrets"]) == set(COMPOSE["secrets"])

    def test_what_is_copied_into_the_image_is_enough_to_build_it(self, tmp_path: Path) -> None:
        """The files that the Dockerfile copies make a wheel, with the extras that it asks for."""
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
            for source in map(ROOT.joinpath, sources.split()):
                target = tmp_path / "source" / source.relative_to(ROOT)
                copy = shutil.copytree if source.is_dir() else shutil.copy
                target.parent.mkdir(parents=True, exist_ok=True)
                copy(source, target)
        done = tool("uv", "build", "--quiet", "--wheel", "--out-dir", tmp_path / "wheel", tmp_path / "source", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "wheel").glob("*.whl"))) == 1
        (extras,) = re.findall(r"'\.\[(.+)\]'", DOCKERFILE)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
        assert re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE) == ['["yandexart"]']


class TestPages:
    """What operators read."""

    def test_every_line_of_the_log_is_told(self) -> None:
        """The table has each line that the server writes without --verbose, with its level."""
        rows = re.findall(r"^\| (WARNING|ERROR) \| (.+?) \| ", PAGES["operating.md"], re.MULTILINE)
        told = {(level, line) for level, lines in rows for line in re.findall(r"`(.+?)`", lines)}
        assert told == set(log_lines())

    def test_words_of_the_server_are_its_own(self) -> None:
        """What the table of troubles quotes after a status is said by the server."""
        table = PAGES["operating.md"].partition("## When something is wrong")[2]
        words = [
            text for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for text in re.findall(r"`([^`-][^`]* [^`]+)`", row)
        ]
        source = "\n".join(texts())
        assert len(words) >= 12
        assert [text for text in words if not all(piece in source for piece in text.split(" … "))] == []
        codes = {code for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for code in re.findall(r"`([A-Z_]{5,})`", row)}
        assert codes - {"LISTEN"} <= set(StatusCode.__members__)

    def test_the_table_of_scale_is_computed(self) -> None:
        """The page has what the arithmetic gives today."""
        assert capacity.table() in PAGES["scale.md"]

    async def test_a_dump_holds_everything(self, postgres: Postgres, tmp_path: Path) -> None:
        """Made by pg_dump while a server works, and restored elsewhere: finished pictures are there, and what waited is made."""
        url, copy, dump = postgres.database(), postgres.database(), tmp_path / "dump"
        backend, other = Scripted(), Scripted()
        async with opened(backend, store=url, concurrency=1) as server:
            caller = Caller(server.endpoint)
            done = await caller.get(await caller.submit(), hold=10)
            backend.let.clear()
            await caller.submit("begun")
            waiting = await caller.submit("waiting")
            for command in (["pg_dump", "--format=custom", f"--file={dump}", url], ["pg_restore", f"--dbname={copy}", dump]):
                await asyncio.to_thread(subprocess.run, [PROGRAMS / str(command[0]), *command[1:]], check=True)
            await caller.close()
        async with opened(other, store=copy) as server:
            caller = Caller(server.endpoint)
            assert await caller.get(done.id) == done
            assert (await caller.get(waiting, hold=10)).HasField("response")
            await caller.close()

    @pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
    async def test_a_restored_copy_buys_nothing_again(self, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        """After the statements of the page, what had not begun ends as unknown, and the store has another name."""
        url = f"sqlite:///{tmp_path}/copy.db" if kind == "sqlite" else request.getfixturevalue("postgres").database()
        backend = Scripted(charges=True)
        backend.let.clear()
        async with opened(backend, store=url, concurrency=1) as server:
            caller = Caller(server.endpoint)
            await caller.submit("running")
            await backend.begun.wait()
            waiting = await caller.submit("waiting")
            await caller.close()
        (statements,) = re.findall(r"(?s)```sql\n(.+?)```", PAGES["operating.md"])
        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            before = connection.execute(sqlalchemy.text("SELECT id FROM store")).scalar()
            for statement in re.sub(r"--.*", "", statements).split(";")[:-1]:
                connection.execute(sqlalchemy.text(statement))
        engine.dispose()
        backend = Scripted(charges=True)
        async with opened(backend, store=url) as server:
            caller = Caller(server.endpoint)
            operation = await caller.get(waiting, hold=10)
            await caller.close()
        assert operation.error.code == StatusCode.ABORTED.value[0]
        assert "may have been bought" in operation.error.message
        assert backend.asked == []
        async with open_store(url) as store:
            assert store.id != before


def log_lines() -> Iterator[tuple[str, str]]:
    """Level and words of everything that the server logs from WARNING on, with … for what is put in."""
    levels = {"warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
    for path in (SOURCE / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("log."):
                continue
            if level := levels.get(ast.unparse(node.func).removeprefix("log.")):
                assert isinstance(node.args[0], ast.Constant)
                yield level, re.sub("%[a-z]", "…", str(node.args[0].value))


def texts() -> Iterator[str]:
    """Every piece of text in the server."""
    for path in (SOURCE / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


class TestFigures:
    """What the arithmetic rests on."""

    def test_settings_are_those_of_the_server(self) -> None:
        """How long a picture is kept, how many are worked on, and when held reads look again."""
        from yandexart_grpc.server.postgres import Postgres as Database

        assert capacity.KEEP == KEEP
        assert ServerSettings().concurrency == capacity.CONCURRENCY
        assert Database.unheard == capacity.LOOK

    async def test_a_picture_costs_postgresql_what_is_said(self, postgres: Postgres) -> None:
        """Bytes of its log and tables within a tenth, bytes of a read, and no more transactions that write than are counted."""
        url, number = postgres.database(), 12
        backend = Scripted(jpeg(capacity.PICTURE))

        def spent() -> list[float]:
            sums = "pg_current_wal_lsn() - '0/0', pg_total_relation_size('operations'), pg_current_xact_id()::text::bigint"
            return [float(value) for value in postgres.do(f"SELECT {sums}", url)[0]]

        async with opened(backend, store=url) as server:
            caller = Caller(server.endpoint)
            await caller.get(await caller.submit(), hold=10)
            before = spent()
            ids = await asyncio.gather(*(caller.submit() for _ in range(number)))
            await asyncio.gather(*(caller.get(name, hold=10) for name in ids))
            log, table, transactions = ((after - then) / number for after, then in zip(spent(), before, strict=True))
            connections = postgres.do("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()", url)
            await caller.close()
        assert log == pytest.approx(capacity.WAL, rel=0.1)
        assert table == pytest.approx(capacity.ROW, rel=0.1)
        assert transactions <= capacity.COMMITS
        assert connections[0][0] <= capacity.CONNECTIONS + 1  # the question's own
        with psycopg.connect(url) as connection:
            result = connection.execute("SELECT response FROM operations LIMIT 1").pgresult
            assert result
            assert len(result.get_value(0, 0) or b"") == pytest.approx(capacity.READ, rel=0.01)


class TestFleet:
    """The simulation."""

    @given(st.integers(1, 40), st.floats(0.1, 100), st.data())
    def test_a_quota_is_kept_in_every_window(self, limit: int, window: float, data: st.DataObject) -> None:
        """However much comes at once, and whenever: no span of that length has more."""
        quota = Gcra(limit, window, data.draw(st.integers(1, limit)))
        now, let = 0.0, list[float]()
        for pause in data.draw(st.lists(st.floats(0, 2 * window), max_size=20)):
            now += pause
            for _ in range(limit):
                if quota.wait(now) == 0:
                    quota.take(now)
                    let.append(now)
        assert most_in(window, let) <= limit

    def test_a_burst_is_passed_by_others(self) -> None:
        """Whoever comes after another's thousand orders waits for the next turn, and for a thousand where nobody takes turns."""
        waits = {}
        for fair in (False, True):
            fleet = Fleet(replicas=3, callers=2, quota=Gcra(60, 60.0, 1), fair=fair)
            for _ in range(1000):
                fleet.wish(0.0, 0)
            fleet.wish(10.5, 1)
            fleet.clock.run()
            waits[fair] = fleet.orders[-1].began - 10.5
        assert waits[True] < 2 < 900 < waits[False]

    def test_evenness(self) -> None:
        """All the same is 1; all for one is his part of them."""
        assert evenness([3, 3, 3]) == pytest.approx(1)
        assert evenness([9, 0, 0]) == pytest.approx(1 / 3)
