import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masklearn.importers.npz import MaskArchive
from tests.masklearn.importers import sources
from tests.refusals import refused


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 5).map(lambda n: 4 * n))))
def test_bits_come_back_in_any_shape(tmp_path_factory, bits) -> None:
    data = sources.pack(bits, first_is_high=True)
    path = tmp_path_factory.mktemp("n") / "m.npz"
    archive = MaskArchive(sources.write_npz(path, {"x.weight": sources.npy("|u1", (len(data),), data)}))
    assert archive.names == ["x.weight"]
    np.testing.assert_array_equal(archive.read_bits("x.weight", bits.shape), bits)


def write(path, name: str, data: bytes):
    return MaskArchive(sources.write_npz(path / "m.npz", {name: data}))


WRONG = {  # type, shape and bytes of a member, and the shape of the weight
    "too few bytes": ("|u1", (5,), bytes(5), (4, 12)),
    "two axes": ("|u1", (2, 3), bytes(6), (4, 12)),
    "signed bytes": ("|i1", (6,), bytes(6), (4, 12)),
    "16 bits": ("<u2", (6,), bytes(12), (4, 12)),
    "bits after the last weight": ("|u1", (2,), b"\xff\x08", (1, 12)),
    "a large member": ("|u1", (10**6,), bytes(10**6), (4, 4)),
    "a header that promises 1 GB": ("|u1", (10**9,), bytes(2), (4, 4)),
    "a header that promises 1 PB": ("|u1", (10**15,), bytes(2), (4, 4)),
    "more elements than are counted": ("<f8", (0, 2**61), b"", (4, 4)),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_members_are_refused(tmp_path, case) -> None:
    *member, shape = WRONG[case]
    archive = write(tmp_path, "x", sources.npy(*member))
    with refused():
        archive.read_bits("x", shape)


def test_pickled_members_are_refused(tmp_path) -> None:
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    objects = io.BytesIO()
    np.lib.format.write_array(objects, np.array([Attack()], object), allow_pickle=True)
    archive = write(tmp_path, "x.weight", objects.getvalue())
    with refused():
        archive.read_bits("x.weight", (8, 8))
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Attack()))
    with refused():
        MaskArchive(tmp_path / "p.npz")
    with zipfile.ZipFile(tmp_path / "torch.npz", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Attack()))
    with refused():
        MaskArchive(tmp_path / "torch.npz")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_archive(tmp_path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3, np.uint8))
    whole = sources.write_npz(tmp_path / "m.npz", {"x": sources.npy("|u1", (200,), bytes(range(200)))})
    content = bytearray(whole.read_bytes())
    (tmp_path / "cut.npz").write_bytes(content[:-40])
    content[len(content) // 3] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(content)
    for name in ("nowhere.npz", "one.npy", "cut.npz", "flipped.npz"):
        with refused():
            MaskArchive(tmp_path / name).read_bits("x", (40, 40))
