"""verify.json as `verify` writes it with all options."""

from typing import Any

import numpy as np

from tests.report.page.outs import Out

_STATS = {"max": 0.0031, "mean": 0.00021, "median": 0.00016, "rms": 0.00029}


def verified(out: Out) -> dict[str, Any]:
    """verify/verify.json of a decoder with all questions."""
    rng = np.random.default_rng(1)
    errors = rng.uniform(0.05, 0.35, len(out.shapes))
    shares = errors**2 / (errors**2).sum()
    depths = sorted({int(name.split(".")[2]) for name in out.shapes})
    rows = (
        ("oneshot", 0.4, 22.19, 412.7),
        ("dense", 0.0, 15.68, 0.0),
        ("uniform-2:4", 0.5, 41.3, 120.4),
        ("ffn-only", 0.381, 21.4, 98.1),
        ("magnitude-tiles", 0.4, 36.9, 101.0),
        ("random-tiles", 0.4, 35.2, 99.2),
        ("unstructured", 0.4, 17.6, 140.9),
    )
    return {
        "schema": 1,
        "date": "2026-11-25T18:00:00+00:00",
        "versions": {"patch-compile": "0.1.0"},
        "seconds": {"compiled": 31.0, "baselines": 640.2},
        "notes": ["the engine was not run: there is no GPU here"],
        "passed": False,
        "text": {
            "name": "wikitext.txt",
            "path": "/texts/wikitext.txt",
            "sha256": "ab" * 32,
            "windows": 8,
            "length": 1024,
            "tokens": 8192,
        },
        "compiled": {
            "passed": True,
            "error": 0.0031,
            "tolerance": 0.0118,
            "why": "3·u·√n, u = 4.88e-04 for float16, n = 65 roundings",
            "against": "pruned checkpoint",
            "runs": [
                {
                    "name": "prefill, 96 tokens",
                    "phase": "prefill",
                    "tokens": 96,
                    "past": 0,
                    "error": 0.0031,
                    "stats": _STATS,
                },
                {
                    "name": "decode after 96",
                    "phase": "decode",
                    "tokens": 1,
                    "past": 96,
                    "error": 0.0012,
                    "stats": _STATS,
                },
            ],
            "first_difference": None,
        },
        "pruned": {
            "perplexity": {"dense": 15.68, "pruned": 22.19, "increase": 0.415},
            "kl": 0.331,
            "top1_agreement": 0.672,
            "logits": {"max": 12.1, "mean": 0.81, "median": 0.62, "rms": 1.07, "scale": 29.4},
            "tokens": 8192,
            "how": "wikitext.txt, 8 windows × 1024 tokens, float16, ONNX Runtime",
        },
        "built": {"ran": False, "why": "an engine for sm86 runs on such a GPU alone"},
        "where": {
            "linears": [
                {
                    "name": name,
                    "block": int(name.split(".")[2]),
                    "kind": name.rpartition(".")[2],
                    "error": float(error),
                    "share": float(share),
                    "alone": float(share * 0.4),
                    "restored": float(-share * 0.3),
                }
                for name, error, share in zip(out.shapes, errors, shares, strict=True)
            ],
            "blocks": [
                {"block": depth, "error": 0.04 + 0.31 * (depth / len(depths)) ** 0.7} for depth in depths
            ],
            "how": (
                "error: ‖X(W − W′)ᵀ‖ / ‖XWᵀ‖, X what reaches the linear in the dense model; share: of the sum of squared "
                "errors of all linears; alone: change of the loss, nats per token, when this linear alone is pruned; "
                "restored: when it alone is dense again, over 2048 tokens"
            ),
        },
        "baselines": {
            "rows": [
                {"name": n, "ratio": r, "perplexity": p, "seconds": s, "deployable": n != "unstructured"}
                for n, r, p, s in rows
            ],
            "beaten_by": ["ffn-only"],
            "windows": 8,
            "length": 1024,
            "dtype": "float32",
        },
        "tasks": {
            "harness": "lm-eval 0.4.13",
            "backend": "hf",
            "rows": [
                {
                    "task": "tiny-choice",
                    "metric": "acc",
                    "dense": 0.62,
                    "pruned": 0.55,
                    "dense_stderr": 0.03,
                    "pruned_stderr": 0.031,
                    "samples": 240,
                },
                {
                    "task": "tiny-continuation",
                    "metric": "acc",
                    "dense": 0.41,
                    "pruned": 0.43,
                    "dense_stderr": None,
                    "pruned_stderr": None,
                    "samples": 100,
                },
            ],
            "notes": [],
        },
        "generated": [
            {
                "prompt": "Water boils at",
                "dense": " 100 degrees Celsius.",
                "pruned": " 100 degrees Fahrenheit.",
                "same_tokens": 3,
                "tokens": 24,
            },
            {
                "prompt": "The cat",
                "dense": " sat on the mat.",
                "pruned": " sat on the mat.",
                "same_tokens": 6,
                "tokens": 6,
            },
        ],
        "checks": [
            {
                "ask": "ppl:+5%",
                "what": "perplexity",
                "value": 22.19,
                "limit": 16.464,
                "at_least": False,
                "passed": False,
            },
            {
                "ask": "top1:60%",
                "what": "share of positions with the dense model's next token",
                "value": 0.672,
                "limit": 0.6,
                "at_least": True,
                "passed": True,
            },
        ],
    }
