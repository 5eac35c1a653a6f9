"""The schedule: how work is dealt out, the configuration chosen for a problem, and a workspace that suffices."""

import ctypes

import numpy as np
import pytest

from tests.oracles.element_packing import KEPT
from tests.oracles.integer_packing import INT4, W8A8
from tests.plugins.configs import ALL
from tests.plugins.host_kernel import COMPILER, MOST_PARTS, Arguments, Device, SlabCounts, problem_of

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

# SMs, largest shared memory of a block, L2, bytes of DRAM that an SM gets in 1,024 clocks, architecture, and 1 for GeForce.
A6000, RTX_4090 = Device(84, 99 << 10, 6 << 20, 4369, 86), Device(128, 99 << 10, 72 << 20, 2687, 89, 1)
A100, H100 = Device(108, 163 << 10, 40 << 20, 11517, 80), Device(132, 227 << 10, 50 << 20, 11928, 90)
DEVICES = (
    A6000, A100, H100, RTX_4090, Device(20, 99 << 10, 2 << 20, 6000, 86), Device(46, 99 << 10, 4 << 20, 6000, 87),
    Device(188, 99 << 10, 128 << 20, 3000, 120), Device(400, 227 << 10, 200 << 20, 18000, 103),
)  # fmt: skip
SHAPES = (
    (4096, 4096),
    (11008, 4096),
    (4096, 11008),
    (32000, 4096),
    (1024, 1024),
    (576, 576),
    (64, 64),
    (50257, 768),
    (32768, 32768),
)


def problem(tokens, shape, panel_rows, share=0.8, gated=False, weights=0):
    slabs = -(-(1 + gated) * shape[0] // panel_rows) * -(-shape[1] // 64)
    sparse = round(share * slabs)
    return problem_of(tokens, shape, panel_rows, (slabs - sparse, sparse), gated, weights)


KINDS = len(KEPT)
PACKINGS = [(64, False), (128, False), (64, True), (128, True)]  # rows of a panel, gated
# Configurations for many tokens that are no tile kernel of 128: by panel, weights and architecture.
FOR_MANY = {(128, W8A8, 89): "broad"}
types = pytest.mark.parametrize("weights", [0, W8A8], ids=["16-bit", "w8a8"])


@types
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("packing", PACKINGS)
def test_workspace_bound_covers_every_smaller_shape(kernel, packing, share, weights):
    """TensorRT asks for the workspace of the largest shape, once, before it knows the device.

    Rounded X and its scales come first.
    """
    panel_rows, gated = packing
    configs = [
        i
        for i, c in enumerate(kernel.configs().values())
        if (c.panel_rows, c.kinds, c.weights) == (panel_rows, 3 if weights else 2, weights)
    ]
    shared = [c.shared_bytes for c in kernel.configs().values()]
    for shape in SHAPES:
        for most in (1, 16, 17, 300, 5000, 65536):
            bound = kernel.workspace_bound(problem(most, shape, panel_rows, share, gated, weights))
            for tokens in {1, most, most // 2 + 1, max(1, most - 1), min(most, 64), min(most, 128)}:
                for device in DEVICES:
                    for fixed in (-1, *configs):
                        asked = problem(tokens, shape, panel_rows, share, gated, weights)
                        config, parts = kernel.schedule(asked, device, fixed)
                        if fixed >= 0 and device.shared_bytes < shared[fixed]:
                            assert config == -1
                            continue
                        assert config in configs and shared[config] <= device.shared_bytes
                        rounded = tokens * (-(-shape[1] // 64) * 64 + 4) if weights else 0
                        assert rounded + kernel.lib.patch_host_partial_bytes(config, parts) <= bound
                        assert 1 <= parts <= MOST_PARTS  # counters


def test_the_workspace_does_not_grow_with_the_tokens(kernel):
    bounds = [kernel.workspace_bound(problem(tokens, (32768, 32768), 128)) for tokens in (256, 65536)]
    assert bounds[0] == bounds[1] < 2**25


@types
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("device", [A6000, A100, RTX_4090], ids=["A6000", "A100", "RTX 4090"])
def test_tokens_choose_the_configuration(kernel, packing, device, weights):
    panel_rows, gated = packing
    names = list(kernel.configs())
    chosen = [
        names[kernel.schedule(problem(m, (4096, 4096), panel_rows, gated=gated, weights=weights), device)[0]]
        for m in (1, 16, 64, 8192)
    ]
    family = "w8a8-" if weights else ""
    # Where DRAM limits both, as on an RTX 4090, four tiles of 16 tokens are as fast as one of 64.
    for_some = "decode" if device is RTX_4090 and not gated else "mid"
    assert chosen[:3] == [f"{family}{kind}-{panel_rows}" for kind in ("decode", "decode", for_some)]
    for_many = FOR_MANY.get((panel_rows, weights, device.sm), "prefill")
    assert chosen[3] == f"{family}{for_many}-{panel_rows}"


def test_oversized_shared_memory_is_no_choice(kernel):
    broad = list(kernel.configs()).index("broad-128")
    asked, less = problem(8192, (4096, 4096), 128), Device(84, 95 << 10, 6 << 20, 4369, 86)
    assert [kernel.schedule(asked, device, broad)[0] for device in (less, A6000, RTX_4090, A100, H100)] == [
        -1, broad, broad, broad, broad,
    ]  # fmt: skip
    assert kernel.schedule(asked, less)[0] != broad


def test_a_last_wave_that_would_idle_is_cut(kernel):
    """512 tokens by 4096 rows are 128 tiles; 108 SMs would take two turns for 1.2 turns' work."""
    config, parts = kernel.schedule(problem(512, (4096, 4096), 128), A100)
    assert list(kernel.configs())[config] == "broad-128" and parts == 108


@pytest.mark.parametrize(
    ("sms", "blocks", "cut"),
    [
        (84, 4, (256, 336)),
        (108, 4, (256, 432)),
        (132, 3, (256, 344)),
        (188, 2, (376, 376)),
        (400, 2, (384, 384)),
    ],
)
def test_sms_get_several_blocks_of_int4(kernel, sms, blocks, cut):
    """One block leaves an SM too few warps; a table has room for the parts of so many blocks on each."""
    device = Device(sms, 99 << 10, 40 << 20, 11517, 80)
    for shape, expected in zip(((4096, 4096), (11008, 4096)), cut, strict=True):
        count = shape[0] // 64 * shape[1] // 64
        asked = problem_of(1, shape, 64, (count // 5, count - count // 5), False, INT4)
        config, parts = kernel.schedule(asked, device)
        assert list(kernel.configs())[config] == "int4-decode-64"
        assert parts == expected and min(sms, 192) < parts <= blocks * min(sms, 192) <= MOST_PARTS
        assert kernel.lib.patch_host_partial_bytes(config, parts) <= kernel.workspace_bound(asked)


def test_small_l2_walks_token_tiles_together(kernel):
    """Else each reads W from DRAM again. 24 panels x 3 token tiles of 64 are 72 parts, though there are 84 SMs."""
    names = list(kernel.configs())
    asked = problem(192, (3072, 4096), 128)
    assert kernel.schedule(asked, A6000, names.index("mid-128"))[1] == 72
    assert kernel.schedule(asked, Device(84, 99 << 10, 72 << 20, 4369, 86), names.index("mid-128"))[1] == 84
    _, parts = kernel.schedule(problem(128, (576, 576), 128), A6000)  # this one stays in L2
    assert parts > 5 * 2


def test_decode_is_cut_prefill_is_not(kernel):
    """4096 rows are 32 panels for 108 SMs."""
    _, parts = kernel.schedule(problem(1, (4096, 4096), 128), A100)
    assert parts >= 108
    assert kernel.schedule(problem(8192, (4096, 4096), 128), A100)[1] == 1


def test_a_small_linear_is_not_cut_into_crumbs(kernel):
    """Each part of 9 panels of 9 slabs has at least two dense slabs' worth of work."""
    _, parts = kernel.schedule(problem(1, (576, 576), 64, share=0.0), DEVICES[-1])
    assert parts <= 81 // 2 + 1


def test_a_benchmark_may_fix_the_configuration(kernel):
    for number, config in enumerate(kernel.configs().values()):
        for rows, gated in PACKINGS:
            asked = problem(1, (4096, 4096), rows, gated=gated)
            chosen, parts = kernel.schedule(asked, H100, number)
            fits = (rows, 2, 0) == (config.panel_rows, config.kinds, config.weights)
            assert chosen == (number if fits else -1) and (config.streams or parts == 1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("packing", PACKINGS)
def test_zero_tokens_need_no_workspace(kernel, packing, share):
    """No tokens mean no tiles, whose number must not be divided by; a negative number is handled alike."""
    panel_rows, gated = packing
    configs = list(kernel.configs().values())
    for shape in SHAPES:
        none, fewer = (problem(tokens, shape, panel_rows, share, gated) for tokens in (0, -1))
        assert kernel.workspace_bound(none) == 0
        for device in DEVICES:
            for fixed, c in ((-1, None), *enumerate(configs)):
                chosen, parts = kernel.schedule(none, device, fixed)
                fits = c is None or (
                    (c.panel_rows, c.kinds, c.weights) == (panel_rows, 2, 0)
                    and c.shared_bytes <= device.shared_bytes
                )
                assert ((chosen >= 0) == fits and parts == 1 and chosen in (fixed, -1)) or c is None
                assert kernel.schedule(fewer, device, fixed) == (-1, 1)
                assert kernel.schedule(problem(-(2**63), shape, panel_rows), device, fixed) == (-1, 1)


COSTS, BYTE_COSTS = (16, 9, 9, 13), (8, 5, 8)  # of a slab, by kind; w8a8 has three


def starts_of(panels, tiles):
    """Start of every unit in launch order: [(panel, tile, slab or None for the beginning, start)]."""
    found, at = [], 0
    costs = BYTE_COSTS if len(panels[0]) == len(BYTE_COSTS) else COSTS
    for panel, counts in enumerate(panels):
        for tile in range(tiles):
            for slab, cost in enumerate([4, *np.repeat(costs[: len(counts)], counts).tolist()]):
                found.append((panel, tile, slab - 1, at))
                at += cost
    return found, at


@pytest.mark.parametrize("tiles", [1, 3])
def test_parts_partition_the_slabs_equally(kernel, tiles):
    """The table of parts agrees with a walk over all units: a part begins at the first slab that starts in it."""
    rng = np.random.default_rng(tiles)
    for panels in (
        [(0, 0)],
        [(1, 0)],
        [(0, 1)],
        [(0, 0), (5, 5), (0, 0)],
        [(0, 0), (0, 0), (1, 0), (0, 0)],
        rng.integers(0, 20, (7, 2)).tolist(),
        rng.integers(0, 2, (500, 2)).tolist(),
        rng.integers(0, 4, (9, KINDS)).tolist(),
        rng.integers(0, 2, (90, KINDS)).tolist(),
        rng.integers(0, 4, (9, 3)).tolist(),
        rng.integers(0, 2, (90, 3)).tolist(),
    ):
        config = {2: DECODE, 3: BYTE_DECODE, KINDS: ALL_DECODE}[len(panels[0])]
        units, total = starts_of(panels, tiles)
        for parts in {1, 2, 3, 5, max(1, total // 40), max(1, total // 16)}:
            if parts > min(MOST_PARTS, max(1, total // 16)):
                continue
            index, columns = index_of(panels, rng)
            table = kernel.table(stream_of(panels, tiles, parts, index), config)
            begins = [kernel.part(table, part) for part in range(parts + 1)]
            assert begins[-1] == (len(panels) * tiles, 0, 0)
            assert [b[:2] for b in begins] == sorted(b[:2] for b in begins) and begins[0][:2] == (0, 0)
            for part, (tile, slab, column) in enumerate(begins[:-1]):
                start = -(-part * total // parts)
                # What starts in the part; the begin of a tile belongs to the tile's first slab.
                panel, of, first, _ = next(unit for unit in units if unit[3] >= start)
                assert (tile, slab) == (panel * tiles + of, max(first, 0))
                own = columns[tile // tiles]
                assert column == (own[slab] if slab < len(own) else 0)
            words = np.array(table.words)
            pointers = len(panels[0]) * (len(panels) + 1)
            fits = 2 * (parts + 1) + pointers <= len(words)
            assert table.pointers == (2 * (parts + 1) if fits else -1)
            if fits:
                held = words[table.pointers :][:pointers]
                assert (held == index[: len(held)]).all()


# 16 tokens to a tile
DECODE, ALL_DECODE, BYTE_DECODE = map(ALL.index, ("decode-64", "all-decode-64", "w8a8-decode-64"))


def index_of(panels, rng):
    """An index of panels with slabs at random columns, by kind, and the columns of each panel in order."""
    counts = np.array(panels)
    kinds = range(counts.shape[1])
    columns = [rng.integers(0, 1 << 18, counts[:, kind].sum()) for kind in kinds]
    pointers = [np.concatenate([[0], np.cumsum(counts[:, kind])]) for kind in kinds]
    split = [np.split(columns[kind], pointers[kind][1:-1]) for kind in kinds]
    own = [np.concatenate(pair).tolist() for pair in zip(*split, strict=True)]
    return np.concatenate([*pointers, *columns]).astype(np.int32), own


def stream_of(panels, tiles, parts, index):
    made = Arguments(index=index.ctypes.data, tokens=16 * tiles, panels=len(panels), parts=parts)
    made.set_slabs(64, np.array(panels).sum(0).tolist(), W8A8 if len(panels[0]) == 3 else 0)
    return made


def test_table_words_hold_the_largest_numbers(kernel):
    """2^26 - 1 tiles, 2^19 slabs of a tile, and the last of 2^18 columns."""
    last = (1 << 18) - 1
    index = np.array([0, 1 << 19, 0, 0, *[last] * (1 << 19)], np.int32)
    table = kernel.table(stream_of([(1 << 19, 0)], 1, 2, index), DECODE)
    assert kernel.part(table, 1) == (0, 1 << 18, last)
    many = (1 << 26) - 1
    one = np.array([0, 1, 0, 0, last], np.int32)
    table = kernel.table(stream_of([(1, 0)], many, MOST_PARTS, one), DECODE)
    assert kernel.part(table, MOST_PARTS) == (many, 0, 0)
    before = MOST_PARTS - 1
    assert kernel.part(table, before)[0] == -(-before * many // MOST_PARTS)


def test_streams_beyond_their_table_are_skipped(kernel):
    names = list(kernel.configs())
    for tokens, fits in ((16 * ((1 << 26) - 1), True), (16 << 26, False)):
        asked = problem(tokens, (64, 64), 64)
        assert (kernel.schedule(asked, A100, names.index("decode-64"))[0] >= 0) == fits


def test_slab_offsets_count_earlier_slabs(kernel):
    for counts in [(0, 0), (3, 0), (0, 3), (4, 5), (1, 0, 2, 3), (0, 0, 0, 2)]:
        costs = np.repeat(COSTS[: len(counts)], counts)
        starts = np.cumsum([4, *costs])[:-1] if len(costs) else np.array([])
        slabs = SlabCounts.by_kind(counts)
        for offset in range(-2, 4 + int(costs.sum()) + 30):
            found = kernel.lib.patch_host_slabs_before(offset, ctypes.byref(slabs), 0)
            assert found == int((starts < offset).sum())
