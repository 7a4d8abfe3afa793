"""Which operators mmcv gets: in every order of imports, beside compiled ones that work or not, without mmcv."""

from __future__ import annotations

import configparser
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.openmmlab.folders import detection_config, write_coco

ROOT = Path(__file__).parents[2]
PACKAGES = {name: Path(importlib.util.find_spec(name).origin).parent for name in ("mmcv", "mmdet")}
PRINT = "import sys; print('operators:', type(sys.modules['mmcv._ext']).__name__)"
OURS, COMPILED = "operators: Extension", "operators: module"

NMS = """
import torch
def nms(boxes, scores, iou_threshold, offset):
    return torch.tensor({kept})
def get_compiling_cuda_version():
    return "13.0"
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return print
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """The installed mmcv, file by file as links, without compiled operators, and this package as `pip` installs it."""
    (tmp_path / "mmcv").mkdir()
    for entry in PACKAGES["mmcv"].iterdir():
        if not entry.name.startswith("_ext"):
            (tmp_path / "mmcv" / entry.name).symlink_to(entry)
    installed = tmp_path / "backbones-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: backbones\nVersion: 0\n")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options"]["py_modules"] == "backbones_mmcv"
    (installed / "entry_points.txt").write_text(f"[torch.backends]{setup['options.entry_points']['torch.backends']}\n")
    return tmp_path


def run(*command: str, before: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run Python in a fresh process, with modules in the folder `before` found first."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(before), str(ROOT)]), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=env)


def prints(expected: str, code: str, before: Path, **environment: str) -> str:
    done = run("-c", f"{code}\n{PRINT}", before=before, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == expected
    return done.stderr


def test_importing_mmdet_first(folder):
    # mmseg makes do without an operator that it cannot import, and fails when it is called.
    code = "import mmdet.models, mmseg.models.utils.point_sample as p, backbones.dense; assert p.point_sample"
    assert "Warning" not in prints(OURS, code, folder)


def test_configs_bring_them(folder):
    # Where torch was told to import nothing by itself, or this package is a folder on the path.
    config = folder / "config.py"
    config.write_text('custom_imports = dict(imports=["backbones.dense"], allow_failed_imports=False)')
    code = f"from mmengine.config import Config; Config.fromfile({str(config)!r}); import mmcv.ops"
    prints(OURS, code, folder, TORCH_DEVICE_BACKEND_AUTOLOAD="0")


def test_tools_of_mmdet(folder, tmp_path_factory):
    # Their imports come before the config's; a spawned data loader's process imports everything anew.
    case = tmp_path_factory.mktemp("mmdet")
    data = write_coco(case / "data", count=2)
    config = detection_config(case / "config.py")
    config.write_text(f"{config.read_text()}\nwork_dir = {str(case / 'run')!r}\n")
    torch.save({"state_dict": {}}, case / "weights.pth")
    options = [
        f"test_dataloader.dataset.data_root={data}",
        "test_dataloader.dataset.metainfo.classes=('red','green','blue')",
        f"test_evaluator.ann_file={data}/annotations/instances_val2017.json",
        "model.roi_head.bbox_head.num_classes=3",
        "model.roi_head.mask_head.num_classes=3",
        "test_dataloader.num_workers=1",
        "test_dataloader.multiprocessing_context=spawn",
    ]
    tool = PACKAGES["mmdet"] / ".mim" / "tools" / "test.py"
    done = run(str(tool), str(config), str(case / "weights.pth"), "--cfg-options", *options, before=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "bbox_mAP_50" in done.stdout


def test_compiled_operators_that_work_are_left_alone(folder):
    (folder / "mmcv" / "_ext.py").write_text(NMS.format(kept="[0, 2]"))
    assert "Warning" not in prints(COMPILED, "import mmcv.ops, backbones.dense", folder)


@pytest.mark.parametrize("fault", ["of another torch", "wrong numbers", "fails when called"])
def test_compiled_operators_that_do_not_work_are_not_used(folder, fault):
    if fault == "of another torch":
        (folder / "mmcv" / f"_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF nothing")
    else:
        body = NMS.format(kept="[0, 1]" if fault == "wrong numbers" else "[0] + None")
        (folder / "mmcv" / "_ext.py").write_text(body)
    said = prints(OURS, "import mmcv.ops, backbones.dense", folder)
    assert f"mmcv's compiled operators do not work with torch {torch.__version__} (" in said


def test_compiled_operators_that_were_imported_too_early(folder):
    (folder / "mmcv" / "_ext.py").write_text(NMS.format(kept="[0, 1]"))
    code = "import mmcv.ops, torch, backbones.dense; print(mmcv.ops.nms(torch.zeros(1, 4), torch.ones(1), 0.5))"
    prints(OURS, code, folder, TORCH_DEVICE_BACKEND_AUTOLOAD="0")


def test_torch_pays_nothing_for_it(folder):
    code = (
        "import sys, torch; print(sorted(name for name in sys.modules if 'backbones' in name), 'timm' in sys.modules)"
    )
    done = run("-c", code, before=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("'backbones_mmcv'] False")


def test_without_any_of_openmmlabs_packages(tmp_path):
    for entry in PACKAGES["mmcv"].parent.iterdir():
        if not entry.name.startswith(("mm", "onedl")):
            (tmp_path / entry.name).symlink_to(entry)
    done = run("-S", "-c", "import backbones.dense as d; print(sorted(d.__all__))", before=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "['DenseBackbone']"), done.stderr
    done = run("-S", "tools/dense/train.py", before=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: dense prediction needs mmengine, which is not installed: "
        "run `pip install 'backbones[dense]'`, or `make setup-dense` in a clone."
    )


def test_the_tool_proves_the_operators(folder):
    done = run("tools/dense/check_ops.py", before=folder)
    assert done.returncode == 0, done.stderr
    assert "operators of mmcv: those of backbones" in done.stdout and "WRONG" not in done.stdout


def test_weights_do_not_need_operators(folder):
    # A broken mmcv must not break classification, although the store of weights knows dense backbones, too.
    (folder / "mmcv" / "__init__.py").unlink()
    (folder / "mmcv" / "__init__.py").write_text("raise ImportError")
    done = run("-c", "import backbones.checkpoints, sys; print('mmcv' in sys.modules)", before=folder)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
