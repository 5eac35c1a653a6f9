import csv
import subprocess
import sys
from collections import Counter
from statistics import median

import pytest

from benchmarks.published.__main__ import (
    HERE,
    LAUNCH,
    compare,
    errors,
    few_tokens,
    fitted,
    read,
)
from benchmarks.published.whole_models import fit_other_kernel
from masklearn.quant.table import FLOAT16, INT4, W8A8
from patch_compile.hardware.cards import card_named
from patch_compile.planning.roofline.assumptions import ASSUMED, FEW_TOKENS, PRODUCTS, speedup_errors
from patch_compile.planning.roofline.library_product import fp8_time, library_time
from tests.refusals import refused

HEADER = "card,dtype,M,N,K,dense_us,sparse_2_4_us"


def times(tmp_path, *lines, header=HEADER):
    path = tmp_path / "times.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_times_as_predicted_have_ratios_of_one(tmp_path):
    card, shape = card_named("A100-80 PCIe"), (8192, 4096)
    dense, sparse = (LAUNCH + library_time(card, shape, 4096, sparse=kind)[0] for kind in (False, True))
    path = times(tmp_path, f"A100-80 PCIe,fp16,4096,8192,4096,{dense},{sparse / 2}")
    ratios = {group.what: ratios for group, ratios in compare(read(path, Counter())).items()}
    assert ratios == {"dense": [pytest.approx(1)], "2:4": [pytest.approx(2)], "speedup": [pytest.approx(0.5)]}


@pytest.mark.parametrize(
    "row",
    [
        "A100-80,fp16,64,64,64,fast,1",
        "A100-80,fp16,64,64,64,-1,1",
        "A100-80,fp16,64,64,64,nan,1",
        "A100-80,fp16,64,,64,1,1",
        "A100-80,fp16,64",
        "A100-80,fp16,64,64,64,1,1,1",
    ],
)
def test_a_bad_row_is_named_by_line(tmp_path, row):
    path = times(tmp_path, "A100-80,fp16,64,64,64,1,1", row)
    with refused():
        list(read(path, Counter()))


def test_a_missing_column_is_named(tmp_path):
    with refused():
        list(read(times(tmp_path, header="card,dtype,M,N,K,dense_us"), Counter()))


def test_the_program_skips_cards_it_lacks(tmp_path):
    path = times(
        tmp_path,
        "V100,fp16,512,4096,4096,50,40",
        "A100-80,fp4,512,4096,4096,50,40",
        "A100-80,fp16,512,4096,4096,99,70",
    )
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.published", path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "V100: 1 rows" in found.stderr and "A100-80 fp4: 1 rows" in found.stderr
    assert [line.split()[-5] for line in found.stdout.splitlines()] == ["what", "dense", "2:4", "speedup"]


def test_weights_that_stay_in_l2_do_not_count(tmp_path):
    rows = (
        "A100-80,fp16,256,4096,4096,9,9",
        "A100-80,fp16,512,4096,4096,9,9",
        "A100-80,fp16,256,16384,4096,9,9",
    )
    groups = compare(read(times(tmp_path, *rows), Counter()))
    assert {key[2]: len(ratios) for key, ratios in groups.items()} == {"512-2048": 1, "32-256": 1}


def held_out():
    return fitted([one for path in sorted(HERE.glob("*.csv")) for one in read(path, Counter())])[1]


def test_the_errors_are_current():
    assert errors(held_out()) == PRODUCTS and few_tokens(held_out()) == FEW_TOKENS


def test_errors_follow_tokens_and_types():
    assert speedup_errors(4096, FLOAT16) == speedup_errors(4096, INT4) == PRODUCTS[16][None]
    assert speedup_errors(2048, W8A8) == PRODUCTS[8][2048] and speedup_errors(17, W8A8) == PRODUCTS[16][256]
    assert speedup_errors(1, INT4) == speedup_errors(256, INT4) == FEW_TOKENS[4]


@pytest.mark.parametrize("name", ["H100 PCIe", "RTX4090"])
def test_fp8_is_near_published_times(name):
    """In the median of products with 512 tokens and more, of which no figure but the share of the rate was fitted."""
    card = card_named(name)
    with (HERE / "slidesparse.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["card"], row["dtype"]) == (name, "fp8")]
    ratios = [
        (LAUNCH + fp8_time(card, (int(row["N"]), int(row["K"])), int(row["M"]))) / float(row["dense_us"])
        for row in rows
        if int(row["M"]) >= 512 and row["dense_us"]
    ]
    assert len(ratios) > 40 and median(ratios) == pytest.approx(1.0, abs=0.1)


def test_int8_rows_have_int8_products(tmp_path):
    rows = (
        "A100-80,int8,4096,8192,4096,99,50",
        "A100-80,fp16,4096,8192,4096,150,90",
        "B200,int8,4096,8192,4096,9,9",
    )
    skipped = Counter()
    int8, fp16 = read(times(tmp_path, *rows), skipped)
    assert (int8.weights, fp16.weights, skipped) == (W8A8, FLOAT16, {"B200 int8": 1})
    for sparse in (False, True):
        assert int8.predicted(sparse=sparse) < 0.7 * fp16.predicted(sparse=sparse)


def test_the_other_kernels_time_is_fitted():
    assert pytest.approx(fit_other_kernel(), abs=0.05) == ASSUMED.other_kernel


def test_held_out_shapes_are_in_no_fit():
    products = [one for path in HERE.glob("*.csv") for one in read(path, Counter())]
    own, held_out = fitted(products)
    assert len(own) + len(held_out) == len(products) and min(len(own), len(held_out)) > len(products) / 4
    assert not {(one.card.name, one.shape) for one in own} & {(one.card.name, one.shape) for one in held_out}


@pytest.mark.parametrize(("name", "narrow"), [("A100-80 PCIe", 4096), ("RTX 4090", 16384)])
def test_wide_outputs_gain_little_on_old_cards(name, narrow):
    """A 2:4 product whose blocks fill all SMs along the features reads W once for each wave, if L2 doesn't hold W."""

    def speedup(features, weights=FLOAT16):
        dense, sparse = (
            library_time(card_named(name), (features, 3584), 8192, sparse=kind, weights=weights)[0]
            for kind in (False, True)
        )
        return dense / sparse

    assert speedup(narrow) > 1.5 and speedup(narrow) > 1.25 * speedup(37888)
    assert speedup(37888, W8A8) > 0.98 * speedup(narrow, W8A8)  # measured so
