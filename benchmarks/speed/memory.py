"""Memory of a device: what is free, and the most that a block of work held.

For the processor the peak is the process' resident memory, which Linux lets a process reset; where
it cannot be reset it is the peak since the process began.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.core import Phases

PROCESS = Path("/proc/self")
MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
GIB = 2**30


def start_peak(device: str) -> None:
    """Forget the peak so far."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes(device: str) -> int:
    """Most memory held since `start_peak`, in bytes."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    return _kilobytes(PROCESS / "status", "VmHWM:") or Phases.peak_memory_bytes()


def free_bytes(device: str) -> int | None:
    """Memory that can still be had, in bytes; None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    machine = _kilobytes(MEMINFO, "MemAvailable:")
    try:  # a container may be given less than the machine has
        most = int((GROUP / "memory.max").read_text())
        used = int((GROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return machine
    return min(most - used, most if machine is None else machine)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in said)


def _kilobytes(path: Path, name: str) -> int | None:
    """The value of a line `name  123 kB`, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(name)]
    return int(found[0]) * 1024 if found else None
