"""The release: what is built, that it is the same everywhere, where the version stands, and what the workflow calls."""

import email
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import sbom
from tests.environments import ROOT, build, run, unpack, uv
from tests.test_structure import PRIVATE
from yandexart_grpc import __version__

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
JOBS: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())["jobs"]
STEPS: list[dict[str, Any]] = [step for job in JOBS.values() for step in job["steps"]]

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.argv[1]):
    sys.exit(str(error))
"""
"""Fails unless its argument is an SBOM of CycloneDX."""

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs to know what is tracked")


def tracked() -> Iterator[str]:
    """The files of the next commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return (name for name in listed.split("\0") if name and (ROOT / name).exists())


def contents(archive: Path) -> dict[str, bytes]:
    """The files of an sdist, by their names below its folder, or of a wheel."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(archive) as sdist:
        files = [(member.name.partition("/")[2], sdist.extractfile(member)) for member in sdist]
        return {name: file.read() for name, file in files if file}


class TestBuild:
    """What `make build` makes."""

    def test_it_is_the_same_everywhere(self, built: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In another folder, time zone and language, with other permissions, times and order of files: the same to the byte."""
        for name in sorted(tracked(), reverse=True):
            target = tmp_path / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(ROOT / name, target)
            target.chmod(0o700 if os.access(ROOT / name, os.X_OK) else 0o600)
            os.utime(target, (86_400, 86_400))
        monkeypatch.setenv("TZ", "Asia/Vladivostok")
        monkeypatch.setenv("LC_ALL", "C")
        again = build(tmp_path / "dist", tmp_path / "source")
        assert [path.name for path in again] == [path.name for path in built]
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in again] == [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in built
        ]

    def test_the_sdist_holds_what_is_tracked(self, built: tuple[Path, Path]) -> None:
        """It has every file of the repository as it is, its metadata, and nothing else."""
        files = contents(built[0])
        assert files.pop("PKG-INFO")
        assert files.keys() == set(tracked())
        assert [name for name, data in files.items() if data != (ROOT / name).read_bytes()] == []

    def test_what_lies_about_is_not_published(self, built: tuple[Path, Path], tmp_path: Path) -> None:
        """A key, a store and pictures beside the sources change nothing."""
        unpack(built[0], tmp_path)
        (source,) = tmp_path.iterdir()
        for name in ("key.json", ".env", "orders.db", "pictures/cat.jpeg", "deploy/keys", "yandexart_grpc/__pycache__/x.pyc"):
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_text("secret")
        assert contents(build(tmp_path / "dist", source)[0]).keys() == contents(built[0]).keys()

    def test_the_wheel_holds_every_file_of_both_packages(self, built: tuple[Path, Path]) -> None:
        """Modules, types, marks and static files of the tree are in it, and beside them only its metadata."""
        packages = {name.removeprefix("generated/") for name in tracked() if name.startswith(("yandexart_grpc/", "generated/"))}
        assert {name for name in contents(built[1]) if ".dist-info/" not in name} == packages

    def test_it_tells_what_it_is(self, wheel: Path) -> None:
        """Version, licence, Python, extras, the command and the long description are those of the sources."""
        files = contents(wheel)
        folder = f"yandexart_grpc-{__version__}.dist-info"
        told = email.message_from_bytes(files[f"{folder}/METADATA"])
        assert (told["Name"], told["Version"], told["Requires-Python"]) == ("yandexart-grpc", __version__, ">=3.11")
        assert (told["License-Expression"], told["Description-Content-Type"]) == ("MIT", "text/markdown")
        assert told.get_all("License-File") == ["LICENSE", "THIRD_PARTY.md"]
        assert all(files[f"{folder}/licenses/{name}"] == (ROOT / name).read_bytes() for name in ("LICENSE", "THIRD_PARTY.md"))
        assert set(told.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
        assert files[f"{folder}/METADATA"].decode().endswith((ROOT / "README.md").read_text())
        entries = (
            "[console_scripts]\nyandexart = yandexart_grpc.cli:main\n\n[pytest11]\nyandexart = yandexart_grpc.testing_fixtures\n"
        )
        assert files[f"{folder}/entry_points.txt"].decode() == entries

    def test_nothing_of_this_machine_is_in_it(self, built: tuple[Path, Path]) -> None:
        """No file of either names a registry's host, a user's folder, or where it was built."""
        for archive in built:
            for name, data in contents(archive).items():
                text = data.decode(errors="replace")
                assert not PRIVATE.search(text), f"{name}: {PRIVATE.search(text)}"
                assert str(ROOT) not in text, name


class TestVersion:
    """The version."""

    def test_it_stands_in_one_place(self) -> None:
        """No tracked file states it but `_version.py`, and `CHANGELOG.md`, which tells of all."""
        stated = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?!\.?\d)")
        found = [name for name in tracked() if stated.search((ROOT / name).read_bytes().decode(errors="replace"))]
        assert found == ["CHANGELOG.md", "yandexart_grpc/_version.py"]

    def test_the_changelog_begins_with_it(self) -> None:
        """The newest release of the changelog is this one, and has a date."""
        titles = re.findall(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text())
        released = [title for title in titles if title != "[Unreleased]"]
        assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", released[0])


class TestWorkflow:
    """What runs on GitHub."""

    def test_it_fits_the_schema(self) -> None:
        """The schema is that of GitHub's workflows."""
        run(Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", WORKFLOW)

    def test_it_calls_our_targets(self) -> None:
        """Every `make` calls a target that there is, and whoever adds a check to `make` has it called."""
        targets = set(re.findall(r"(?m)^([a-z-]+):.*##", (ROOT / "Makefile").read_text()))
        called = set()
        for job in JOBS.values():
            matrix = job.get("strategy", {}).get("matrix", {}).get("target", [])
            for step in job["steps"]:
                for target in re.findall(r"\bmake (\$\{\{ matrix\.target \}\}|[\w-]+)", step.get("run", "")):
                    called |= set(matrix) if target.startswith("$") else {target}
        assert called <= targets
        assert {target for target in targets if re.match("test|docs|sbom|soak", target)} <= called

    def test_it_runs_on_every_python(self) -> None:
        """The tests run on each version of Python that the package names."""
        named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
        assert JOBS["test"]["strategy"]["matrix"]["python"] == named

    def test_it_may_do_little(self) -> None:
        """It reads the repository; only the job that runs no code of ours may write or sign; no secret is kept for it."""
        assert yaml.safe_load(WORKFLOW.read_text())["permissions"] == {"contents": "read"}
        assert [name for name, job in JOBS.items() if "permissions" in job] == ["release"]
        assert not [
            step for step in JOBS["release"]["steps"] if "checkout" in step.get("uses", "") or "make" in step.get("run", "")
        ]
        assert "secrets." not in WORKFLOW.read_text()
        assert all(step["with"]["persist-credentials"] is False for step in STEPS if "actions/checkout@" in step.get("uses", ""))

    def test_actions_are_pinned(self) -> None:
        """Each action is one release of it, not a name that moves."""
        assert [used for step in STEPS if (used := step.get("uses")) and not re.search(r"@v\d+\.\d+\.\d+$", used)] == []


class TestNotices:
    """What others made."""

    def test_every_dependency_has_its_licence(self) -> None:
        """The table names each package that pyproject.toml wants, and who wants it; `make sbom` writes it."""
        rows = re.findall(r"(?m)^\| ([\w-]+) \| [A-Z][\w .()-]+ \| (.+) \|$", (ROOT / "THIRD_PARTY.md").read_text())
        assert {name: extras.split(", ") for name, extras in rows} == sbom.wanted()

    @pytest.mark.slow
    def test_the_sbom_lists_a_full_installation(self, wheel: Path) -> None:
        """It fits the schema, is the same each time, names no host of a registry and no folder, and knows each licence."""
        bom = sbom.materials(wheel)
        text = json.dumps(bom)
        assert json.dumps(sbom.materials(wheel)) == text
        uv("tool", "run", "--from", "cyclonedx-python-lib[json-validation]", "python", "-c", VALIDATE, text)
        assert not PRIVATE.search(text)
        assert str(wheel.parent) not in text
        assert (bom["metadata"]["component"]["name"], bom["metadata"]["component"]["version"]) == ("yandexart-grpc", __version__)
        assert sbom.wanted().keys() <= {sbom.normal(component["name"]) for component in bom["components"]}
        assert (ROOT / "THIRD_PARTY.md").read_text().endswith(sbom.table(bom))
