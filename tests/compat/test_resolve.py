"""An environment that holds everything, `yandexcloud` included, is made without a search that takes minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def test_pip_resolves_every_extra_beside_yandexcloud(tmp_path: Path) -> None:
    """The newest pip finds releases for all extras and `yandexcloud` together in under a minute."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--upgrade", "pip")
    resolved = run(python, "-m", "pip", "install", "--dry-run", f"{ROOT}[all]", "yandexcloud", timeout=60)
    assert "Would install" in resolved
    assert " yandexart-grpc-" in resolved
    assert " yandexcloud-" in resolved


def run(*command: str | Path, timeout: float = 180) -> str:
    """What a program prints, which has to end well and in time."""
    ran = subprocess.run(command, env=os.environ, cwd=ROOT.anchor, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
