"""Environments of their own, outside the checkout: what is built is installed there as by whoever depends on it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(
    *command: str | Path, folder: str | Path = ROOT.anchor, expected: int = 0, timeout: float = 180, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program outside the repository, and see it end with the expected code."""
    variables = os.environ | {"UV_SYSTEM_CERTS": "1"} | environment
    ran = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == expected, ran.stdout + ran.stderr
    return ran


def uv(*arguments: str | Path) -> str:
    """What uv prints, run from the environment of the tests."""
    return run(sys.executable, "-m", "uv", "--quiet", *arguments).stdout


def unpack(sdist: Path, folder: Path) -> None:
    """Unpack it as every Python from 3.11 on can."""
    run(sys.executable, "-m", "tarfile", "--extract", sdist, folder)


def build(folder: Path, source: Path = ROOT) -> tuple[Path, Path]:
    """The sdist of a source tree, and the wheel that is made of that sdist: what `make build` runs."""
    uv("build", "--no-create-gitignore", "--out-dir", folder, source)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def environment(folder: Path, *packages: str | Path, override: str = "") -> Path:
    """The Python of a new environment with these packages; `override` pins one against the will of the others."""
    python, overrides = folder / "venv" / "bin" / "python", folder / "overrides.txt"
    overrides.write_text(override)
    uv("venv", "--python", sys.executable, folder / "venv")
    uv("pip", "install", "--python", python, "--overrides", overrides, *packages)
    return python
