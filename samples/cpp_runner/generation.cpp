#include "generation.h"

#include <algorithm>

namespace patch_runner {
namespace {

constexpr int64_t kPadding = 0;  // any token id would do, because no row reads it

}  // namespace

Generation::Generation(const std::vector<std::vector<int64_t>>& prompts, int64_t new_tokens,
                       std::optional<int64_t> eos)
    : new_tokens_(new_tokens), eos_(eos) {
  for (const auto& prompt : prompts) prompt_ = std::max(prompt_, static_cast<int64_t>(prompt.size()));
  for (const auto& prompt : prompts) {
    rows_.push_back({prompt, {}, prompt_ - static_cast<int64_t>(prompt.size()), false});
    rows_.back().generated.reserve(new_tokens);
  }
}

bool Generation::done() const {
  return steps_ >= new_tokens_ ||
         std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.ended; });
}

void Generation::write_inputs(int64_t* ids, int64_t* positions, int64_t* mask) const {
  for (const Row& row : rows_) {
    for (int64_t slot = total() - sequence(); slot < total(); ++slot) {
      const int64_t position = slot - row.padding;
      *positions++ = std::max<int64_t>(position, 0);
      // A row that has ended repeats its last token, and its output is ignored.
      if (steps_ > 0)
        *ids++ = row.generated.back();
      else
        *ids++ = position < 0 ? kPadding : row.prompt[position];
    }
    for (int64_t slot = 0; slot < total(); ++slot) *mask++ = slot >= row.padding;
  }
}

void Generation::accept(const std::vector<int64_t>& next) {
  for (size_t i = 0; i < rows_.size(); ++i) {
    Row& row = rows_[i];
    if (row.ended) continue;
    row.generated.push_back(next[i]);
    row.ended = eos_ && next[i] == *eos_;
  }
  ++steps_;
}

}  // namespace patch_runner
