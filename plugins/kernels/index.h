// The index of a packed weight, on the host: which slabs a panel owns, and where along K each of them lies.
//
//   dense_ptr [P + 1] | sparse_ptr [P + 1] | dense_k [dense slabs] | sparse_k [2:4 slabs]
//
// First the pointers of each kind, then the columns of each kind, in the order of kKinds.  The kernels follow
// it to addresses and check nothing, so it is checked here, when a plugin is created.  More kinds of slabs
// add to both lists.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/config.h"
#include "kernels/schedule.h"

namespace patch {

inline constexpr const char* kKinds = "dense,2:4";
inline constexpr const char* kKindNames[] = {"dense", "2:4"};
inline constexpr int kKindCount = 2;

class PackedIndex {
 public:
  // Takes the index of a weight with `panels` packed panels and `columns` slabs along K.  Returns what is
  // wrong with it, or "" for an index that says where every slab lies, and lies nowhere.
  std::string take(std::vector<int32_t> values, int64_t panels, int64_t columns) {
    const int64_t pointers = panels + 1, slabs = panels * columns;
    const auto size = static_cast<int64_t>(values.size());
    if (size != kKindCount * pointers + slabs)
      return "the index has " + std::to_string(size) + " numbers; " + std::to_string(panels) + " panels of " +
             std::to_string(columns) + " slabs need " + std::to_string(kKindCount * pointers + slabs);
    int64_t stored = 0;
    for (int kind = 0; kind < kKindCount; ++kind) {
      const int32_t* own = values.data() + kind * pointers;
      if (const std::string fault = pointer_fault(kKindNames[kind], own, panels); !fault.empty())
        return "the index lies: " + fault;
      counts_[kind] = own[panels], stored += own[panels];
    }
    if (stored != slabs)
      return "the index lies: its pointers end at " + std::to_string(stored) + " slabs, and there are " +
             std::to_string(slabs);
    if (const std::string fault = column_fault(values, panels, columns); !fault.empty())
      return "the index lies: " + fault;
    values_ = std::move(values);
    return {};
  }
  const std::vector<int32_t>& values() const { return values_; }
  // Number of slabs of a kind.
  int32_t slabs(int kind) const { return counts_[kind]; }

 private:
  static std::string pointer_fault(const std::string& kind, const int32_t* own, int64_t panels) {
    if (own[0] != 0)
      return "the " + kind + " slabs of the first panel begin at " + std::to_string(own[0]) + ", must be 0";
    for (int64_t p = 0; p < panels; ++p)
      if (own[p + 1] < own[p])
        return "the " + kind + " slabs of panel " + std::to_string(p) + " begin at " +
               std::to_string(own[p]) + " and end at " + std::to_string(own[p + 1]);
    return {};
  }
  std::string column_fault(const std::vector<int32_t>& values, int64_t panels, int64_t columns) const {
    std::vector<bool> stored(panels * columns);
    const int32_t* column = values.data() + kKindCount * (panels + 1);
    for (int kind = 0; kind < kKindCount; ++kind) {
      const int32_t* own = values.data() + kind * (panels + 1);
      for (int64_t p = 0; p < panels; ++p)
        for (int32_t slab = own[p]; slab < own[p + 1]; ++slab, ++column) {
          if (*column < 0 || *column >= columns)
            return std::string(kKindNames[kind]) + " slab " + std::to_string(slab) + " lies at column " +
                   std::to_string(*column) + ", and K has " + std::to_string(columns) + " columns of 64";
          // As many slabs as places: if none is stored twice, each is stored once.
          if (stored[p * columns + *column])
            return "slab " + std::to_string(*column) + " of panel " + std::to_string(p) +
                   " is stored more than once";
          stored[p * columns + *column] = true;
        }
    }
    return {};
  }

  std::vector<int32_t> values_;
  int32_t counts_[kKindCount] = {};
};

}  // namespace patch
