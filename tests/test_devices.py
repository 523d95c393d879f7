import ctypes
import os
import platform
from types import SimpleNamespace

import pytest
import torch

from activemri import devices
from activemri.data.slices import SliceList
from activemri.devices import (
    free_memory,
    keep_freed_memory,
    require_memory,
    take_threads,
    usable,
)
from activemri.envs.vector_env import ActiveMRIVectorEnv
from tests.envs.scans import scan


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu_can_always_be_used(device: str | torch.device) -> None:
    assert usable(device).type == "cpu"


@pytest.mark.parametrize("device", ["foo", "cuda:99", "cuda:", "", "meta", None])
def test_what_is_no_device_here_is_refused_with_those_that_are(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{device}' cannot be used here; there is: cpu"):
        usable(device)


def test_a_graphics_card_is_asked_for_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_accelerators", lambda: ["cuda:0", "cuda:1"])
    assert usable("cuda") == torch.device("cuda")
    assert usable("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="'cuda:2' cannot be used here; there is: cpu, cuda:0, "):
        usable("cuda:2")


def test_cuda_without_a_graphics_card_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' cannot be used here; there is: cpu"):
        usable("cuda")


def test_more_scans_than_memory_holds_are_refused_with_the_number_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda device: 10_000_000_000)
    require_memory(100, lambda: 10**8, guess=10**9)
    with pytest.raises(ValueError, match=r"101 scans .* need 10.1 GB .* 10.0 GB are free: .* 100"):
        require_memory(101, lambda: 10**8, guess=10**9)


def test_scans_that_fit_by_a_guess_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda device: 1000)
    require_memory(10, lambda: pytest.fail("measured"), guess=100)
    monkeypatch.setattr(devices, "free_memory", lambda device: None)  # the system does not tell
    require_memory(10**6, lambda: pytest.fail("measured"), guess=100)


def test_an_environment_of_too_many_scans_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scans = SliceList([scan()])
    held = ActiveMRIVectorEnv(num_envs=1, data=scans).episodes.scan.start([scans[0]]).nbytes
    monkeypatch.setattr(devices, "free_memory", lambda device: 4 * held)
    ActiveMRIVectorEnv(num_envs=2, data=scans)
    with pytest.raises(ValueError, match=r"5 scans side by side .* at most 2 fit"):
        ActiveMRIVectorEnv(num_envs=5, data=scans)


def test_free_memory_is_the_smaller_of_the_machine_s_and_the_container_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {"/proc/meminfo": "MemTotal: 900 kB\nMemAvailable:   500 kB\n"}
    monkeypatch.setattr(devices, "_text", lambda path: files.get(path, ""))
    assert free_memory() == 500 * 1024
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert free_memory() == 500 * 1024
    files |= {"/sys/fs/cgroup/memory.max": "9000\n", "/sys/fs/cgroup/memory.current": "8000\n"}
    assert free_memory() == 1000
    files["/sys/fs/cgroup/memory.stat"] = "anon 7000\ninactive_file 500\n"
    assert free_memory() == 1500
    files.clear()
    assert free_memory() is None


def test_threads_that_find_no_free_core_are_worth_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.3, 0.0, 0.0), raising=False)
    take_threads(4)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (2.1, 0.0, 0.0), raising=False)
    take_threads(1)
    take_threads(2)
    assert capsys.readouterr().err == ""
    take_threads(3)
    assert capsys.readouterr().err == (
        "activemri: 3 threads, but of 4 core(s) about 2 are free: --threads 1 is likely to be "
        "faster\n"
    )


def test_freed_memory_is_kept_where_the_library_is_glibc_and_elsewhere_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    library = SimpleNamespace(mallopt=lambda option, value: asked.append(option))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    keep_freed_memory()
    assert sorted(asked) == [-4, -1]
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    keep_freed_memory()
    assert len(asked) == 2
