#!/usr/bin/env python
"""Run timm's own model tests, unmodified, over this zoo.

timm's wheels hold no tests, so those of the installed version are taken from its source distribution (kept in
`.cache/timm_tests/`). Without options every model is tested, from the smallest to the largest.

    python tools/timm_suite.py --models 'nat_*' 'dinat_t' -x

Left out are the tests of TorchScript, which torch has deprecated, and those that download weights. Everything that is
not an option of this command goes to pytest. The exit code is pytest's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "timm_tests"


def unpack_tests(archive: Path, target: Path) -> None:
    """Unpack the tests and the settings of a timm source distribution: plain files only, none outside of `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = PurePosixPath(member.name).parts[1:]
            wanted = inside[:1] == ("tests",) or inside in (("pyproject.toml",), ("LICENSE",))
            if not (member.isfile() and wanted):
                continue
            if ".." in inside:
                raise SystemExit(f"{archive} holds the unsafe path {member.name}; delete the file and run again.")
            path = target.joinpath(*inside)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())


def fetch_tests(timm_version: str) -> Path:
    """The folder of timm's tests in this version, downloaded once."""
    folder = CACHE / timm_version
    if (folder / "tests" / "test_models.py").is_file():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "timm", "--dest", scratch]
        print(f"Downloading the source distribution of timm {timm_version}.", flush=True)
        done = subprocess.run([*command, f"timm=={timm_version}"], capture_output=True, text=True)
        archives = list(Path(scratch).glob("timm-*.tar.gz"))
        if done.returncode or not archives:
            raise SystemExit(f"pip could not download the source distribution of timm {timm_version}:\n{done.stderr}")
        unpack_tests(archives[0], Path(scratch, "unpacked"))
        if not Path(scratch, "unpacked", "tests", "test_models.py").is_file():
            raise SystemExit(f"The source distribution of timm {timm_version} holds no tests/test_models.py.")
        shutil.rmtree(folder, ignore_errors=True)
        Path(scratch, "unpacked").rename(folder)
    return folder


LEFT_OUT = ("torchscript", "load_pretrained", "features_pretrained")


class Selection:
    """pytest plugin: timm's tests of our models, smallest model first, without those of `LEFT_OUT`."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def pytest_configure(self, config: pytest.Config) -> None:
        if not config.pluginmanager.hasplugin("timeout"):
            config.addinivalue_line("markers", "timeout: obeyed where pytest-timeout is installed")

    def _size(self, item: pytest.Item) -> int | None:
        """Parameters of the model that a test case is about; None if it is not one of ours."""
        callspec = getattr(item, "callspec", None)
        name = callspec.params.get("model_name", "") if callspec else ""
        return self.sizes.get(name.split(".", 1)[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = [
            item
            for item in items
            if self._size(item) is not None and not any(word in item.originalname for word in LEFT_OUT)
        ]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = sorted(kept, key=self._size)


def include_intermediates(module: str) -> None:
    """Make `list_models(module=[...])` list `module` too.

    timm's tests of `forward_intermediates` are parametrised by a list of timm's module names; this adds ours to it.
    """
    import timm

    original = timm.list_models

    def list_models(*args, **kwargs):
        if isinstance(kwargs.get("module"), list):
            kwargs["module"] = [*kwargs["module"], module]
        return original(*args, **kwargs)

    timm.list_models = list_models


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", nargs="+", default=["*"], metavar="PATTERN", help="wildcards of model names")
    args, pytest_args = parser.parse_known_args(argv)

    # timm's tests read both when they are imported: the package to import, and whether to skip large models.
    os.environ["TORCH_BACKEND"] = "backbones"
    os.environ.pop("GITHUB_ACTIONS", None)
    sys.path.insert(0, str(ROOT))
    import timm

    import backbones

    names = [name for name in backbones.list_models() if any(fnmatch(name, pattern) for pattern in args.models)]
    if not names:
        print(f"No model is called {' or '.join(args.models)}; backbones.list_models() lists all.", file=sys.stderr)
        return pytest.ExitCode.USAGE_ERROR
    folder = fetch_tests(version("timm"))
    print(f"timm {version('timm')}, tests/test_models.py over {len(names)} models: {', '.join(names)}", flush=True)
    sizes = {n: sum(p.numel() for p in timm.create_model(n, device="meta").parameters()) for n in names}
    include_intermediates("backbones")
    files = ["-c", str(folder / "pyproject.toml"), "--rootdir", str(folder), str(folder / "tests" / "test_models.py")]
    return pytest.main([*files, "-p", "no:cacheprovider", *pytest_args], plugins=[Selection(sizes)])


if __name__ == "__main__":
    raise SystemExit(main())
