"""Calibration inputs: an array per graph input, with runs or samples along its first axis, or random arrays."""

import io
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patch_compile.onnx_io import feeds
from patch_compile.onnx_io.feeds import feeds_from_npz, input_dtypes, random_feeds, table_rows
from patch_compile.onnx_io.graph_inputs import GraphInput
from patch_compile.onnx_io.read import read_onnx
from tests.refusals import refused
from tests.sources.onnx_model import graphs

FILE = Path("model.onnx")
OPEN = (GraphInput("ids", ("batch", "length")), GraphInput("image", ("batch", 3, 4)))
DTYPES = {"ids": np.dtype(np.int64), "image": np.dtype(np.float32)}


def arrays(ids, image):
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, 9, ids).astype(np.int64),
        "image": rng.standard_normal(image).astype(np.float32),
    }


@pytest.fixture
def load(tmp_path):
    def run(given, inputs=OPEN, dtypes=DTYPES):
        np.savez(tmp_path / "inputs.npz", **given)
        return feeds_from_npz(tmp_path / "inputs.npz", inputs, dtypes)

    return run


def test_an_axis_more_counts_runs(load):
    given = arrays((5, 2, 7), (5, 2, 3, 4))
    feeds = load(given)
    assert len(feeds) == 5
    assert all(np.array_equal(feed["ids"], given["ids"][run]) for run, feed in enumerate(feeds))
    assert feeds.words == "inputs.npz (5 runs)"


def test_open_batches_take_eight_samples(load):
    given = arrays((19, 7), (19, 3, 4))
    feeds = load(given)
    assert [feed["image"].shape[0] for feed in feeds] == [8, 8, 3]
    assert np.array_equal(np.concatenate([feed["ids"] for feed in feeds]), given["ids"])


class TestScalarInput:
    INPUTS = (*OPEN, GraphInput("rate", ()))
    DTYPES = DTYPES | {"rate": np.dtype(np.int64)}

    @pytest.mark.parametrize("before", [(), (5,)], ids=["samples", "runs"])
    def test_one_number_is_for_all_runs(self, load, before):
        given = arrays((*before, 9, 7), (*before, 9, 3, 4)) | {"rate": np.int64(16000)}
        feeds = load(given, self.INPUTS, self.DTYPES)
        assert len(feeds) == (5 if before else 2)
        assert all(feed["rate"].shape == () and feed["rate"] == 16000 for feed in feeds)

    def test_a_number_for_each_run(self, load):
        given = arrays((5, 2, 7), (5, 2, 3, 4)) | {"rate": np.arange(5)}
        feeds = load(given, self.INPUTS, self.DTYPES)
        assert [feed["rate"].tolist() for feed in feeds] == [0, 1, 2, 3, 4]
        assert all(isinstance(feed["rate"], np.ndarray) for feed in feeds)

    def test_samples_have_no_number_each(self, load):
        with refused():
            load(arrays((9, 7), (9, 3, 4)) | {"rate": np.arange(9)}, self.INPUTS, self.DTYPES)

    def test_alone(self, load):
        feeds = load({"rate": np.int64(8)}, self.INPUTS[2:], self.DTYPES)
        assert [feed["rate"].tolist() for feed in feeds] == [8]


def test_samples_are_fed_by_the_graphs_batch(load):
    inputs = (GraphInput("ids", (2, "length")), GraphInput("image", (2, 3, 4)))
    assert [feed["ids"].shape for feed in load(arrays((6, 7), (6, 3, 4)), inputs)] == [(2, 7)] * 3
    with refused():
        load(arrays((5, 7), (5, 3, 4)), inputs)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: a.pop("ids"), "Only one"),
        (lambda a: a.update(other=a["ids"]), "Only one"),
        (lambda a: a.update(ids=a["ids"][:4]), "ids: 4"),
        (lambda a: a.update(ids=a["ids"][0]), "ids is"),
        (lambda a: a.update(ids=a["ids"].astype(np.float32)), "float32"),
        (lambda a: a.update(image=a["image"][..., :3]), "A run"),
        (lambda a: a["image"].__setitem__((0, 0, 0, 0), np.nan), "NaN"),
        (lambda a: [a.update({name: array[:0]}) for name, array in a.items()], "ids: 0"),
    ],
    ids=["missing", "superfluous", "counts", "axes", "type", "shape", "NaN", "empty"],
)
def test_arrays_that_do_not_fit(load, change, why):
    given = arrays((5, 2, 7), (5, 2, 3, 4))
    change(given)
    with refused() as found:
        load(given)
    assert why in found.error.why


def test_wider_numbers_of_the_same_kind_are_taken(load):
    given = arrays((5, 2, 7), (5, 2, 3, 4))
    feed = load({"ids": given["ids"].astype(np.int32), "image": given["image"].astype(np.float64)})[0]
    assert (feed["ids"].dtype, feed["image"].dtype) == (np.int64, np.float32)


def saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no zip",
        None,
        pytest.param(saved(np.save, np.zeros(3)), id="one array"),
        pytest.param(saved(np.savez, ids=np.array([object()]), image=np.zeros(3)), id="pickled"),
    ],
)
def test_a_file_that_is_no_npz_of_numbers(tmp_path, content):
    path = tmp_path / "inputs.npz"
    if content is not None:
        path.write_bytes(content)
    with refused():
        feeds_from_npz(path, OPEN, DTYPES)


def test_oversized_arrays_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "_MOST_BYTES", 2**20)
    path = tmp_path / "inputs.npz"
    image = np.zeros((100, 1, 3, 4, 1000), np.float32)
    np.savez_compressed(path, ids=np.zeros((100, 1, 7), np.int64), image=image)
    assert path.stat().st_size < image.nbytes / 100
    tracemalloc.start()
    with refused():
        feeds_from_npz(path, OPEN, DTYPES)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


class TestRandom:
    def test_open_dimensions_agree_between_inputs(self):
        inputs = (GraphInput("ids", ("batch", "length")), GraphInput("mask", ("batch", 1, "length")))
        dtypes = {"ids": np.dtype(np.int64), "mask": np.dtype(np.bool_)}
        feeds = random_feeds(FILE, inputs, dtypes, {}, {}, seed=0)
        assert (feeds[0]["ids"].shape, feeds[0]["mask"].shape) == ((2, 16), (2, 1, 16))
        assert {*np.unique(feeds[0]["ids"])} == {0, 1}
        assert feeds[0]["mask"].dtype == np.bool_ and feeds[0]["mask"].all()

    def test_integers_are_drawn_by_their_use(self, tmp_path):
        nodes = [
            helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "wide"], ["rows"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ]
        table = numpy_helper.from_array(np.zeros((500, 4), np.float32), "table")
        ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "time"])
        path = graphs.save(tmp_path / "m.onnx", nodes, [table], inputs=[ids])
        assert table_rows(read_onnx(path)) == {"ids": 500}
        names = ["ids", *(f"n{i}" for i in range(3000))]
        chain = [helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
        empty = numpy_helper.from_array(np.zeros((0, 4), np.float32), "empty")
        chain += [helper.make_node("Gather", [one, names[-1]], [f"of_{one}"]) for one in ("table", "empty")]
        path = graphs.save(tmp_path / "long.onnx", [*chain, nodes[-1]], [table, empty], inputs=[ids])
        assert table_rows(read_onnx(path)) == {"ids": 500}
        inputs = (GraphInput("ids", ("batch", "time")), GraphInput("lengths", ("batch",)))
        dtypes = dict.fromkeys(("ids", "lengths"), np.dtype(np.int32))
        feeds = random_feeds(FILE, inputs, dtypes, {"ids": (9, 30), "lengths": (9,)}, {"ids": 500}, seed=0)
        assert 250 < feeds[0]["ids"].max() < 500 and {*feeds[0]["lengths"]} == {30}
        silence = (GraphInput("silence", ("batch",)), GraphInput("bytes", ("batch", 9)))
        dtypes = {"silence": np.dtype(np.int32), "bytes": np.dtype(np.int8)}
        drawn = random_feeds(FILE, silence, dtypes, {"silence": (99,)}, {"bytes": 500}, seed=0)[0]
        assert {*drawn["silence"]} == {0, 1} and drawn["bytes"].min() >= 0

    def test_depend_on_the_seed_alone(self):
        first, again, other = (random_feeds(FILE, OPEN, DTYPES, {}, {}, seed=seed) for seed in (0, 0, 1))
        assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first[0]["image"], other[0]["image"])
        assert not np.array_equal(first[0]["image"], first[1]["image"])

    @pytest.mark.parametrize("dims", [(2**40,), (2,) * 300])
    def test_of_a_size_that_no_machine_holds(self, dims):
        with refused():
            random_feeds(FILE, (GraphInput("x", dims),), {"x": np.dtype(np.float32)}, {}, {}, seed=0)

    def test_take_the_shapes_given(self):
        feeds = random_feeds(FILE, OPEN, DTYPES, {"ids": (3, 5), "image": (3, 3, 4)}, {}, seed=0)
        assert feeds[0]["ids"].shape == (3, 5)
        assert "ids 3×5" in feeds.words


def test_text_inputs_are_refused_by_file(tmp_path):
    nodes = [helper.make_node("Shape", ["t"], ["s"]), helper.make_node("Identity", ["x"], ["y"])]
    path = graphs.save(tmp_path / "m.onnx", nodes, x=("batch", 4))
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("t", TensorProto.STRING, [4]))
    onnx.save(model, path)
    with refused():
        input_dtypes(path, read_onnx(path))
