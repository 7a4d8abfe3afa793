"""What only separate processes show: cooperation, a full disk, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.checkpoints.zoo import as_published, listing, tiny_state

ROOT = Path(__file__).parents[2]
STATE = tiny_state()
BODY = as_published(STATE)


def environment(store) -> dict[str, str]:
    return {
        **os.environ,
        "BACKBONES_CHECKPOINTS": str(store.folder),
        "PYTHONPATH": str(ROOT),
    }


def start(store, *argv: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.checkpoints.child", *argv]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_two_processes_download_once(server, store):
    """The second one comes while the first is downloading, waits, and takes what it finds then."""
    gate = threading.Event()
    url = server.put("nat_mini.pth", BODY, gate=gate)
    processes = [start(store, url, "create") for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    time.sleep(1)  # from there to the lock
    gate.set()
    total = sum(value.double().sum().item() for value in STATE.values())
    for code, out, err in [finish(process) for process in processes]:
        assert code == 0, err
        assert float(out) == pytest.approx(total)
    assert len(server.requests) == 1
    assert sorted(listing(store.folder)) == ["nat_m.in1k.json", "nat_m.in1k.safetensors"]


@pytest.mark.parametrize("what", ["download", "conversion"])
def test_full_disk(server, store, what):
    """The download does not fit, or it does and its conversion does not."""
    state = dict(STATE)
    if what == "conversion":  # one number that stands for a whole matrix makes the published file the smaller one
        key = "stages.3.blocks.0.mlp.fc1.weight"
        state[key] = torch.full((1, 1), 0.1).expand(state[key].shape)
    body = as_published(state)
    room = len(BODY) // 2 if what == "download" else (len(body) + len(BODY)) // 2
    url = server.put("nat_mini.pth", body)
    code, _, err = finish(start(store, "--limit", str(room), url, "get", "nat_m"))
    assert code == 2
    message = err.splitlines()[-1]
    assert message.startswith(f"error: Cannot write to the store {store.folder} (")
    assert message.endswith("free some space or name another folder in $BACKBONES_CHECKPOINTS.")
    assert "Traceback" not in err
    assert len(server.requests) == 1
    assert not listing(store.folder)
    assert [path.name for path in store.work.iterdir() if path.suffix != ".lock"] == []


def test_tool_ends_with_a_sentence(store, tmp_path):
    """The command as people type it."""
    command = [sys.executable, "tools/checkpoint.py", "--store", str(store.folder), "identify", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, env=environment(store), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: Cannot read {tmp_path / 'none'}: No such file or directory.\n"
