"""The package as a wheel, installed far from the clone: every command works, and takes nothing from the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "tests", "runs", "build", "*.egg-info", "*.safetensors", "*.pth")
COMMANDS = (
    ["backbones-train", "--recipe", "demo", "--epochs", "1", "--output", "runs", "--experiment", "demo"],
    ["backbones-validate", "runs/demo"],
    ["backbones-predict", "--model", "runs/demo", "--digits", "2"],
    ["backbones-checkpoint", "list", "shvit_*"],
)


@pytest.mark.extra
def test_every_command(tmp_path):
    source, site, far = tmp_path / "source", tmp_path / "site", tmp_path / "far"
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    far.mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BACKBONES_", "XDG_"))}
    env |= {"HOME": str(far), "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": ""}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=far, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    run("-m", "pip", "install", "-q", "--no-deps", "--target", str(site), *map(str, tmp_path.glob("*.whl")))
    shutil.rmtree(source)
    assert run("-c", "import backbones; print(backbones.__file__)").strip() == str(site / "backbones" / "__init__.py")
    (installed,) = site.glob("backbones-*.dist-info")
    scripts = {entry.name for entry in PathDistribution(installed).entry_points if entry.group == "console_scripts"}
    assert scripts == {command[0] for command in COMMANDS}
    for name, *arguments in COMMANDS:
        assert f"usage: {name}" in run(str(site / "bin" / name), "--help")
        run(str(site / "bin" / name), *arguments)
    assert f"store: {far / '.cache' / 'backbones' / 'checkpoints'}" in run(str(site / "bin" / name), *arguments)
    assert (far / "runs" / "demo" / "best.safetensors").is_file()
