"""`learn` with its real stages on a tiny model, and `build --mask` with its results."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from patch_compile.pipeline.distributed import started
from patch_compile.pipeline.learn import learn
from patch_compile.recipe import Recipe
from patch_compile.sources.checkpoint.source import CheckpointSource
from tests.builds import build, narrow_model, zeros
from tests.commands import PROGRAM
from tests.forks import Forks
from tests.refusals import refused


def test_a_mask_file_is_used_as_it_is(settings, tmp_path):
    recipe = Recipe.parse(settings | {"method": "magnitude", "out": tmp_path / "learned"})
    answer = learn(recipe, force=False, resume=False)
    file = tmp_path / "learned" / "masks.safetensors"
    given = {k: v for k, v in settings.items() if k != "ratio"} | {"mask": file}
    report = build(given)
    assert report["ratio"] == answer.ratio and report["asked"]["mask"] == str(file)
    assert report["method"] == "magnitude"
    one, other = MaskSet.load(file), MaskSet.load(settings["out"] / "masks.safetensors")
    assert all(np.array_equal(one[name].keep(), other[name].keep()) for name in one)
    with refused():
        learn(recipe, force=False, resume=False)


def test_masks_bring_the_weights_they_were_learned_with(settings, tmp_path):
    learned = tmp_path / "learned"
    learn(Recipe.parse(settings | {"method": "sparsegpt", "out": learned}), force=False, resume=False)
    manifest = json.loads((learned / "manifest.json").read_text())
    files = {str(f.relative_to(learned)) for f in learned.rglob("*") if f.is_file()} - {"manifest.json"}
    assert files == set(manifest["files"])
    assert manifest["text"]["calib"]["name"] == Path(settings["calib"]).name
    given = {k: v for k, v in settings.items() if k != "ratio"} | {"mask": learned / "masks.safetensors"}
    build(given)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (learned, settings["out"])]
    assert weights[0] == weights[1] != (settings["model"] / "model.safetensors").read_bytes()
    again = given | {"mask": settings["out"] / "masks.safetensors", "out": tmp_path / "again"}
    build(again)
    (learned / "model" / "model.safetensors").write_bytes(
        (settings["model"] / "model.safetensors").read_bytes()
    )
    with refused():
        build(given | {"out": tmp_path / "other"})
    shutil.rmtree(learned / "model")
    with refused():
        build(given | {"out": tmp_path / "other"})


def test_permuted_masks_bring_the_permuted_model(settings, tmp_path):
    """Magnitude changes no kept weight, but the checkpoint's own weights are in another order than the masks."""
    learned = tmp_path / "learned"
    recipe = Recipe.parse(settings | {"method": "magnitude", "permute": True, "out": learned})
    answer = learn(recipe, force=False, resume=False)
    assert answer.learned.permuted.parts == 2
    assert any(note.startswith("permuted: the hidden channels of 2") for note in answer.notes)
    assert Recipe.parse(Recipe.load(learned / "recipe.yaml")).permute
    given = {k: v for k, v in settings.items() if k != "ratio"} | {"mask": learned / "masks.safetensors"}
    report = build(given)
    assert report["learned"]["permuted"] == answer.as_json()["learned"]["permuted"]
    assert report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    orders = [MaskSet.load(folder / "masks.safetensors").orders for folder in (learned, settings["out"])]
    assert all(np.array_equal(order, orders[1][name]) for name, order in orders[0].items())
    shutil.rmtree(learned / "model")
    with refused():
        build(given | {"out": tmp_path / "other"})


def test_learn_compares_with_baselines(settings, tmp_path):
    recipe = Recipe.parse(settings | {"method": "sparsegpt", "out": tmp_path / "learned"})
    answer = learn(recipe, "dense,uniform-2:4", force=False, resume=False)
    assert [row.name for row in answer.baselines.rows] == ["sparsegpt", "dense", "uniform-2:4"]
    assert answer.baselines.text.name == Path(settings["eval_text"]).name
    assert not list((tmp_path / "learned").glob("scratch"))
    with refused():
        learn(recipe, "the rest", force=True, resume=False)


def test_learn_tells_perplexity_and_bytes(settings, tmp_path):
    """Without baselines. The perplexity is that of the dense and of the learned model."""
    given = {key: value for key, value in settings.items() if key != "ratio"} | {"bytes_per_weight": 1.7}
    answer = learn(Recipe.parse(given | {"method": "sparsegpt", "out": tmp_path / "learned"}))
    assert [row.name for row in answer.baselines.rows] == ["sparsegpt", "dense"]
    assert len({row.perplexity for row in answer.baselines.rows}) == 2
    assert 1.6 < answer.bytes_per_weight <= answer.asked.bytes_per_weight == 1.7


def test_baselines_spare_the_same_linears(settings, make_model, tmp_path):
    model, out = narrow_model(make_model), tmp_path / "learned"
    small = settings | {
        "model": model,
        "method": "magnitude",
        "tile": (128, 128),
        "lowering": "auto",
        "target": "l4",
    }
    answer = learn(Recipe.parse(small | {"out": out}), "unstructured", force=False, resume=False)
    pruned = {name for name, count in zeros(out / "model").items() if count > zeros(model)[name]}
    assert len(pruned) == answer.learned.choice.gains.gaining < len(answer.linears) == 7
    for row in answer.baselines.rows:
        assert row.ratio == pytest.approx(answer.ratio, abs=1e-3)
    given = {k: v for k, v in small.items() if k != "ratio"} | {"mask": out / "masks.safetensors"}
    report = build(given)
    assert {f"{row['name']}.weight" for row in report["linears"] if row["lowering"] == "plugin"} == pruned
    assert not any("compiled dense" in note for note in report["notes"])


def test_untargeted_masks_prune_everywhere(settings, make_model, tmp_path):
    model, out = narrow_model(make_model), tmp_path / "learned"
    small = settings | {"model": model, "method": "magnitude", "tile": (128, 128), "lowering": "auto"}
    learned = learn(Recipe.parse(small | {"out": out}), force=False, resume=False)
    assert learned.learned.choice.gains is None and len([row for row in learned.linears if row.zeroed]) == 7
    given = {k: v for k, v in small.items() if k != "ratio"} | {
        "mask": out / "masks.safetensors",
        "target": "l4",
    }
    report = build(given)
    wasted = [row for row in report["linears"] if row["lowering"] == "dense"]
    share = sum(row["zeroed"] for row in wasted) / sum(row["zeroed"] for row in report["linears"])
    (note,) = (note for note in report["notes"] if "compiled dense" in note)
    assert note.startswith(
        f"{share:.1%} of the zeroed weights lie in {len(wasted)} linears that are compiled dense"
    )


# `--multi_gpu` starts several processes on one machine; without CUDA they communicate by gloo.
LAUNCHERS = {
    "torchrun": "torch.distributed.run --standalone --nproc-per-node 2 --no-python",
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    " --mixed_precision no --dynamo_backend no --no_python",
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_several_processes_learn_and_one_writes(settings, tmp_path, launcher):
    """The second run finds the masks unchanged, and the third learns new masks. These start faster without a launcher, and
    find their place in the same variables.
    """
    model, out = str(settings["model"]), tmp_path / "out"
    learn = (
        f"learn {model} -o {out} --method patch-tile --steps 2 --prior magnitude --repair none --tile 64x64"
    )
    learn += f" --ratio 0.4 --windows 4 --length 16 --batch 1 --calib {settings['calib']} --json"
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), str(PROGRAM), *learn.split()]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    said = [done.stdout]
    for more in ([], ["--seed", "1"]) if launcher == "torchrun" else ():
        run = Forks(PROGRAM, *learn.split(), "--force", *more, count=2)
        said.append("".join(run.lines()))
        assert run.wait() == [0, 0]
    assert [json.loads(one)["asked"]["ratio"] for one in said] == [0.4] * len(said)
    assert not (tmp_path / "out.partial").exists()
    masks = MaskSet.load(out / "masks.safetensors")
    assert masks.method == "patch-tile"
    assert masks.record.train.tokens == 2 * 2 * 16  # steps, processes, length


def test_a_start_is_known_to_a_tick(tmp_path):
    """Else a process takes what an earlier run has published just before for the result of its own launch, and leaves."""
    before, after, tick = tmp_path / "before", tmp_path / "after", 1 / os.sysconf("SC_CLK_TCK")
    before.touch()
    with subprocess.Popen(["sleep", "600"]) as process:
        after.touch()
        found = started(process.pid)
        process.kill()
    assert before.stat().st_mtime - 2 * tick < found < after.stat().st_mtime + tick


def test_a_build_runs_in_one_process(settings, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused():
        build(settings)


def test_a_changed_prior_relearns_masks(settings, tmp_path):
    prior = tmp_path / "prior" / "masks.safetensors"

    def learned(**changes):
        asked = settings | {"repair": "none"} | changes
        return learn(Recipe.parse(asked), force=True, resume=False)

    trained = {
        "method": "patch-tile",
        "steps": 2,
        "batch": 1,
        "prior": str(prior),
        "out": tmp_path / "trained",
    }
    for criterion in ("magnitude", "random"):
        learned(method="sparsegpt", criterion=criterion, tile=(32, 32), out=prior.parent)
        answer = learned(tile=(32, 32), **trained)
        assert "masks" in answer.seconds
        assert answer.learned.train.prior == "masks.safetensors"
    assert "masks" not in learned(tile=(32, 32), **trained).seconds


def test_missing_room_is_reported_before_learning(settings, tmp_path, monkeypatch):
    """A recipe that permutes, solves and repairs needs room for four sets of weights and two checkpoints, for a byte
    per pattern of scores and of the solve, and for the fp32 hidden states of its 2 blocks, the head and two gradients."""
    recipe = Recipe.parse(settings | {"method": "oneshot", "repair_steps": 1, "out": tmp_path / "learned"})
    checkpoint = Checkpoint.open(settings["model"])
    stored = sum(file.stat().st_size for file in checkpoint.files())
    weights = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    pruned = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names() if "_proj" in name)
    needed = 4 * stored + 2 * 12 * weights + 2 * pruned // 4 + (2 + 3) * 2 * 24 * 128 * 4
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    monkeypatch.setattr(CheckpointSource, "learn", lambda *_: pytest.fail("no stage may begin"))
    with refused():
        learn(recipe, force=False, resume=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    with pytest.raises(pytest.fail.Exception, match="no stage may begin"):
        learn(recipe, force=False, resume=False)
