import pytest
import torch

from activemri import devices
from activemri.devices import usable


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
