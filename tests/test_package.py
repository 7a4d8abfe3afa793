"""The package as a whole: what importing it costs and changes, and which way its imports point."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import backbones

PACKAGE = Path(backbones.__file__).parent
ROOT = PACKAGE.parent

# Subpackages, with the modules beside them. These may import from no others than
MAY_IMPORT = {
    "ops": {"ops", "_compat"},
    "layers": {"layers", "ops", "_compat"},
    "models": {"models", "layers", "ops", "_compat"},
    "features": {"models", "layers", "utils"},
    "utils": {"utils", "ops", "_compat"},
}
# and these must not import from those: training knows models through timm only.
MUST_NOT_IMPORT = {
    "train": {"models", "layers", "dense", "export", "visualize", "site"},
    "dense": {"train", "export", "visualize", "site"},
    "checkpoints": {"train", "dense", "export", "visualize", "site"},
}
# Subpackages of training: each may import from those after it.
TRAINING = ("cli", "loop", "evaluation", "data", "options")
HEAVY = (
    "mmengine",
    "mmcv",
    "mmdet",
    "mmseg",
    "natten",
    "matplotlib",
    "sklearn",
    "tensorboard",
    "rich",
    "onnx",
    "pandas",
)


def _in_a_fresh_interpreter(code: str) -> object:
    """The JSON that `code` prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _sources() -> list[Path]:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 10
    return paths


def _imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every `(module, name)` that a file imports, at its top or inside of a function; name is None for `import x`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((module, alias.name) for alias in node.names)


def _modules_of_ours(path: Path) -> set[str]:
    """Our modules that a file imports, as dotted paths below the package."""
    found = set()
    for module, name in _imports(path):
        full = f"{module}.{name}" if name else module
        if full.split(".")[0] == "backbones":
            parts = full.split(".")[1:]
            while parts and not (
                PACKAGE.joinpath(*parts).is_dir() or PACKAGE.joinpath(*parts).with_suffix(".py").is_file()
            ):
                parts.pop()  # a name defined in the module
            found.add(".".join(parts))
    return found


def _families() -> set[str]:
    return {path.parent.name for path in (PACKAGE / "models").glob("*/weights.py")}


def _subpackage(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def test_importing_brings_nothing_heavy():
    loaded = _in_a_fresh_interpreter("import sys, json, backbones; print(json.dumps(list(sys.modules)))")
    assert "backbones.models" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)
    assert not [
        name for name in loaded if name.startswith(("backbones.train", "backbones.dense", "backbones.checkpoints"))
    ]


def test_importing_costs_little_more_than_timm():
    extra = _in_a_fresh_interpreter(
        "import sys, json, timm; before = set(sys.modules); import backbones;"
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    assert set(extra) - set(sys.stdlib_module_names) <= {"backbones", "sympy", "mpmath"}


def test_no_name_of_timm_is_overwritten():
    changed = _in_a_fresh_interpreter(
        "import json, timm; from timm.models import model_entrypoint as entry;"
        "before = {name: entry(name) for name in timm.list_models()};"
        "tags = set(timm.list_models(include_tags=True));"
        "import warnings; warnings.simplefilter('error', UserWarning); import backbones;"
        "after = set(timm.list_models());"
        "print(json.dumps([[n for n in before if n not in after or entry(n) is not before[n]],"
        "sorted(after - set(before)), len(tags - set(timm.list_models(include_tags=True)))]))"
    )
    overwritten, new, lost_tags = changed
    assert not overwritten and not lost_tags
    assert new == sorted(backbones.list_models())


def test_families_are_found():
    """A subpackage of `backbones.models` is a family by being there."""
    families = _families()
    assert len(families) >= 10 and all(f"backbones.models.{family}" in sys.modules for family in families)


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", backbones.__version__)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: backbones._version.__version__"
    assert f"## {backbones.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_everything_is_installed():
    built = _in_a_fresh_interpreter(
        "import json, setuptools; from distutils.core import run_setup;"
        "done = run_setup('setup.py', stop_after='config'); print(json.dumps([done.packages, done.py_modules]))"
    )
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("*.py")}
    assert set(built[0]) == folders | {"backbones.configs", "backbones.configs.imagenet"}
    assert built[1] == [path.stem for path in ROOT.glob("*.py") if path.stem != "setup"]


def test_imports_point_down():
    subpackages = {_subpackage(path) for path in _sources()}
    assert subpackages >= {"layers", "models", "train"}
    wrong = []
    for path in _sources():
        subpackage = _subpackage(path)
        for module in _modules_of_ours(path):
            used = module.split(".")[0]
            known = subpackage not in MAY_IMPORT or used in {*MAY_IMPORT[subpackage], "", "_version"}
            if not known or used in MUST_NOT_IMPORT.get(subpackage, ()):
                wrong.append(f"{path.relative_to(ROOT)} imports backbones.{module}")
            elif subpackage in MAY_IMPORT and used == "":
                wrong.append(f"{path.relative_to(ROOT)} imports the package that imports it")
    assert not wrong, "; ".join(wrong)


def test_there_are_no_circles_of_imports():
    uses: dict[str, set[str]] = {}
    for path in _sources():
        subpackage = _subpackage(path)
        if subpackage != "__init__":
            used = {module.split(".")[0] for module in _modules_of_ours(path)}
            uses.setdefault(subpackage, set()).update(used - {subpackage, ""})
    # Taking away subpackages that use none of the others must take away all.
    while done := {subpackage for subpackage, used in uses.items() if not used & set(uses)}:
        for subpackage in done:
            del uses[subpackage]
    assert not uses, f"import each other: {uses}"


def test_training_imports_point_down():
    wrong = []
    for position, part in enumerate(TRAINING):
        for path in (PACKAGE / "train" / part).glob("*.py"):
            used = {module.split(".")[1] for module in _modules_of_ours(path) if module.startswith("train.")}
            wrong += [f"{path.relative_to(ROOT)} imports train.{other}" for other in used - set(TRAINING[position:])]
    assert not wrong, "; ".join(wrong)
    assert {path.parent.name for path in (PACKAGE / "train").glob("*/*.py")} == set(TRAINING)


def test_families_do_not_know_each_other():
    families = _families()
    assert families
    for family in families:
        for path in (PACKAGE / "models" / family).glob("*.py"):
            used = {module.removeprefix("models.").split(".")[0] for module in _modules_of_ours(path)}
            assert not used & families - {family}, f"what {family} shares with another family belongs to layers"


def test_optional_libraries_stay_where_they_belong():
    for path in _sources():
        libraries = {module.split(".")[0] for module, _ in _imports(path)}
        if _subpackage(path) != "dense":
            assert not libraries & {"mmengine", "mmcv", "mmdet", "mmseg"}, path
        if _subpackage(path) in ("ops", "layers", "models", "_compat", "_version", "__init__"):
            assert not libraries & {"matplotlib", "sklearn", "tensorboard", "rich", "yaml", "PIL"}, path
    assert sum("natten" in {m.split(".")[0] for m, _ in _imports(path)} for path in _sources()) <= 1


def _attribute_chain(node: ast.Attribute) -> list[str]:
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def test_private_parts_of_timm_and_torch_are_used_in_one_file_only():
    def private(names: list[str]) -> bool:
        theirs = names[:1] in (["timm"], ["torch"], ["torchvision"])
        return theirs and any(name.startswith("_") and not name.startswith("__") for name in names)

    found = []
    for path in _sources():
        if path.name == "_compat.py":
            continue
        for module, name in _imports(path):
            if private([*module.split("."), name or ""]):
                found.append(f"{path.relative_to(ROOT)}: {module} {name or ''}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and private(_attribute_chain(node)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {'.'.join(_attribute_chain(node))}")
    assert not found, "; ".join(found)


def test_every_module_states_its_purpose():
    for path in _sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or path.name in ("_version.py", "__init__.py"), f"{path} has no docstring"
