"""mmcv's compiled operators: that they work, and what is said where they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from backbones.dense import ops

ROOT = Path(__file__).parents[2]
MMCV = Path(find_spec("mmcv").origin).parent
IMPORT = "import backbones.dense as d; print(sorted(d.__all__))"


def run(*command: str, before: Path | None = None) -> subprocess.CompletedProcess:
    """Run Python in a fresh process, with modules in the folder `before` found first."""
    path = os.pathsep.join(str(folder) for folder in (before, ROOT) if folder)
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=env)


def copy_of_mmcv(folder: Path) -> Path:
    """The installed mmcv, file by file as links, but for the compiled operators; returns where those would be."""
    (folder / "mmcv").mkdir(parents=True)
    for entry in MMCV.iterdir():
        if not entry.name.startswith("_ext"):
            (folder / "mmcv" / entry.name).symlink_to(entry)
    (compiled,) = MMCV.glob("_ext*.so")
    return folder / "mmcv" / compiled.name


@pytest.mark.parametrize("name", ops.PROOFS)
def test_operator(name):
    torch.manual_seed(0)
    ops.PROOFS[name](torch.device("cpu"))


@pytest.mark.parametrize("name", ops.PROOFS)
def test_a_wrong_operator_is_found(name, monkeypatch):
    # The operators' inputs change on their way to mmcv alone, as if it computed something else.
    import mmcv.ops as theirs

    target = {
        "nms": "nms",
        "roi_align": "roi_align",
        "deformable attention": "MultiScaleDeformableAttention",
        "deformable convolution": "modulated_deform_conv2d",
    }[name]
    real = getattr(theirs, target)

    def wrong(first, *args, **kwargs):
        if not isinstance(first, torch.Tensor):
            layer = real(first, *args, **kwargs)
            layer.register_forward_hook(lambda module, inputs, out: out * 1.01)
            return layer
        return real(first.flip(0) if name == "nms" else first * 1.01, *args, **kwargs)

    monkeypatch.setattr(theirs, target, wrong)
    found = "compiled operators compute nonsense" if name == "nms" else f"{name} does not work on cpu"
    with pytest.raises(ops.OperatorsError, match=rf"mmcv's {found}.* \(.*\): run `make setup-dense`"):
        ops.prove("cpu")


def test_the_tool_proves_the_installed_operators():
    done = run("tools/dense/check_ops.py")
    assert done.returncode == 0, done.stderr
    assert "nms, roi_align, deformable attention" in done.stdout and "work on cpu with torch" in done.stdout


def test_operators_that_were_not_built(tmp_path):
    copy_of_mmcv(tmp_path)
    config = tmp_path / "config.py"
    config.write_text('custom_imports = dict(imports=["backbones.dense"], allow_failed_imports=False)')
    through_mmengine = f"from mmengine.config import Config; Config.fromfile({str(config)!r})"
    for code in (IMPORT, through_mmengine):
        done = run("-c", code, before=tmp_path)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert "OperatorsError: mmcv was installed without its compiled operators" in last
        assert "make setup-dense" in last


def test_operators_that_were_built_for_another_torch(tmp_path):
    compiled = copy_of_mmcv(tmp_path)
    (real,) = MMCV.glob("_ext*.so")
    code = real.read_bytes()
    symbol = code.index(b"_ZN2at4_ops")  # a function that this torch has
    compiled.write_bytes(code[: symbol + 8] + b"OPS" + code[symbol + 11 :])
    for command in (("-c", IMPORT), ("tools/dense/check_ops.py",)):
        done = run(*command, before=tmp_path)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert f"were built for another torch than the installed {torch.__version__} (" in last
        assert "undefined symbol" in last and "make setup-dense" in last


def test_without_any_of_openmmlabs_packages(tmp_path):
    for entry in MMCV.parent.iterdir():
        if not entry.name.startswith(("mm", "onedl")):
            (tmp_path / entry.name).symlink_to(entry)
    done = run("-S", "-c", IMPORT, before=tmp_path)  # without site-packages, but for the links
    assert (done.returncode, done.stdout.strip()) == (0, "['DenseBackbone']"), done.stderr
    done = run("-S", "tools/dense/check_ops.py", before=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("dense prediction needs mmcv, which is not installed: run")


def test_weights_do_not_need_operators(tmp_path):
    # A broken mmcv must not break classification, although the store of weights knows dense backbones, too.
    copy_of_mmcv(tmp_path)
    done = run("-c", "import backbones.checkpoints, sys; print('mmcv' in sys.modules)", before=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
