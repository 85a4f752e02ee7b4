"""The wheel builds, holds what it should, and runs in an environment that has nothing else of this project."""

import os
import subprocess
import sys
import zipfile

import pytest

SOURCE, BUILD = os.environ.get("ESPALIER_SOURCE_DIR"), os.environ.get("ESPALIER_WHEEL_BUILD_DIR")


def run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, **options)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.skipif(SOURCE is None, reason="ctest runs it, with ESPALIER_SOURCE_DIR and ESPALIER_WHEEL_BUILD_DIR set")
def test_the_wheel_runs_in_a_clean_environment(tmp_path):
    pytest.importorskip("scikit_build_core", reason="the wheel is built by scikit-build-core, which is not installed")
    settings = [f"build-dir={BUILD}"]
    settings += [f"cmake.define.{setting}" for setting in os.environ["ESPALIER_WHEEL_SETTINGS"].split(",")]
    options = [word for setting in settings for word in ("--config-settings", setting)]
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(tmp_path), *options, SOURCE)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("espalier-") and "-cp312-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("__init__.py", "_core.abi3.so", "_core.pyi", "fasttree.py", "py.typed"):
        assert f"espalier/{name}" in names

    python = tmp_path / "clean" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(tmp_path / "clean"))
    run(*pip, "--python", str(python), "install", "--no-index", "--no-deps", str(wheel))
    where = run(str(python), "-c", "import espalier; print(espalier.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "clean"))
    run(str(python), os.path.join(SOURCE, "python", "examples", "minimal_tree.py"), cwd=tmp_path)
