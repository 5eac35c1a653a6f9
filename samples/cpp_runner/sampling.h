#pragma once
#include <cstdint>

#include "decoder_io.h"

namespace patch_runner {

// The `index`th value at `values` as fp32; `element` is fp16, bf16 or fp32.
float value_at(Element element, const void* values, int64_t index);

// The most likely token, the first of equals.  Throws RunError when a logit is NaN.
int64_t argmax(Element element, const void* logits, int64_t vocabulary);

}  // namespace patch_runner
