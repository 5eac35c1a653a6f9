"""Cholesky factors and inverses: the values of LAPACK in fp64, and the same bytes with any number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from masklearn.solvers.obs import cholesky, inverse_of_factor, upper_factor_of_inverse


def hessian(size: int) -> torch.Tensor:
    x = torch.randn(size + 40, size, generator=torch.Generator().manual_seed(size))
    return x.T @ x / len(x) + 0.1 * torch.eye(size)


@pytest.mark.parametrize("size", [1, 4, 127, 128, 129, 700])
def test_factors_and_inverses_are_those_of_lapack(size: int) -> None:
    matrix = hessian(size)
    lower, exact = cholesky(matrix), matrix.double()
    assert lower is not None
    torch.testing.assert_close(lower.double(), torch.linalg.cholesky(exact), rtol=1e-4, atol=1e-5)
    upper = upper_factor_of_inverse(matrix)
    assert upper is not None and torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper.T.double() @ upper.double(), exact.inverse(), rtol=1e-3, atol=1e-4)
    inverse = inverse_of_factor(lower)
    torch.testing.assert_close(inverse.double(), exact.inverse(), rtol=1e-3, atol=1e-4)
    assert torch.equal(inverse, inverse.T)


@pytest.mark.parametrize("place", [0, 130, 299])
def test_a_matrix_that_is_not_positive_definite_has_no_factor(place: int) -> None:
    matrix = hessian(300)
    matrix[place, place] = -1.0
    assert cholesky(matrix) is None
    assert upper_factor_of_inverse(matrix) is None


# Sizes at which LAPACK's factors, MKL's products and torch's sums depend on the number of threads by themselves.
_DIGESTS = """
from masklearn.base.threads import settle_threads, total
settle_threads()
import hashlib, torch
from masklearn.solvers.obs import cholesky, inverse_of_factor, upper_factor_of_inverse
x = torch.randn(900, 700, generator=torch.Generator().manual_seed(0))
matrix = x.T @ x / 900 + 0.1 * torch.eye(700)
for threads in (1, 2, 3, 4):
    torch.set_num_threads(threads)
    lower = cholesky(matrix)
    made = x.T @ x, lower, inverse_of_factor(lower.clone()), upper_factor_of_inverse(matrix), total(x), x[:64] @ x[:64].T
    print(hashlib.sha256(b"".join(one.contiguous().numpy().tobytes() for one in made)).hexdigest())
"""


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch computes without MKL")
def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    ours = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env = ours | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", _DIGESTS], capture_output=True, text=True, env=env, check=True
    )
    assert len(done.stdout.split()) == 4
    assert len(set(done.stdout.split())) == 1
