import torch

from masklearn.device import available_memory


def test_there_is_memory() -> None:
    assert 2**20 < available_memory(torch.device("cpu")) < 2**50
