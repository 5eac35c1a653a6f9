// The index of a packed weight, on the host: which slabs a panel owns, and where along K each of them lies.
//
//   dense_ptr [P + 1] | 2:4_ptr [P + 1] | ... | dense_k [dense slabs] | 2:4_k [2:4 slabs] | ...
//
// First the pointers of each kind, then the columns of each kind, in the order of their numbers.  The
// kernels follow it to addresses and check nothing, so it is checked here, when a plugin is created.  An
// index that is stored has dense, 2:4 and the other kinds that its linear names.  One for a device has the
// kinds that its kernel knows (kinds_for): those two, or all that go with the type of weights.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/config.h"
#include "kernels/kinds.h"
#include "kernels/schedule.h"

namespace patch {

// The kinds of slabs that a linear has tensors for, as numbers in ascending order: dense, 2:4, and others.
using Kinds = std::vector<int>;

inline Kinds all_kinds(Weights weights) {
  Kinds kinds(kind_count(weights));
  std::iota(kinds.begin(), kinds.end(), 0);
  return kinds;
}
// Names of the kinds, as the attribute `kinds` has them.
inline std::string names_of(const Kinds& kinds, Weights weights) {
  std::string names;
  for (const int kind : kinds) names += (names.empty() ? "" : ",") + std::string(kind_of(kind, weights).name);
  return names;
}
// Reads them.  Returns no kinds for a text that is not as names_of writes it.
inline Kinds kinds_named(std::string_view names, Weights weights) {
  Kinds kinds;
  std::string_view rest = names;
  for (const int kind : all_kinds(weights)) {
    const std::string_view next = rest.substr(0, rest.find(','));
    if (next != kind_of(kind, weights).name) continue;
    kinds.push_back(kind);
    rest.remove_prefix(std::min(rest.size(), next.size() + 1));
  }
  const bool usual = kinds.size() >= kPatchKinds && kinds[kPatchKinds - 1] == kPatchKinds - 1;
  return usual && names_of(kinds, weights) == names ? kinds : Kinds();
}

class PackedIndex {
 public:
  // Takes the index of a weight with `panels` packed panels and `columns` slabs along K.  Returns what is
  // wrong with it, or "" if it gives each slab of the weight one place.
  std::string take(std::vector<int32_t> values, Kinds kinds, Weights weights, int64_t panels,
                   int64_t columns) {
    const int64_t pointers = panels + 1, slabs = panels * columns;
    const auto size = static_cast<int64_t>(values.size()), count = static_cast<int64_t>(kinds.size());
    if (size != count * pointers + slabs)
      return "the index has " + std::to_string(size) + " numbers; " + std::to_string(panels) + " panels of " +
             std::to_string(columns) + " slabs of the kinds " + names_of(kinds, weights) + " need " +
             std::to_string(count * pointers + slabs);
    int64_t stored = 0;
    counts_ = {};
    for (int64_t place = 0; place < count; ++place) {
      const int32_t* own = values.data() + place * pointers;
      const std::string name = kind_of(kinds[place], weights).name;
      if (const std::string fault = pointer_fault(name, own, panels); !fault.empty())
        return "the index is wrong: " + fault;
      counts_.of[kinds[place]] = own[panels], stored += own[panels];
    }
    if (stored != slabs)
      return "the index is wrong: its pointers end at " + std::to_string(stored) + " slabs, and there are " +
             std::to_string(slabs);
    if (const std::string fault = column_fault(values, kinds, weights, panels, columns); !fault.empty())
      return "the index is wrong: " + fault;
    values_ = std::move(values), kinds_ = std::move(kinds), names_ = names_of(kinds_, weights);
    weights_ = weights;
    if (!is_for_device()) for_device_ = make_for_device();
    return {};
  }
  // As it is stored.
  const std::vector<int32_t>& values() const { return values_; }
  const Kinds& kinds() const { return kinds_; }
  const std::string& names() const { return names_; }
  const SlabCounts& slabs() const { return counts_; }

  // As it is for a device.
  const std::vector<int32_t>& for_device() const { return is_for_device() ? values_ : for_device_; }

 private:
  // Returns true if a device gets it as it is stored.
  bool is_for_device() const { return static_cast<int>(kinds_.size()) == kinds_for(counts_, weights_); }
  std::vector<int32_t> make_for_device() const {
    const auto places = static_cast<int64_t>(kinds_.size());
    const int64_t stored = slabs_in_all(counts_);
    const int64_t pointers = (static_cast<int64_t>(values_.size()) - stored) / places;
    std::vector<int32_t> all;
    int64_t place = 0;
    for (int kind = 0; kind < kinds_for(counts_, weights_); ++kind) {
      const bool there = place < places && kinds_[place] == kind;
      const auto own = values_.begin() + place * pointers;
      if (there)
        all.insert(all.end(), own, own + pointers);
      else
        all.insert(all.end(), pointers, 0);
      place += there;
    }
    all.insert(all.end(), values_.begin() + places * pointers, values_.end());
    return all;
  }
  static std::string pointer_fault(const std::string& kind, const int32_t* own, int64_t panels) {
    if (own[0] != 0)
      return "the " + kind + " slabs of the first panel begin at " + std::to_string(own[0]) + ", must be 0";
    for (int64_t p = 0; p < panels; ++p)
      if (own[p + 1] < own[p])
        return "the " + kind + " slabs of panel " + std::to_string(p) + " begin at " +
               std::to_string(own[p]) + " and end at " + std::to_string(own[p + 1]);
    return {};
  }
  static std::string column_fault(const std::vector<int32_t>& values, const Kinds& kinds, Weights weights,
                                  int64_t panels, int64_t columns) {
    std::vector<bool> stored(panels * columns);
    const int32_t* column = values.data() + static_cast<int64_t>(kinds.size()) * (panels + 1);
    for (size_t place = 0; place < kinds.size(); ++place) {
      const int32_t* own = values.data() + static_cast<int64_t>(place) * (panels + 1);
      for (int64_t p = 0; p < panels; ++p)
        for (int32_t slab = own[p]; slab < own[p + 1]; ++slab, ++column) {
          if (*column < 0 || *column >= columns)
            return std::string(kind_of(kinds[place], weights).name) + " slab " + std::to_string(slab) +
                   " lies at column " + std::to_string(*column) + ", and K has " + std::to_string(columns) +
                   " columns of 64";
          // As many slabs as places: if none is stored twice, each is stored once.
          if (stored[p * columns + *column])
            return "slab " + std::to_string(*column) + " of panel " + std::to_string(p) +
                   " is stored more than once";
          stored[p * columns + *column] = true;
        }
    }
    return {};
  }

  std::vector<int32_t> values_, for_device_;
  Kinds kinds_;
  std::string names_;
  Weights weights_{};
  SlabCounts counts_{};
};

}  // namespace patch
