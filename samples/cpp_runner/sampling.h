#pragma once
#include <cstdint>

#include "decoder_io.h"

namespace patch_runner {

// Returns value number `index` as fp32.  element: fp16, bf16 or fp32.
float value_at(Element element, const void* values, int64_t index);

// Returns the most likely token, the first of equal ones.  Throws a RunError if a logit is NaN.
int64_t argmax(Element element, const void* logits, int64_t vocabulary);

}  // namespace patch_runner
