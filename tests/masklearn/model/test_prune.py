import json
import os

import numpy as np
import pytest
from safetensors import safe_open

from masklearn.base.errors import MaskLearnError
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.prune import masked_weight, write_pruned_checkpoint
from tests.mosaics import random_mask


def test_pruned_weights_are_plus_zero():
    weight = np.array([[-1.0, -0.0, 2.0, -3.0]], np.float16)
    out = masked_weight(weight, np.array([[False, True, True, False]]))
    assert (
        out.view(np.uint16).tolist() == np.array([[0.0, -0.0, 2.0, 0.0]], np.float16).view(np.uint16).tolist()
    )


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_the_pruned_checkpoint_loads_in_transformers_with_only_the_masked_weights_changed(
    make_model, tmp_path, shard
):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = make_model(shard=shard)
    (source / "pytorch_model.bin").write_bytes(b"never copied")
    linears = covered_linears(source).linears
    masks = MaskSet(
        {name: random_mask(shape, (32, 32), 0.5, i)[0] for i, (name, shape) in enumerate(linears.items())},
        method="random", seed=0, base_model="x", base_sha256="", ratio_asked=0.25,
    )  # fmt: skip
    out = tmp_path / "pruned"
    write_pruned_checkpoint(Checkpoint.open(source), masks, out)
    assert not (out / "pytorch_model.bin").exists()
    written = json.loads((out / "config.json").read_text())
    assert set(written.pop("sparsity_config")["targets"]) <= set(linears)
    assert written == json.loads((source / "config.json").read_text())
    AutoTokenizer.from_pretrained(out)
    before = AutoModelForCausalLM.from_pretrained(source).state_dict()
    after = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        linear = name.removesuffix(".weight")
        expected = weight * torch.from_numpy(masks[linear].keep()) if linear in masks else weight
        assert torch.equal(after[name], expected), name


def test_hidden_folders_of_sub_folders_are_not_copied(make_model, tmp_path):
    """No check looks at the links in them."""
    source, secret, out = make_model(), tmp_path / "secret", tmp_path / "pruned"
    secret.write_text("of the user")
    (source / "extras/.hidden").mkdir(parents=True)
    (source / "extras/notes").touch()
    (source / "extras/.hidden/notes").symlink_to(secret)
    masks = MaskSet({}, method="none", seed=0, base_model="x", base_sha256="", ratio_asked=0.0)
    write_pruned_checkpoint(Checkpoint.open(source), masks, out)
    assert [file.name for file in (out / "extras").iterdir()] == ["notes"]


def test_sub_folders_go_along_unless_they_are_exports_of_the_weights(make_model, tmp_path):
    source = make_model()
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    contents = {
        "modules.json": json.dumps(modules),
        "1_Pooling/config.json": "{}",
        "2_Dense/model.safetensors": "weights of a module",
        "additional_chat_templates/tool.jinja": "template",
        "onnx/model.onnx": "an export",
        "onnx/config.json": "{}",
        ".git/config": "not the model's",
    }
    for name, text in contents.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    out = tmp_path / "pruned"
    masks = MaskSet({}, method="none", seed=0, base_model="x", base_sha256="", ratio_asked=0.0)
    write_pruned_checkpoint(Checkpoint.open(source), masks, out)
    copied = {name for name in contents if (out / name).is_file()}
    assert copied == {name for name in contents if not name.startswith(("onnx/", ".git/"))}
    assert all((out / name).read_text() == contents[name] for name in copied)


def test_no_copy_has_more_permissions_than_its_source(make_model, tmp_path):
    source = make_model()
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling/config.json").write_text("{}")
    modes = {
        "config.json": 0o640,
        "model.safetensors": 0o600,
        "tokenizer.json": 0o444,
        "1_Pooling/config.json": 0o600,
    }
    for name, mode in modes.items():
        (source / name).chmod(mode)
    masks = MaskSet({}, method="none", seed=0, base_model="x", base_sha256="", ratio_asked=0.0)
    write_pruned_checkpoint(Checkpoint.open(source), masks, tmp_path / "out")
    umask = os.umask(0)
    os.umask(umask)
    for name, mode in modes.items():
        assert (tmp_path / "out" / name).stat().st_mode & 0o777 == (mode | 0o600) & 0o666 & ~umask, name


@pytest.mark.parametrize("spelling", ["absolute", "relative"])
def test_an_index_decides_neither_what_is_read_nor_what_is_overwritten(make_model, tmp_path, spelling):
    """The shard is a valid one outside the folder, so only its name is wrong."""
    source, victim = make_model(), tmp_path / "victim.safetensors"
    (source / "model.safetensors").rename(victim)
    before = victim.read_bytes()
    with safe_open(victim, "np") as shard:
        file = str(victim) if spelling == "absolute" else "../victim.safetensors"
        index = {"weight_map": dict.fromkeys(shard.keys(), file)}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    masks = MaskSet({}, method="none", seed=0, base_model="x", base_sha256="", ratio_asked=0.0)
    with pytest.raises(MaskLearnError, match=r"index\.json places .*victim\.safetensors"):
        write_pruned_checkpoint(Checkpoint.open(source), masks, tmp_path / "out" / "model")
    assert victim.read_bytes() == before
    assert not (tmp_path / "out").exists()
