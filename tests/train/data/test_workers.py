"""Loader processes under signals, and the failures of the machine that they meet. Real processes, really killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from backbones.train.data.workers import Loader
from backbones.utils.failures import explain_failure, is_out_of_memory

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = """--model test_vit img_size=32 model_kwargs.patch_size=8 device=cpu workers=2 batch_size=16 epochs=500
log_interval=1 no_benchmark=true --experiment run"""


@contextlib.contextmanager
def training(output, *more, before=""):
    """A training process in a group of its own; whatever is left of the group at the end is killed."""
    program = (
        f"import sys; sys.argv[0] = 'train.py'; {before}\nfrom backbones.train.cli.train import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *OPTIONS.split(), "--output", str(output), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_step(process):
    for line in process.stdout:
        if " step 3/" in line:
            return
    pytest.fail(process.stderr.read())


def children_of(process):
    """The loader processes: children, without Python's resource tracker."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(pid) for pid, parent, *args in rows if int(parent) == process.pid and "tracker" not in str(args)]


def assert_group_is_gone(process):
    for _ in range(200):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes were left behind")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_and_ends_all(number, tmp_path):
    """As schedulers and Ctrl-C do it; the main process gets it twice, as from coreutils' timeout."""
    with training(tmp_path) as process:
        wait_for_step(process)
        assert len(children_of(process)) == 2
        process.send_signal(number)
        os.killpg(process.pid, number)
        out, error = process.communicate(timeout=120)
        assert process.returncode == 130, error
        assert f"Stopped by {number.name}; saved at epoch 0" in out and "Traceback" not in error
        state = torch.load(tmp_path / "run" / "last.state.pt", weights_only=True)
        assert state["updates"] >= 3
        assert_group_is_gone(process)


def test_a_killed_worker_ends_the_run_with_one_sentence(tmp_path):
    with training(tmp_path) as process:
        wait_for_step(process)
        os.kill(children_of(process)[0], signal.SIGKILL)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 3
        assert "A loader process was killed from outside" in error and len(error.strip().splitlines()) == 1
        assert_group_is_gone(process)


def test_little_shared_memory_is_one_sentence(tmp_path):
    """No file may grow: the worker cannot put its batch into shared memory."""
    limit = (
        "import resource, signal; import backbones.train.loop.run; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "import torch.multiprocessing.reductions as r, backbones.train.data.workers as w; o = w._outlive_signals; "
        "w._outlive_signals = lambda *a: (o(*a), resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))"
    )
    with training(tmp_path, before=limit) as process:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 3, error
        assert "ran out of shared memory (/dev/shm): pass --workers 0" in error
        assert len(error.strip().splitlines()) == 1
        assert_group_is_gone(process)


ALLOCATE = """
import resource, sys
sys.argv[0] = "train.py"
import torch, torchvision, timm, matplotlib.figure, torch.utils.tensorboard, sklearn.datasets
import backbones.train.loop.run
from backbones.train.cli.train import main

class Hungry(torch.nn.Module):
    "Takes 16 MiB for each image, beside which nothing else counts."
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.fc = torch.nn.Linear(in_chans, num_classes)
    def forward(self, x):
        torch.empty(len(x), 16 * 2**20, dtype=torch.uint8)
        return self.fc(x.mean((2, 3)))

default_cfgs = timm.models.generate_default_cfgs({"hungry": {"input_size": (3, 32, 32)}})

@timm.models.register_model
def hungry(pretrained=False, num_classes=10, in_chans=3, **kwargs):
    return Hungry(num_classes, in_chans)

torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1500 * 2**20, resource.RLIM_INFINITY))
sys.exit(main())
"""


def allocate(output, *more):
    """Trains where 64 images fit, and 128 do not."""
    words = "--model hungry img_size=32 device=cpu workers=0 batch_size=256 epochs=1 no_benchmark=true"
    more = ("overfit=256", "validation_batch_size=8", *more)
    return subprocess.run(
        [sys.executable, "-c", ALLOCATE, *words.split(), "--output", str(output), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_memory_of_the_cpu_that_runs_out_is_one_sentence(tmp_path):
    done = allocate(tmp_path)
    assert done.returncode == 3, done.stderr
    assert "Out of memory with a batch of 256 images" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "A batch of 64 fits: --batch-size 64 --grad-accum-steps 4" in done.stderr


def test_batches_are_halved_until_they_fit_on_the_cpu(tmp_path):
    done = allocate(tmp_path, "--auto-batch-halving", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "out of memory: now 128 images x 2 accumulation steps" in done.stdout
    assert "out of memory: now 64 images x 4 accumulation steps" in done.stdout and "dry run: two" in done.stdout
    assert "global batch 256 = 64 images x 1 processes x 4 accumulation steps" in done.stdout


class Holes(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return ValueError("the sixth is a hole") if index == 5 else torch.tensor(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_that_the_dataset_returns_is_raised_as_it_is(workers):
    batches = iter(Loader(Holes(), workers, batch_size=2))
    assert [next(batches).tolist(), next(batches).tolist()] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match=r"^the sixth is a hole$"):
        next(batches)


def test_failures_are_told_apart():
    allocator = RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory")
    assert is_out_of_memory(allocator) and is_out_of_memory(MemoryError())
    inside = RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback\n{allocator}")
    assert not is_out_of_memory(inside)
    assert explain_failure(inside).startswith("A loader process ran out of memory")
    assert explain_failure(OSError(28, "No space left on device", "/x/y")) == "No space left on device: /x/y."
    bus = RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit."
    )
    assert "--shm-size" in explain_failure(bus)
    assert explain_failure(RuntimeError("shapes differ")) is None
    assert explain_failure(KeyError("a bug")) is None
