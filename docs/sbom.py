"""Write what a full installation of the wheel is made of: its SBOM into dist/, and the table of licences in THIRD_PARTY.md.

    .venv/bin/python docs/sbom.py dist        (`make sbom`)

cyclonedx-py lists an environment with the wheel and all extras. The same versions give the same bytes: what it adds of the
machine and of registries is left out.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOOL = "cyclonedx-bom==7.5.0"

UNSTATED = {"protobuf": "BSD-3-Clause"}
"""Licences that a package tells in words of its own, which are no SPDX identifier."""


def main() -> None:
    """Write both."""
    (folder,) = map(Path, sys.argv[1:])
    (wheel,) = folder.glob("*.whl")
    bom = materials(wheel)
    (folder / f"{wheel.name.partition('-py3')[0]}.cdx.json").write_text(json.dumps(bom, indent=2) + "\n")
    notices = ROOT / "THIRD_PARTY.md"
    notices.write_text(notices.read_text().partition("| package |")[0] + table(bom))


def materials(wheel: Path) -> dict[str, Any]:
    """The SBOM of a wheel with all extras, as CycloneDX 1.6."""
    with tempfile.TemporaryDirectory() as folder:
        uv("venv", "--python", sys.executable, folder)
        uv("pip", "install", "--python", folder, f"{wheel}[all]")
        listed = uv("tool", "run", "--from", TOOL, "cyclonedx-py", "environment", "--output-reproducible", folder)
    bom: dict[str, Any] = json.loads(listed)
    components = {component["name"]: component for component in bom["components"]}
    for component in [*components.values(), *bom["metadata"]["tools"]["components"]]:
        component.pop("externalReferences", None)
    for name, licence in UNSTATED.items():
        components[name]["licenses"] = [{"license": {"id": licence}}]
    bom["metadata"]["component"] = components.pop("yandexart-grpc")
    bom["components"] = list(components.values())
    return bom


def uv(*arguments: str | Path) -> str:
    """What uv prints."""
    return subprocess.run(
        [sys.executable, "-m", "uv", "--quiet", *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def table(bom: dict[str, Any]) -> str:
    """The lines of THIRD_PARTY.md: each package that we depend on ourselves, its licence, and the extras that want it."""
    licences = {normal(component["name"]): spdx(component) for component in bom["components"]}
    lines = ["| package | licence | wanted by |", "|---|---|---|"]
    lines += [f"| {name} | {licences[name]} | {', '.join(extras)} |" for name, extras in sorted(wanted().items())]
    return "".join(f"{line}\n" for line in lines)


def wanted() -> dict[str, list[str]]:
    """Each package that pyproject.toml names, with the extras that want it, or `core`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages: dict[str, list[str]] = {}
    for extra, requirements in {"core": project["dependencies"], **project["optional-dependencies"]}.items():
        for name in (normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements):
            if name != project["name"]:
                packages.setdefault(name, []).append(extra if extra == "core" else f"`[{extra}]`")
    return packages


def normal(name: str) -> str:
    """The name of a package in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def spdx(component: dict[str, Any]) -> str:
    """The licence of a component. Raises `KeyError` where it tells none."""
    (licence,) = component["licenses"]
    return str(licence.get("expression") or licence["license"]["id"])


if __name__ == "__main__":
    main()
