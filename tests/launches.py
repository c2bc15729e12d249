"""Starts the training script for real, ends it, and reads what it left."""

import csv
import os
import resource
import signal
import subprocess
import sys
import time

import torch
from conftest import REFERENCE
from PIL import Image

# A few seconds a run: 5 batches of 32 images an epoch, the last of them smaller.
QUICK = (
    "--model", "allcnn", "--width", "0.04", "--batch-size", "32", "--flip", "0",
    "--train-images", "150", "--test-images", "32", "--epochs", "2",
)  # fmt: skip
TIMES = {"images_per_second"}


def command(*arguments, processes=1, launcher=(), script=REFERENCE / "train.py"):
    if processes > 1:
        port = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
        count = ("--nproc_per_node", processes)
        launcher = ("-m", "torch.distributed.run", *port, *count, *launcher)
    train = (script, "--device", "cpu")
    return [str(c) for c in (sys.executable, *launcher, *train, *arguments)]


def start(*arguments, largest=None, environment=None, **how):
    """The process, with its output in pipes; it may write files of `largest` bytes."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead, as on a disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        command(*arguments, **how),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | own | (environment or {}),
        preexec_fn=limit if largest else None,
    )


def launch(*arguments, **how):
    """Status, output and errors of a run that ends by itself."""
    return finish(start(*arguments, **how))


def finish(process, timeout=300):
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(path, process, version=None):
    """Waits until the file is there, and another than that version; returns its own."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and (found := path.stat().st_mtime_ns) != version:
            return found
        time.sleep(0.002)
    process.kill()
    raise AssertionError(finish(process).stderr)


def workers(process):
    """Process ids of the launcher's children that train."""
    listed = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid=,args="],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [int(line.split()[0]) for line in listed if "train.py" in line]


def read(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(folder):
    return torch.load(folder / "model.pth", weights_only=True)["model"]


def assert_same_end(ours, theirs, tolerance=0.0):
    """The same weights, and the same metrics but for the times."""
    expected = weights(theirs)
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance)
    for row, reference in zip(read(ours), read(theirs), strict=True):
        assert row.keys() == reference.keys()
        for name in row.keys() - TIMES:
            if tolerance:
                assert abs(float(row[name]) - float(reference[name])) < 1e-4, name
            else:
                assert row[name] == reference[name], name


def picture_folder(root, classes=("cat", "dog"), size=(14, 12)):
    """Six coloured squares of each class in train/, two in val/."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(120, (*size, 3), generator=generator)
                pixels = (noise + 100 * label).byte().numpy()
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root
