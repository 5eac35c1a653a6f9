"""Names of the kernels' configurations, by kind, and problems that fit them.

CONFIGS, and the names that follow from it, are for weights of 16 bits; INTEGERS, for int8 and int4, and BYTES, for w8a8,
follow them in the table.
"""

from tests.plugins.mosaic_cases import make_case

CONFIGS = (
    "decode-64", "mid-64", "prefill-64", "decode-128", "mid-128", "prefill-128", "broad-64", "broad-128",
    "all-decode-64", "all-mid-64",
)  # fmt: skip
INTEGERS = ("int8-decode-64", "int8-mid-64", "int4-decode-64", "int4-mid-64")
BYTES = (
    "w8a8-decode-64", "w8a8-mid-64", "w8a8-prefill-64",
    "w8a8-decode-128", "w8a8-mid-128", "w8a8-prefill-128",
    "w8a8-broad-128",
)  # fmt: skip
ALL = CONFIGS + INTEGERS + BYTES
STREAMS = tuple(name for name in CONFIGS if not name.startswith("prefill"))
BYTE_STREAMS = tuple(name for name in BYTES if "prefill" not in name)


def case_for(kernel, config, tokens, shape, *, gated=False, **how):
    """A problem packed as the configuration wants it.

    gated: of a gate, whose activation is SiLU if none is given, and an up, each with a multiple of 8 rows, at most as many
    as the shape's.
    """
    about = kernel.configs()[config]
    if gated:
        shape = max(8, shape[0] // 8 * 8), shape[1]
        how = {"activation": "silu"} | how
    how = {"kinds": about.kinds, "integers": about.weights} | how
    return make_case(tokens, shape, about.panel_rows, gated=gated, **how)
