"""Where `pretrained=True` finds its weights: the local store first, then the tag's address."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg, resolve_pretrained_cfg
from torch import nn

from backbones.checkpoints.convert import Entry, classes_of, convert, entry, fitted, try_out
from backbones.checkpoints.download import download
from backbones.checkpoints.errors import WeightsError
from backbones.checkpoints.reading import averaged, read_checkpoint
from backbones.checkpoints.store import Store, file_sha256, storing
from backbones.models import family_of

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")


def file_names(row: Entry) -> tuple[str, ...]:
    """Names under which a published file may be put into the store by hand."""
    published = Path(urlsplit(row.weights.url or "").path)
    named = [published.name] if published.suffix in _SUFFIXES else []
    return (f"{row.name}.pth", f"{row.name}.safetensors", *named)


def dropped(store: Store, row: Entry) -> Path | None:
    """A published file that somebody put into the store."""
    found = (store.folder / name for name in file_names(row))
    return next((path for path in found if path.is_file()), None)


def locate(name: str, store: Store | None = None, *, progress: bool = True) -> Path | None:
    """The file of the weights `name` in the store, downloaded or converted if need be.

    Args:
        name: Model with or without tag.
        store: The default one if None.
        progress: Show the progress of a download.

    Returns:
        Its path; None where the weights are on the Hugging Face Hub and not in the store, to be loaded by timm.

    Raises:
        WeightsError: They cannot be had, or are not what they should be.
    """
    row, store = entry(name), store or Store()
    path = _checked(store, row.name)
    if path is not None:
        return path
    given = dropped(store, row)
    if given is None and not row.weights.url:
        if row.weights.hf_hub_id:
            return None
        raise _by_hand(row, store)
    with store.lock(row.name):
        path = store.check(row.name)  # another process may have been first
        if path is not None:
            return path
        given = dropped(store, row)
        return _adopt(store, row, given) if given is not None else _fetch(store, row, progress)


def _checked(store: Store, name: str) -> Path | None:
    try:
        return store.check(name)
    except WeightsError:
        if not store.work.is_dir():
            raise
        with store.lock(name):  # another process may have been replacing it
            return store.check(name)


def _by_hand(row: Entry, store: Store) -> WeightsError:
    where = store.folder / file_names(row)[0]
    if row.weights.page:
        return WeightsError(
            f"The weights {row.name} are behind a page that a program cannot download from: get the file from "
            f"{row.weights.page} and save it as {where}."
        )
    return WeightsError(f"The weights {row.name} are not published: save a file of your own as {where}.")


def _adopt(store: Store, row: Entry, path: Path, source: str | None = None) -> Path:
    """Convert a local file into the store."""
    digest = file_sha256(path)
    _expect(store, row, digest, str(path))
    state = convert(read_checkpoint(path), row.name, str(path))
    return _put(store, row, state, source or row.weights.url or row.weights.page or path.name, digest)


def _fetch(store: Store, row: Entry, progress: bool) -> Path:
    """Download, check and convert into the store."""
    part = store.work / f"{row.name}.part"
    url = row.weights.url
    with storing(store.folder):
        download(url, part, progress=progress)
    try:
        digest = file_sha256(part)
        _expect(store, row, digest, url)
        try:
            checkpoint = read_checkpoint(part)
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(part), f"The file at {url}")) from error
        return _put(store, row, convert(checkpoint, row.name, f"The file at {url}"), url, digest)
    finally:
        part.unlink(missing_ok=True)


def _put(store: Store, row: Entry, state: Mapping[str, torch.Tensor], source: str, digest: str) -> Path:
    return store.put(
        row.name,
        state,
        source=source,
        source_sha256=digest,
        license=row.family.license,
        num_classes=classes_of(state, row.family.classifier),
    )


def _expect(store: Store, row: Entry, digest: str, source: str) -> None:
    """Compare a published file with the known digest, or with that of the first download."""
    record = store.record(row.name)
    known = row.weights.sha256 or (record.source_sha256 if record else None)
    if known and known != digest:
        remedy = "" if row.weights.sha256 else f", or delete {store.sidecar(row.name)} if it was changed on purpose"
        raise WeightsError(
            f"{source} is not the published file (its sha256 is {digest}, expected is {known}): try again{remedy}."
        )


def get(name: str, store: Store | None = None, *, force: bool = False, progress: bool = True) -> Path:
    """Have the weights `name` in the store, those of the Hugging Face Hub included.

    Args:
        name: Model with or without tag.
        store: The default one if None.
        force: Fetch again what is there; the old file is kept if that fails.
        progress: Show the progress of a download.

    Raises:
        WeightsError: As for `locate`.
    """
    row, store = entry(name), store or Store()
    if force and row.weights.url:
        with store.lock(row.name):
            return _fetch(store, row, progress)
    path = None if force else locate(row.name, store, progress=progress)
    if path is not None:
        return path
    if not row.weights.hf_hub_id:
        raise _by_hand(row, store)
    with store.lock(row.name):
        hub = get_pretrained_cfg(row.name).hf_hub_id
        return _adopt(store, row, _from_hub(hub), f"https://huggingface.co/{hub}")


def _from_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except OSError as error:  # the hub's own errors derive from it
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise WeightsError(f"Cannot fetch {repository} from the Hugging Face Hub: {reason}.") from error


def load(name: str, store: Store | None = None) -> nn.Module:
    """The model `name` (with or without tag) with its published weights, those in the store first.

    Models that timm builds know nothing of the store; here they are loaded from it, too.

    Raises:
        WeightsError: As for `locate`.
    """
    row, store = entry(name), store or Store()
    if not row.family.built_by_timm:
        return timm.create_model(row.name, pretrained=True, cache_dir=store.folder)
    path = locate(row.name, store)
    overlay = {"file": str(path), "state_dict": read_checkpoint(path)} if path else {}
    model = timm.create_model(row.name, pretrained=True, pretrained_cfg_overlay=overlay)
    model.pretrained_cfg.pop("state_dict", None)  # a second copy of the weights
    return model


def convert_file(path: str | Path, name: str, store: Store | None = None) -> Path:
    """Convert a checkpoint into the store as the weights `name`, after a forward pass of the model with them.

    Raises:
        WeightsError: It does not fit, or the model computes nonsense with it.
    """
    row, store, path = entry(name), store or Store(), Path(path)
    state = convert(read_checkpoint(path), row.name, str(path))
    try_out(state, row.name)
    with store.lock(row.name):
        return _put(store, row, state, path.name, file_sha256(path))


def pretrained_args(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry point hands to timm's model builder for `pretrained=True`.

    The store's file takes the place of the tag's address. Files, those of the caller and of a `local-dir:` too, are
    read here rather than by timm, so that damaged ones are told in a sentence. Other sources that the caller names (a
    state dict, an address or a hub repository in `pretrained_cfg` or its overlay) are left to timm.

    Args:
        name: Model without tag.
        kwargs: Those of `timm.create_model`.

    Raises:
        WeightsError: The weights cannot be had.
    """
    overlay, file = dict(kwargs.get("pretrained_cfg_overlay") or {}), None
    cfg = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), overlay)
    tags = family_of(name).variants[name].weights
    published = f"{name}.{cfg.tag}" if cfg.tag else name
    if cfg.tag in (None, *tags) and _sources(cfg) == _sources(get_pretrained_cfg(published)):
        store = Store(kwargs.get("cache_dir"))
        path = locate(published, store)
        if path is not None:
            overlay["file"] = file = str(path)
            overlay.setdefault("num_classes", store.record(path.stem).num_classes)
    elif cfg.file and not cfg.state_dict and not cfg.source:
        file = str(cfg.file)
    elif cfg.source == "local-dir":
        path = next((path for name in _HUB_FILES if (path := Path(cfg.file, name)).is_file()), None)
        if path is not None:
            overlay |= {"source": "", "file": str(path)}
            file = str(path)
    if file is not None:
        overlay["state_dict"] = {"file": file}  # keeps timm from reading it; the filter does
    head_dropped = bool(kwargs.get("features_only"))
    return {
        "pretrained_cfg_overlay": overlay,
        "pretrained_filter_fn": partial(_load_filter, name, head_dropped, file),
    }


def _sources(cfg: PretrainedCfg) -> list[Any]:
    return [getattr(cfg, key) or None for key in _SOURCES]


def _load_filter(
    name: str, head_dropped: bool, file: str | None, state_dict: Mapping[str, Any], model: nn.Module
) -> dict:
    """timm's checkpoint filter: our names, checked; from the file `file` unless it is None."""
    cfg = model.pretrained_cfg
    if file is not None:
        del cfg["state_dict"]
        state_dict = averaged(read_checkpoint(file))
    source = cfg.get("file") or ("The given state dict" if cfg.get("state_dict") else cfg.get("url"))
    return fitted(state_dict, model, name, str(source), head_dropped)
