import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, save

from patch_compile.engine.profiles import (
    ShapeRange,
    default_profiles,
    parse_profile,
    parse_shapes,
    profiles_from_onnx,
)
from patch_compile.onnx_io.graph_inputs import GraphInput, dim_names, read_inputs, resolve_dims
from tests.engine import graphs
from tests.refusals import refused

KEY = "past_key_values.0.key"
DECODER = (
    GraphInput("input_ids", ("batch", "sequence")),
    GraphInput("attention_mask", ("batch", "total")),
    GraphInput(KEY, ("batch", 3, "past", 64)),
    GraphInput("scale", (4,)),
)
ENCODER = DECODER[:1]


class TestShapes:
    def test_trtexec_spelling(self):
        spec = f"input_ids:1x5,attention_mask:1x7,{KEY}:1x3x2x64"
        assert parse_shapes(spec, DECODER) == {
            "input_ids": (1, 5),
            "attention_mask": (1, 7),
            KEY: (1, 3, 2, 64),
        }

    def test_by_dimension(self):
        shapes = parse_shapes("batch=2, sequence=5, past=0", DECODER)
        assert shapes == {"input_ids": (2, 5), "attention_mask": (2, 5), KEY: (2, 3, 0, 64)}

    def test_mixed_own_shape_wins(self):
        shapes = parse_shapes(f"batch=2,sequence=5,past=1,total=9,{KEY}:2x3x4x64", DECODER)
        assert shapes == {"input_ids": (2, 5), "attention_mask": (2, 9), KEY: (2, 3, 4, 64)}

    def test_input_name_with_colon_and_equals(self):
        inputs = (GraphInput("a=b:0", ("batch", 8)),)
        assert parse_shapes("a=b:0:4x8", inputs) == {"a=b:0": (4, 8)}

    @given(st.integers(0, 99), st.integers(1, 99), st.integers(0, 99))
    def test_total_is_past_and_sequence(self, batch, sequence, past):
        shapes = parse_shapes(f"past={past},sequence={sequence},batch={batch}", DECODER)
        assert shapes["attention_mask"] == (batch, past + sequence)

    @pytest.mark.parametrize(
        "spec",
        [
            "input_ids:1x1",
            "batch=1,sequence=1",
            "batch=1,total=1,sequence=1",
            "batch=1,seq=1",
            "batch=-1",
            "batch=one",
            "tokens:1x1",
            "input_ids:1",
            "input_ids=1",
            "input_ids=1x1",
            f"{KEY}:1x4x0x64",
            "input_ids:1xx",
            "input_ids",
            "input_ids:-1x1",
        ],
    )
    def test_errors_name_the_input_and_the_dimension(self, spec):
        with refused():
            parse_shapes(spec, DECODER)


class TestProfile:
    def test_missing_flags_follow_trtexec(self):
        def ranges(**flags):
            given = {"min_shapes": None, "opt_shapes": None, "max_shapes": None} | flags
            r = parse_profile(ENCODER, **given).shapes["input_ids"]
            return [shape[1] for shape in (r.min, r.opt, r.max)]

        size = "batch=1,sequence={}".format
        assert ranges(opt_shapes=size(4)) == [4, 4, 4]
        assert ranges(max_shapes=size(8)) == [8, 8, 8]
        assert ranges(min_shapes=size(1)) == [1, 1, 1]
        assert ranges(min_shapes=size(1), max_shapes=size(8)) == [1, 8, 8]
        assert ranges(min_shapes=size(1), opt_shapes=size(4)) == [1, 4, 4]
        assert ranges(min_shapes=size(1), opt_shapes=size(4), max_shapes=size(8)) == [1, 4, 8]

    @pytest.mark.parametrize(
        ("least", "usual"),
        [
            ("batch=1,sequence=9", "batch=1,sequence=4"),
            (None, f"input_ids:1x5,attention_mask:2x7,{KEY}:1x3x2x64"),
            (None, "depth=1"),
            (None, None),
        ],
        ids=("order", "two sizes of a dimension", "flag", "nothing"),
    )
    def test_ranges_that_no_profile_has_are_refused(self, least, usual):
        inputs = ENCODER if least else DECODER
        with refused():
            parse_profile(inputs, min_shapes=least, opt_shapes=usual, max_shapes=None)


class TestDefaults:
    def test_decoder_has_prefill_and_decode(self):
        prefill, decode = default_profiles(DECODER)
        assert (prefill.name, decode.name) == ("prefill", "decode")
        assert prefill.shapes[KEY] == ShapeRange((1, 3, 0, 64), (1, 3, 0, 64), (8, 3, 0, 64))
        assert prefill.shapes["input_ids"] == ShapeRange((1, 1), (1, 256), (8, 1024))
        assert prefill.shapes["attention_mask"] == ShapeRange((1, 1), (1, 256), (8, 1024))
        assert decode.shapes["input_ids"] == ShapeRange((1, 1), (1, 1), (8, 1))
        assert decode.shapes[KEY] == ShapeRange((1, 3, 1, 64), (1, 3, 1024, 64), (8, 3, 4096, 64))
        assert decode.shapes["attention_mask"] == ShapeRange((1, 2), (1, 1025), (8, 4097))
        assert "scale" not in prefill.shapes

    def test_encoder_has_one(self):
        (profile,) = default_profiles(ENCODER)
        assert profile.shapes == {"input_ids": ShapeRange((1, 1), (1, 256), (8, 1024))}

    def test_static_graph_has_none(self):
        assert default_profiles((GraphInput("x", (1, 8)),)) == ()


class TestGraph:
    def test_inputs_of_a_file(self, tmp_path):
        inputs = read_inputs(graphs.write_decoder(tmp_path / "m.onnx"))
        assert [i.spelled() for i in inputs] == [
            "x [batch, sequence, 128]",
            "attention_mask [batch, total]",
            "past_key_values.0.key [batch, 1, past, 128]",
        ]
        assert dim_names(inputs) == ("batch", "sequence", "total", "past")

    def test_profiles_of_a_file(self, tmp_path):
        path = graphs.write_decoder(tmp_path / "m.onnx")
        assert [p.name for p in profiles_from_onnx(path)] == ["prefill", "decode"]
        (given_one,) = profiles_from_onnx(path, opt_shapes="batch=1,sequence=2,past=3")
        assert given_one.shapes["attention_mask"].opt == (1, 5)

    def test_sums_of_dimensions(self):
        total = GraphInput("mask", ("batch", "past + sequence", "sequence + 1"))
        assert resolve_dims(total, {"batch": 1, "past": 2, "sequence": 3}) == (1, 5, 4)
        assert dim_names((total,)) == ("batch", "past", "sequence")

    @pytest.mark.parametrize("name", ["p2o.DynamicDimension.0", "batch-size", "unk__12", "0.batch", "Höhe"])
    def test_a_name_may_have_any_characters(self, name):
        inputs = (GraphInput("x", (name, 3)),)
        assert dim_names(inputs) == (name,)
        assert parse_shapes(f"{name}=7", inputs) == {"x": (7, 3)}
        with refused():
            default_profiles((GraphInput("x", (name, 3)),))

    def test_dotted_names_in_a_sum(self):
        inputs = (GraphInput("x", ("a.0", "a.0 + a.1")),)
        assert dim_names(inputs) == ("a.0", "a.1")
        assert parse_shapes("a.0=2,a.1=3", inputs) == {"x": (2, 5)}

    def test_formula_that_is_no_sum(self):
        with refused():
            resolve_dims(GraphInput("mask", ("2*past",)), {"past": 2})

    @pytest.mark.parametrize("spelled", [None, -1, "?", "-1"])
    def test_dimension_that_says_nothing_gets_a_name(self, tmp_path, spelled):
        """PaddlePaddle's exporter writes -1, or the same `?` for dimensions that differ."""
        value = helper.make_tensor_value_info("in/put", TensorProto.FLOAT, [spelled, 3, "?", "?"])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [spelled, 3, "?", "?"])
        node = helper.make_node("Identity", ["in/put"], ["y"])
        save(helper.make_model(helper.make_graph([node], "g", [value], [out])), tmp_path / "m.onnx")
        (found,) = read_inputs(tmp_path / "m.onnx")
        assert found.dims == ("in_put_0", 3, "in_put_2", "in_put_3")
        assert parse_shapes("in_put_0=3,in_put_2=1,in_put_3=4", (found,)) == {"in/put": (3, 3, 1, 4)}

    def test_input_without_a_shape(self, tmp_path):
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
        node = helper.make_node("Identity", ["x"], ["y"])
        save(helper.make_model(helper.make_graph([node], "g", [value], [value])), tmp_path / "m.onnx")
        with refused():
            read_inputs(tmp_path / "m.onnx")
