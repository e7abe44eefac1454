"""An environment that holds everything, `yandexcloud` included, is made without a search that takes minutes."""

import sys
from pathlib import Path

import pytest

from tests.environments import ROOT, run

pytestmark = pytest.mark.slow


def test_pip_resolves_every_extra_beside_yandexcloud(tmp_path: Path) -> None:
    """The newest pip finds releases for all extras and `yandexcloud` together in under a minute."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--upgrade", "pip")
    resolved = run(python, "-m", "pip", "install", "--dry-run", f"{ROOT}[all]", "yandexcloud", timeout=60).stdout
    assert "Would install" in resolved
    assert " yandexart-grpc-" in resolved
    assert " yandexcloud-" in resolved
