"""A setting that can never be valid exits with 2, before any file is looked for, and says what, why and how to fix it."""

import click
import pytest

from patch_compile.cli.app import cli
from patch_compile.cli.gone import GONE
from tests.commands import run, run_here
from tests.refusals import refusal

NEEDED = {
    "build": ["nowhere", "--ratio", "0.4"],
    "learn": ["nowhere", "-o", "out", "--ratio", "0.4"],
    "plan": ["nowhere", "--ratio", "0.4"],
    "compile": ["nowhere", "-o", "out", "--mask", "nowhere.safetensors"],
    "import-mask": ["nowhere", "-o", "out", "--model", "nowhere"],
    "plugin": [],
    "inspect": ["nowhere"],
    "doctor": [],
    "run": ["nowhere", "a prompt"],
    "verify": ["nowhere"],
    "bench": ["nowhere"],
    "export": ["nowhere"],
    "compare": ["nowhere"],
}
NUMBER = ["x", "-1", "nan"]
COUNT = ["x", "0", "-1", "1.5"]
SIZES = ["x", "0", "1,0", "-4", "1,,2", ""]
PATTERN = ["re:("]
BAD = {
    "ratio": ["0.9", "-0.1", "much", "", "nan", "mlp.*=0.9", "mlp.*=", "=0.3", "re:(=0.3"],
    "method": ["prayer", ""],
    "tile": ["128", "0x128", "128x3", "x", "1x2x3", "axb"],
    "include": PATTERN,
    "exclude": PATTERN,
    "windows": COUNT,
    "length": [*COUNT, "1"],
    "seed": NUMBER,
    "repair": ["prayer"],
    "repair_steps": NUMBER,
    "repair_minutes": [*NUMBER, "0"],
    "batch": COUNT,
    "steps": COUNT,
    "speedup": [*NUMBER, "1", "inf", "0ms", "xms", "infms"],
    "lowering": ["fast", "mlp.*=fast", "re:(=dense", ""],
    "batch_size": COUNT,
    "prompt_tokens": COUNT,
    "generated_tokens": COUNT,
    "dtype": ["float64"],
    "opset": ["x", "12", "24"],
    "logits": ["some"],
    "fuse": ["qkv,x", "", "all,qkv"],
    "backend": ["cuda"],
    "target": ["prayer", "", "sm86,prayer", "sm10"],
    "min_shapes": ["batch=x", "batch", "ids:1xx", "=3"],
    "opt_shapes": ["batch=x"],
    "max_shapes": ["batch=x"],
    "compatible": ["prayer", "versions,prayer", ""],
    "eval_windows": COUNT,
    "eval_length": [*COUNT, "1"],
    "baselines": ["prayer", "dense,prayer", ""],
    "format": ["prayer"],
    "runner": ["prayer"],
    "new_tokens": COUNT,
    "temperature": [*NUMBER, "inf"],
    "top_k": ["x", "-1"],
    "top_p": [*NUMBER, "0", "1.1"],
    "repetition_penalty": [*NUMBER, "0", "inf"],
    "kinds": ["prayer", "3:4", "2:4,2:4", "auto,2:4", "=2:4", ""],
    "weights": ["prayer", "int3", "int8,int4", "=int8", "mlp.*=", ""],
    "bytes_per_weight": [*NUMBER, "0", "3", "inf"],
    "only": ["prayer", "built,prayer", ""],
    "lengths": SIZES,
    "atol": [*NUMBER, "inf"],
    "rtol": [*NUMBER, "inf"],
    "check_error_stat": ["prayer"],
    "fail_on": ["ppl", "ppl:5%", "prayer:3", "kl:+5%", "kl:x"],
    "task_limit": COUNT,
    "iterations": COUNT,
    "warm_up": NUMBER,
    "service": ["prayer", "", "edgellm=", "prayer=python"],
    "against": ["prayer", "hybrid", "dense,prayer", ""],
}
BAD_IN = {  # options that take other values in this command
    ("bench", "batch_size"): SIZES,
    ("bench", "prompt_tokens"): SIZES,
    ("bench", "past_tokens"): SIZES,
}
# Any text, or what files and machine decide on.
FREE = {
    "out", "mask", "model", "pruned", "recipe", "calib", "eval_text", "device", "prior", "timing_cache",
    "dump_passes", "plugin", "tokenizer", "stop", "tasks", "task_folder", "graph", "linear",
}  # fmt: skip


def options():
    for name, command in cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.is_flag:
                yield name, parameter


def cases():
    for command, option in options():
        for value in BAD_IN.get((command, option.name), BAD.get(option.name, ())):
            yield command, option.opts[0], value


def test_the_table_covers_checked_options():
    known = {(c, o.name) for c, o in options()}
    without = {(c, o) for c, o in known if o not in BAD and o not in FREE and (c, o) not in BAD_IN}
    assert not without
    assert set(BAD_IN) <= known and set(BAD) <= {o for _, o in known}


@pytest.mark.parametrize(("command", "flag", "value"), list(cases()))
def test_a_value_that_can_never_be_valid(command, flag, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed = NEEDED[command]
    if flag == "--speedup":  # in place of the ratio
        needed = needed[: needed.index("--ratio")]
    done = run_here(command, *needed, flag, value)
    assert done.returncode == 2, done.stderr
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()] == ["error", "why", "fix"], (
        done.stderr
    )
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "build",
        "build m",
        "build --ratio 0.4",
        "build nowhere --ratio 0.4",
        "build m --ratio 0.4 --mask f",
        "build m --ratio 0.4 --speedup 1.3",
        "build m --bytes 1.5",
        "build m --mask f --permute",
        "build m --speedup 1.3 --per-layer",
        "build m --speedup 1.3 --method maskllm",
        "build m --colour red",
        "build m too many",
        "build --recipe nowhere.yaml",
        "plan m --ratio 0.4 --mask f",
        "verify m --only built --fail-on ppl:+5%",
        "compare",
        "compile m -o out",
        "run m",
        "frobnicate",
    ],
)
def test_wrong_command_lines_are_refused(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_here(*line.split())
    refusal(done)
    assert [part.split(":")[0].strip() for part in done.stderr.splitlines()] == ["error", "why", "fix"]
    assert not done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize("gone", GONE)
def test_an_option_that_went_says_what_does_its_job_now(gone):
    command, flag = gone.split() if " " in gone else ("build", gone)
    done = run_here(command, flag, "3")
    assert done.returncode == 2
    assert f"{command} no longer has {flag}\n  why: {GONE[gone]}\n" in done.stderr


def test_no_command_shows_the_help():
    done = run()
    assert done.returncode == 2 and "Commands:" in done.stderr + done.stdout
