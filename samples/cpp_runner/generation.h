// Tokens of a batch during generation, and the engine's inputs for each step.
//
// Shorter prompts are padded on the left, so that every row ends with its last token and all rows append at
// the same slot of the cache.  The mask hides the padding, and positions do not count it:
//
//   prompts 5,6,7 and 8     ids  5 6 7    mask  1 1 1    positions  0 1 2
//                                0 0 8          0 0 1               0 0 0
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

namespace patch_runner {

class Generation {
 public:
  Generation(const std::vector<std::vector<int64_t>>& prompts, int64_t new_tokens,
             std::optional<int64_t> eos);
  // Not copyable: a copy would lose the reserved capacity that accept() relies on.
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  int64_t batch() const { return static_cast<int64_t>(rows_.size()); }
  int64_t prompt() const { return prompt_; }          // tokens of the longest prompt
  int64_t new_tokens() const { return new_tokens_; }  // most new tokens per row
  int64_t sequence() const { return steps_ == 0 ? prompt_ : 1; }
  int64_t total() const { return prompt_ + steps_; }  // tokens in the cache after the next step
  bool done() const;

  // Writes the inputs of the next step: ids and positions [batch, sequence], mask [batch, total].
  void write_inputs(int64_t* ids, int64_t* positions, int64_t* mask) const;
  // Appends the next token of every row.  Allocates nothing.
  void accept(const std::vector<int64_t>& next);

  const std::vector<int64_t>& continuation(int64_t row) const { return rows_[row].generated; }

 private:
  struct Row {
    std::vector<int64_t> prompt, generated;
    int64_t padding;
    bool ended;
  };

  std::vector<Row> rows_;
  int64_t prompt_ = 0, new_tokens_, steps_ = 0;
  std::optional<int64_t> eos_;
};

}  // namespace patch_runner
