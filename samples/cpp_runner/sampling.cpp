#include "sampling.h"

#include <cmath>
#include <cstring>
#include <string>

#include "errors.h"

namespace patch_runner {
namespace {

float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float magnitude;
  if (exponent == 31)
    magnitude = fraction ? NAN : INFINITY;
  else if (exponent == 0)
    magnitude = std::ldexp(static_cast<float>(fraction), -24);
  else
    magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace

float value_at(Element element, const void* values, int64_t index) {
  if (element == Element::kFloat) return static_cast<const float*>(values)[index];
  const uint16_t bits = static_cast<const uint16_t*>(values)[index];
  return element == Element::kHalf ? from_half(bits) : from_bfloat16(bits);
}

int64_t argmax(Element element, const void* logits, int64_t vocabulary) {
  int64_t best = 0;
  float most = -INFINITY;
  for (int64_t token = 0; token < vocabulary; ++token) {
    const float value = value_at(element, logits, token);
    if (std::isnan(value)) throw RunError("the logit of token " + std::to_string(token) + " is NaN");
    if (value > most) most = value, best = token;
  }
  return best;
}

}  // namespace patch_runner
