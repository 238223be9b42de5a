"""What a measurement was made with."""

import os
import platform

import torch

from excise.version import __version__


def environment() -> dict[str, object]:
    """Give versions and hardware."""
    return {
        "excise": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
