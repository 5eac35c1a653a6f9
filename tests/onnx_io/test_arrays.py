"""Arrays that are saved are read back, and a disk that does not take their last bytes is an error."""

import errno

import numpy as np
import pytest

from patch_compile.onnx_io.arrays import load_array, save_array
from tests.attacks.faults.shim import COMPILER, Fault, work_under


@pytest.mark.parametrize(
    "array", [np.arange(12, dtype=np.float32).reshape(3, 4).T, np.float32(1.5), np.zeros((0, 3))]
)
def test_what_is_saved_is_read_back(tmp_path, array):
    save_array(tmp_path / "a.npy", array)
    for found in (load_array(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")):
        assert found.dtype == array.dtype and np.array_equal(found, array)


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("fault", [Fault.EIO, Fault.FULL])
def test_bytes_that_the_disk_does_not_take_are_an_error(tmp_path, fault):
    work = 'import patch_compile.onnx_io.arrays as a, numpy; a.save_array(folder / "a.npy", numpy.ones(1000, "u1"))'
    _, _, operations = work_under(Fault.NONE, 0, tmp_path / "whole", work)
    written = [i for i, (name, _) in enumerate(operations, 1) if name == "write"]
    for at in written:
        number = errno.EIO if fault == Fault.EIO else errno.ENOSPC
        assert work_under(fault, at, tmp_path / f"at-{at}", work)[1] == str(number)


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_bytes_that_the_disk_does_not_give_are_an_error(tmp_path):
    work = 'import patch_compile.onnx_io.arrays as a; a.load_array(folder / "a.npy")'
    for at in (1, 2, 3):  # to open it, its beginning, its content
        (tmp_path / f"at-{at}").mkdir()
        np.save(tmp_path / f"at-{at}" / "a.npy", np.ones(100_000, "u1"))
        assert work_under(Fault.EIO_READ, at, tmp_path / f"at-{at}", work)[1] == str(errno.EIO)
