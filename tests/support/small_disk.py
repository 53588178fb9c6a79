"""A file system of 64 KiB, for what a full or a read-only disk does."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mounted there; the test is skipped where that is not allowed."""
    folder.mkdir()
    mounted = os.getuid() == 0 and subprocess.call(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]) == 0
    if not mounted:
        pytest.skip("only root, outside a container, can mount a file system")
    yield folder
    subprocess.check_call(["umount", "--lazy", folder])
