import pytest
import torch

from masklearn.device import available_memory, usable_device
from masklearn.errors import PatchCompileError, UsageError


def test_there_is_memory() -> None:
    assert 2**20 < available_memory(torch.device("cpu")) < 2**50


def test_a_device_is_refused_as_a_wrong_setting_or_as_a_lack_of_this_machine() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"'nonsense' cannot be used\. PyTorch has no device of this name"):
        usable_device("nonsense")
    with pytest.raises(PatchCompileError, match="'cuda:99' cannot be used") as caught:
        usable_device("cuda:99")
    assert caught.value.exit_code == 1
