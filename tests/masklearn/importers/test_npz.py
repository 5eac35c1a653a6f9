import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masklearn.base.errors import MaskLearnError
from masklearn.importers.npz import MaskArchive
from tests.masklearn.importers import sources


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 5).map(lambda n: 4 * n))))
def test_bits_come_back_in_any_shape(tmp_path_factory, bits) -> None:
    data = sources.pack(bits, first_is_high=True)
    path = tmp_path_factory.mktemp("n") / "m.npz"
    archive = MaskArchive(sources.write_npz(path, {"x.weight": sources.npy("|u1", (len(data),), data)}))
    assert archive.names == ["x.weight"]
    np.testing.assert_array_equal(archive.read_bits("x.weight", bits.shape), bits)


def write(path, name: str, data: bytes):
    return MaskArchive(sources.write_npz(path / "m.npz", {name: data}))


@pytest.mark.parametrize(
    ("descr", "shape", "data"),
    [("|u1", (5,), bytes(5)), ("|u1", (2, 3), bytes(6)), ("|i1", (6,), bytes(6)), ("<u2", (6,), bytes(12))],
)
def test_bytes_that_do_not_fit(tmp_path, descr, shape, data) -> None:
    archive = write(tmp_path, "x", sources.npy(descr, shape, data))
    with pytest.raises(MaskLearnError, match=r"x in .*The bits of 4x12 weights take 6 bytes"):
        archive.read_bits("x", (4, 12))


def test_bits_after_the_last_weight(tmp_path) -> None:
    archive = write(tmp_path, "x", sources.npy("|u1", (2,), b"\xff\x08"))
    with pytest.raises(MaskLearnError, match="after its last weight"):
        archive.read_bits("x", (1, 12))


def test_an_oversized_archive_member_is_not_read(tmp_path) -> None:
    archive = write(tmp_path, "x", sources.npy("|u1", (10**6,), bytes(10**6)))
    with pytest.raises(MaskLearnError, match="x takes 1000000 bytes, and at most 16 are read"):
        archive.read_bits("x", (4, 4))


def test_a_header_that_promises_more_than_there_is(tmp_path) -> None:
    for i, size in enumerate((10**9, 10**15)):
        archive = MaskArchive(
            sources.write_npz(tmp_path / f"{i}.npz", {"x": sources.npy("|u1", (size,), bytes(2))})
        )
        with pytest.raises(MaskLearnError, match="x: "):
            archive.read_bits("x", (4, 4))


def test_a_shape_whose_bytes_cannot_be_counted(tmp_path) -> None:
    archive = write(tmp_path, "x", sources.npy("<f8", (0, 2**61), b""))
    with pytest.raises(MaskLearnError, match=r"no array has the shape \[0, 2305843009213693952\]"):
        archive.read_bits("x", (4, 4))


def test_pickled_members_are_refused(tmp_path) -> None:
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    objects = io.BytesIO()
    np.lib.format.write_array(objects, np.array([Attack()], object), allow_pickle=True)
    archive = write(tmp_path, "x.weight", objects.getvalue())
    with pytest.raises(MaskLearnError, match=r"x\.weight in .* is pickled.*runs code"):
        archive.read_bits("x.weight", (8, 8))
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(MaskLearnError, match="not an archive"):
        MaskArchive(tmp_path / "p.npz")
    with zipfile.ZipFile(tmp_path / "torch.npz", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Attack()))
    with pytest.raises(MaskLearnError, match=r"data\.pkl in .* is pickled"):
        MaskArchive(tmp_path / "torch.npz")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_archive(tmp_path) -> None:
    with pytest.raises(MaskLearnError, match="There is no such file"):
        MaskArchive(tmp_path / "nowhere.npz")
    np.save(tmp_path / "one.npy", np.zeros(3, np.uint8))
    with pytest.raises(MaskLearnError, match="a single array"):
        MaskArchive(tmp_path / "one.npy")
    whole = sources.write_npz(tmp_path / "m.npz", {"x": sources.npy("|u1", (200,), bytes(range(200)))})
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(MaskLearnError, match="damaged"):
        MaskArchive(tmp_path / "cut.npz")
    content = bytearray(whole.read_bytes())
    content[len(content) // 3] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(MaskLearnError, match="damaged"):
        MaskArchive(tmp_path / "flipped.npz").read_bits("x", (40, 40))
