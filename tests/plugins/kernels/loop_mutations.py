"""Bugs to put into the loop over slabs, the copies ahead of it, the decoders of slabs and the choice of vectors."""

from tests.plugins.mutations import Mutation

__all__ = ["LOOP_MUTATIONS"]

ARGUMENTS, COPIES, LOOP = "kernels/arguments.h", "kernels/copies.cuh", "kernels/multiply.cuh"
DENSE, SPARSE, STREAMS = (
    "kernels/decode_dense16.cuh",
    "kernels/decode_sparse24.cuh",
    "kernels/streams.cuh",
)
# name: (file, correct text, text with the bug)
LOOP_MUTATIONS: dict[str, Mutation] = {
    # the ring
    "a slot fewer before the loop": (
        LOOP,
        "for_each_index<G::kStages - 1>",
        "for_each_index<G::kStages - 2>",
    ),
    "some threads fill one place": (LOOP, "fill_(shared + place)", "fill_(shared + place % 1024)"),
    "commits before the last share": (
        LOOP,
        "if constexpr (Share + 1 != Plan::kFills)",
        "if constexpr (Share != 0)",
    ),
    "the last share of the copies lost": (
        LOOP,
        "if constexpr (Share < Plan::kFills)",
        "if constexpr (Share + 1 < Plan::kFills)",
    ),
    "a slab copied again": (LOOP, "        ring.prepare();\n", ""),
    "slots one further apart": (
        LOOP,
        "read_ == 0 ? G::kStageBytes - G::kRingBytes",
        "read_ == 0 ? -G::kRingBytes",
    ),
    "no swizzle when writing": (COPIES, "((chunk ^ (row & 7)) << 4)", "(chunk << 4)"),
    # rows and columns of X
    "tokens of the tile's first row": (
        COPIES,
        "tokens_left_ = a_.tokens - row",
        "tokens_left_ = a_.tokens - first_token",
    ),
    "upper halves of tokens that are not there": (COPIES, "high_left_ > J * kRows", "high_left_ > 0"),
    "rows of the round before": (
        COPIES,
        "static_cast<int64_t>(J * kRows) * a_",
        "static_cast<int64_t>(J / 2 * kRows) * a_",
    ),
    "copies slabs that are not there": (
        COPIES,
        "bytes_left_ = exists ? values_left_ + extra_bytes : 0;",
        "bytes_left_ = values_left_ + extra_bytes;",
    ),
    "a stream's column late": (
        COPIES,
        "      begin_run();\n    }\n    column_ = load_index(columns_);",
        "      begin_run();\n    } else {\n      column_ = load_index(columns_);\n    }",
    ),
    "X at once whatever its alignment": (ARGUMENTS, "&& aligned(a->x, 16) ? 8", "? 8"),
    "Y in vectors whatever its alignment": (ARGUMENTS, " || !aligned(a->y, 2 * a->y_vector)", ""),
    "pairs of the residual whatever its alignment": (ARGUMENTS, " || !aligned(a->residual, 4))", ")"),
    # kinds of slabs
    "2:4 slabs as far apart as dense ones": (
        COPIES,
        "values_ += value_bytes_, extra_",
        "values_ += G::kDenseBytes, extra_",
    ),
    "metadata as far apart as values": (
        COPIES,
        "extra_ += extra_bytes_, ++",
        "extra_ += value_bytes_, ++",
    ),
    "metadata over the values": (
        COPIES,
        "extra_bytes_ + copies_.place() - value_bytes_;",
        "extra_bytes_ + copies_.place();",
    ),
    "2:4 slabs decoded as dense": (
        STREAMS,
        "using Type = Sparse24<T, G>;",
        "using Type = Dense16<T, G>;",
    ),
    "dense slabs decoded as 2:4": (
        LOOP,
        "const Named<Decoder<T, G, kind>> decoder;",
        "const Named<Decoder<T, G, G::kKinds - 1>> decoder;",
    ),
    "the gate's slabs decoded as the kind before": (
        LOOP,
        "multiply(decoder, 0,",
        "multiply(Named<Decoder<T, G, (kind > 0 ? kind - 1 : 0)>>(), 0,",
    ),
    # operands loaded ahead
    "metadata of the slab before": (LOOP, "    weights.begin_slab();\n", ""),
    "metadata a step late": (SPARSE, "if (Step == 0) next_places_", "if (Step == 1) next_places_"),
    "metadata of another warp": (SPARSE, "at.fragment / 4 +", "at.lane * 4 +"),
    "weights of the first step in each 2:4 step": (SPARSE, "(Step * G::kRowBlocks + m) * 512", "m * 512"),
    "weights of the first step in each dense step": (DENSE, "(Step * G::kRowBlocks + m) * 512", "m * 512"),
    "weights of another warp": (DENSE, "slot + at.fragment +", "slot + at.lane * 16 +"),
    "weights of each unit's first step": (LOOP, "step = unit / U::kPerStep", "step = 0"),
    "sums of the tokens before": (LOOP, "(acc[m][2 * n + 1], m", "(acc[m][2 * n], m"),
    "one slab too many": (LOOP, "if (slabs <= 0) return;", "if (slabs < 0) return;"),
    "the second slab's operands from the first": (
        LOOP,
        "        ring.turn();\n      }\n      load(Index<later>());",
        "      }\n      load(Index<later>());\n      if constexpr (later == 0) ring.turn();",
    ),
}
