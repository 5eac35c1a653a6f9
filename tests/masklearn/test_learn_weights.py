"""Learning with int8 and int4 weights, from the weights of a model to its pruned checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.baselines import run_baselines
from masklearn.learning import Learned
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.naming import from_stored
from masklearn.model.store import WeightStore
from masklearn.quality.record import Baseline
from masklearn.solvers.solve import round_weights
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.feed import CheckpointFeed
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.masklearn.tasks import task_of

SETTINGS = {"tile": (32, 64)}
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def check(learned: Learned, tiny: Tiny, kind: str, **others: str) -> dict[str, np.ndarray]:
    """The pruned model's weights lie on the grids in the mask file. Returns the integers by linear.

    kind: type of the linears; others: types of linears by the ends of their names, "" for 16 bits.
    """
    pruned = tiny.prune(learned, f"pruned-{len(list(tiny.folder.iterdir()))}")
    learned.masks.save(tiny.folder / "masks")
    loaded, found = MaskSet.load(tiny.folder / "masks"), {}
    for name, mask in loaded.items():
        own = others.get(name.rpartition(".")[2], kind)
        assert (name in loaded.grids) == bool(own), name
        if own:
            weight = from_stored(pruned, f"{name}.weight", pruned.read(f"{name}.weight"))
            assert loaded.grids[name].type.name == own
            found[name] = loaded.grids[name].integers(weight)
            assert not found[name][~mask.keep()].any()
            assert len(np.unique(found[name])) > (12 if own == "int4" else 60)
    return found


@pytest.mark.parametrize("method", ["oneshot", "sparsegpt", "wanda", "magnitude", "patch-tile"])
def test_every_method_rounds(make_model: ModelMaker, tiny: Tiny, method: str) -> None:
    """Linears with dense tiles only are rounded too."""
    settings = {"method": method, "weights": "int8,mlp.*=int4,o_proj=float16", "ratio": "*=0.3,k_proj=0"}
    learned = tiny.learn(make_model(**SIZES), steps=2, **settings)
    check(learned, tiny, "int8", gate_proj="int4", up_proj="int4", down_proj="int4", o_proj="")
    assert not learned.masks["model.layers.0.self_attn.k_proj"].kinds.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", ["gpt2", "qwen2"])
def test_checkpoints_of_16_bits_and_transposed_weights(
    make_model: ModelMaker, tiny: Tiny, model_type: str, dtype: torch.dtype
) -> None:
    sizes = SIZES | ({"n_embd": 64, "n_inner": 128} if model_type == "gpt2" else {})
    path = make_model(model_type, dtype=dtype, **sizes)
    assert check(tiny.learn(path, weights="int4", kinds="8:16", ratio=0.3), tiny, "int4")


def test_an_encoder_and_a_covered_head(make_model: ModelMaker, tiny: Tiny) -> None:
    bert, llama = make_model("bert", **SIZES), make_model(**SIZES, tie_word_embeddings=False)
    check(tiny.learn(bert, "b", weights="int8", ratio=0.3), tiny, "int8")
    settings = {"weights": "int8", "ratio": 0.3, "include": ["lm_head", "q_proj"]}
    assert "lm_head" in check(tiny.learn(llama, "l", **settings), tiny, "int8")


def test_permuted_and_repaired_weights_stay_on_the_grid(make_model: ModelMaker, tiny: Tiny) -> None:
    """Repair comes before the rounding, so it moves integers."""
    settings = {"weights": "int4", "kinds": "auto", "ratio": 0.3, "permute": True}
    path = make_model(**SIZES)
    before = check(tiny.learn(path, "a", **settings), tiny, "int4")
    learned = tiny.learn(path, "b", **settings, repair="distill", repair_steps=16)
    after = check(learned, tiny, "int4")
    assert learned.masks.orders
    assert any((before[name] != after[name]).any() for name in before)
    record = learned.masks.record.repair
    assert record is not None and record.kl_first is not None and record.kl_last is not None
    assert record.kl_last < record.kl_first


def test_naming_16_bits_equals_naming_no_type(make_model: ModelMaker, tiny: Tiny) -> None:
    path, files = make_model(**SIZES), []
    for at, weights in enumerate((None, "float16", "mlp.*=bfloat16")):
        learned = tiny.learn(path, f"{at}", weights=weights, ratio=0.3)
        learned.masks.save(tiny.folder / "masks")
        written = (tiny.folder / "masks", *tiny.prune(learned, f"model-{at}").files())
        files.append([file.read_bytes() for file in written])
    assert len(files[0]) == 2 and files[0] == files[1] == files[2]


def test_trained_rounding_is_nearer_the_dense_model(make_model: ModelMaker, tiny: Tiny) -> None:
    """By the last hidden states. On other text: stream/test_block_rounding.py."""
    path = make_model(**SIZES)
    given = {"weights": "int4", "ratio": 0.0, "method": "magnitude", "windows": 16}
    masks = tiny.learn(path, **given).masks
    feed = CheckpointFeed(task_of(path, tiny.recipe(**given)))
    windows = feed.task.text.calibration()
    last = [_last_states(Checkpoint.open(path), windows)]
    for trains in (False, True):
        store = WeightStore(tiny.folder / str(trains))
        round_weights(feed, masks, store, trains=trains)
        last.append(_last_states(Checkpoint.open(path).with_weights(store), windows))
    assert (last[2] - last[0]).norm() < 0.97 * (last[1] - last[0]).norm()


def _last_states(checkpoint: Checkpoint, windows: np.ndarray) -> torch.Tensor:
    for block in stream_blocks(checkpoint, windows):
        block.advance()
    return torch.cat(list(block.hidden))


def test_solved_rounding_beats_nearest_rounding(make_model: ModelMaker, tiny: Tiny) -> None:
    """`magnitude` rounds to the nearest integers, `sparsegpt` on the Hessian. Nothing is pruned."""
    path, lost, name = make_model(**SIZES), {}, "model.layers.0.mlp.gate_proj"
    for method in ("magnitude", "sparsegpt"):
        learned = tiny.learn(path, method, method=method, weights="int4", ratio=0.0)
        change = read_linear(learned.checkpoint, name) - read_linear(Checkpoint.open(path), name)
        lost[method] = float(change.square().sum())
    assert lost["magnitude"] < lost["sparsegpt"]  # nearer, but not better: see solvers/test_rounding.py


def test_results_include_a_dense_model_of_their_type(
    make_model: ModelMaker, tiny: Tiny, tmp_path: Path
) -> None:
    path = make_model(**SIZES)
    windows = np.arange(32).reshape(2, 16) % 40
    names = [Baseline.DENSE, Baseline.ROUNDED, Baseline.UNIFORM]
    given = tiny.recipe(weights="int8", ratio=0.3)
    dense, rounded, uniform = run_baselines(path, given, names, windows, tmp_path / "b")
    assert (rounded.name, rounded.ratio, rounded.bytes_per_weight) == ("dense-rounded", 0.0, 1.0)
    assert uniform.bytes_per_weight == 0.625
    assert rounded.perplexity != dense.perplexity
    assert abs(rounded.perplexity / dense.perplexity - 1) < 0.05
    plain = run_baselines(path, tiny.recipe(ratio=0.3), names[:2], windows, tmp_path / "c")
    assert [row.name for row in plain] == ["dense"]  # rounding to 16 bits changes nothing
