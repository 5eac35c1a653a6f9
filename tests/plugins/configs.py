"""Names of the kernels' configurations, by kind, and problems that fit them.

CONFIGS, and the names that follow from it, are for weights of 16 bits; INTEGERS, for int8 and int4, and BYTES, for w8a8,
follow them in the table.
"""

from tests.plugins.mosaic_cases import make_case

CONFIGS = (
    "decode-64", "mid-64", "prefill-64", "decode-128", "mid-128", "prefill-128",
    "gated-decode-64", "gated-mid-64", "gated-prefill-64",
    "broad-64", "broad-128", "gated-broad-64",
    "all-decode-64", "all-mid-64", "all-gated-decode-64", "all-gated-mid-64",
)  # fmt: skip
INTEGERS = (
    "int8-decode-64", "int8-mid-64", "int8-gated-decode-64", "int8-gated-mid-64",
    "int4-decode-64", "int4-mid-64", "int4-gated-decode-64", "int4-gated-mid-64",
)  # fmt: skip
BYTES = (
    "w8a8-decode-64", "w8a8-mid-64", "w8a8-prefill-64",
    "w8a8-decode-128", "w8a8-mid-128", "w8a8-prefill-128",
    "w8a8-broad-128",
    "w8a8-gated-decode-64", "w8a8-gated-mid-64", "w8a8-gated-prefill-64",
)  # fmt: skip
ALL = CONFIGS + INTEGERS + BYTES
GATED = tuple(name for name in CONFIGS if "gated" in name)
PLAIN = tuple(name for name in CONFIGS if name not in GATED)
STREAMS = tuple(name for name in CONFIGS if not name.startswith(("prefill", "gated-prefill")))


def case_for(kernel, config, tokens, shape, **how):
    """A problem packed as the configuration wants it; a gate is activated by SiLU."""
    about = kernel.configs()[config]
    gated = {"gated": True, "activation": "silu"} if about.gated else {}
    return make_case(
        tokens, shape, about.panel_rows, **(gated | {"kinds": about.kinds, "integers": about.weights} | how)
    )
