from patch_compile.report.prediction import choice_line, reason_lines, speed_line


def row(block: int, kind: str, lowering: str, reason: str) -> dict[str, str]:
    return {"name": f"model.layers.{block}.{kind}", "lowering": lowering, "reason": reason}


def test_reasons_are_counted_by_kind_in_the_words_of_the_plan():
    rows = [row(i, "self_attn.v_proj", "dense", "none of its tiles is 2:4") for i in range(3)]
    rows += [row(i, "mlp.up_proj", "dense", "none of its tiles is 2:4") for i in range(2)]
    rows += [row(2, "mlp.up_proj", "split", "asked for by --lowering"), row(0, "mlp.down_proj", "plugin", "")]
    assert list(reason_lines(rows)) == [
        "dense: v_proj ×3, up_proj ×2: none of its tiles is 2:4",
        "split: up_proj ×1: asked for by --lowering",
    ]


def test_a_speed_is_beside_its_limit():
    phase = {"dense_ms": 130.0, "planned_ms": 100.0, "speedup": 1.3, "limit": 1.5}
    plan = {
        "whole": dict.fromkeys(("prefill", "decode", "end_to_end"), phase),
        "card": {"words": "A6000"},
        "workload": {"words": "batch 1, 8 tokens"},
    }
    assert speed_line(plan) == (
        "predicted speed-up on A6000, batch 1, 8 tokens: end to end 1.30 (limit 1.50), prefill 1.30 (limit 1.50), "
        "decode 1.30 (limit 1.50)"
    )
    assert speed_line({"whole": None}) == ""


def test_the_gap_to_the_linear_program_is_said():
    speed = {
        "goal": "a speed-up of 1.3",
        "card": "A6000",
        "tiles": 7,
        "cost": 10.05,
        "bound": 10.0,
        "gap": 0.005,
    }
    line = choice_line(speed)
    assert line.startswith("tiles chosen for a speed-up of 1.3 on A6000: 7 that lose 10.05")
    assert line.endswith("less than 10 (the linear program), a gap of 0.50%")
    assert choice_line(None) == ""
