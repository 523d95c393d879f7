"""Devices, their memory and cores, and first weights that follow from a seed."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)

_COPIES = 4  # of the weights in a training: themselves, gradients, and two moments of the optimiser


def usable(device: str | torch.device) -> torch.device:
    """The device of that name, if this machine has it; else a ValueError lists those it has."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):  # torch's words for an unknown name
        found = None
    if found is not None and f"{found.type}:{found.index or 0}" in ("cpu:0", *_accelerators()):
        return found
    there = ", ".join(["cpu", *_accelerators()])
    raise ValueError(f"device {str(device)!r} cannot be used here; there is: {there}")


def seeded(make: Callable[[], N], seed: int) -> N:
    """A module whose first weights come from a seed; the global random state is left alone.

    Raises:
        ValueError: its weights, with what a training adds to them, do not fit into free memory.
    """
    try:
        with torch.device("meta"):  # sizes alone: nothing is allocated
            size = _COPIES * sum(weight.nbytes for weight in make().state_dict().values())
    except NotImplementedError:  # a network that looks at values while it is made
        size = 0
    except (RuntimeError, OverflowError) as error:  # torch's words for sizes beyond 64 bits
        raise ValueError(f"a network of these sizes cannot be made: {error}") from error
    free = free_memory()
    if free is not None and size > free:
        raise ValueError(
            f"a network of these sizes needs {size / 1e9:,.1f} GB of memory to be trained, and "
            f"{free / 1e9:,.1f} GB are free; choose smaller ones, e.g. fewer channels"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state
        torch.manual_seed(seed)
        return make()


def require_memory(
    n: int, measure: Callable[[], int], *, guess: int, device: str | torch.device = "cpu"
) -> None:
    """Refuse so many scans side by side as do not fit into free memory.

    Args:
        n: how many.
        measure: memory of one, in bytes. It takes a scan's time, and is called only where a
            generous guess does not fit.
        guess: that guess, in bytes.
        device: where they are to be.

    Raises:
        ValueError: too many; it says how many fit.
    """
    free = free_memory(device)
    if free is None or n * guess <= free:
        return
    each = measure()
    if n * each > free:
        raise ValueError(
            f"{n} scans side by side need {n * each / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free: at most {int(free // each)} fit"
        )


def free_memory(device: str | torch.device = "cpu") -> int | None:
    """Bytes that may still be taken, or None where the system does not tell."""
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if kind != "cpu":
        return None
    meminfo = _numbers("/proc/meminfo")
    found = [meminfo["MemAvailable:"] * 1024] if "MemAvailable:" in meminfo else []
    # Limits of a container, by the second and the first version of control groups; of what it
    # uses, the cache of files is given back when memory is short.
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, taken = (_text(f"{folder}/{name}").strip() for name in (limit, used))
        if most.isdigit() and taken.isdigit():
            stat = _numbers(f"{folder}/memory.stat")
            cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            found.append(max(0, int(most) - int(taken) + cache))
    return min(found, default=None)


def _text(path: str) -> str:
    """A file of the system; empty where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _numbers(path: str) -> dict[str, int]:
    """The same of a file of lines "name number"."""
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def take_threads(n: int) -> None:
    """Let torch compute with so many threads; a line on stderr where the cores are not free.

    Threads that wait for a busy core hold up all others: steps with a network took ten times as
    long with two threads on two busy cores as with one.
    """
    torch.set_num_threads(n)
    cores, busy = cores_and_load()
    if n > max(1, round(cores - busy)):
        sys.stderr.write(
            f"activemri: {n} threads, but of {cores} core(s) about {max(0.0, cores - busy):.0f} "
            "are free: --threads 1 is likely to be faster\n"
        )


def cores_and_load() -> tuple[int, float]:
    """Cores that this process may use, and how many were busy in the last minute, if it is known.

    That is of the whole machine.
    """
    many = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return many or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones; nothing elsewhere.

    By default it gives large blocks back to the system after every layer of a network, and gets
    them again page by page, zeroed. Measured on one thread: a U-Net's training step on 384 x 384
    takes 29 % less time without that, on 256 x 256 16 %, a step with cresnet at 128 x 128 up to
    20 %; zero-filled steps the same.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def _accelerators() -> list[str]:
    """Names of all devices, the CPU aside."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = [f"cuda:{index}" for index in range(n_gpus)]
    return [*there, "mps:0"] if torch.backends.mps.is_available() else there
