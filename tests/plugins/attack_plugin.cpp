// Attacks the TensorRT plugin's host code with random attributes, indices, shapes, types and tactics.  It is
// built with AddressSanitizer and UBSan, which end it at the first fault.  Usage: attack_plugin SEED CASES
//
// Most of a case is valid and a few things of it are not, so that every check is met from both sides.  What
// is refused must say why in the log.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/schedule.h"
#include "tensorrt/patch_linear_creator.h"
#include "tensorrt/patch_linear_plugin.h"

extern "C" {
void patch_plugin_device(const patch::Device* device);
const char* patch_plugin_messages();
void patch_plugin_launched(int* counts);
}

namespace {

using namespace nvinfer1;

constexpr int64_t kNumbers[] = {0,         1,         2,         3,         4,         5,
                                7,         8,         63,        64,        65,        128,
                                260,       4096,      11008,     1 << 20,   1 << 24,   (1 << 24) + 4,
                                INT32_MAX, 1LL << 31, 1LL << 32, 1LL << 40, 1LL << 62, INT64_MAX,
                                -1,        -2,        -4,        -64,       INT32_MIN, -(1LL << 32),
                                INT64_MIN};
constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF,  DataType::kBF16, DataType::kINT8,
                               DataType::kINT32, DataType::kINT64, DataType::kFP8};
constexpr patch::Device kDevices[] = {{},
                                      {108, 163 << 10, 40 << 20, 11517, 80, 0, 768},
                                      {132, 227 << 10, 50 << 20, 11928, 90, 0, 1556},
                                      {1, 227 << 10, 50 << 20, 1 << 20, 90, 0, 1 << 30},
                                      {46, 48 << 10, 0, 0, 0, 0, 0},
                                      {1 << 20, 99 << 10, INT32_MAX, 1 << 20, 1 << 16, 1, 0}};

class Attack {
 public:
  explicit Attack(uint64_t seed) : random_(seed) {}

 private:
  std::mt19937_64 random_;
  uint64_t below(uint64_t n) { return random_() % n; }
  bool chance(uint64_t one_in) { return below(one_in) == 0; }
  template <class Options>
  auto& pick(const Options& options) {
    return options[below(std::size(options))];
  }

 public:
  uint64_t launches = 0;

  // Returns true if anything was refused.  Ends the program at a fault.
  bool run() {
    patch_plugin_device(&pick(kDevices));
    patch_plugin_messages();
    attributes_ = {};
    attributes_.in_features = static_cast<int32_t>(4 * below(100) + 4);
    attributes_.out_features = static_cast<int32_t>(below(400) + 1);
    attributes_.gated = chance(3);
    if (attributes_.gated && !chance(10)) attributes_.out_features += -attributes_.out_features & 7;
    attributes_.panel_rows = chance(2) ? 64 : 128;
    attributes_.residual = chance(3);
    attributes_.weights = chance(2) ? 0 : static_cast<int32_t>(below(patch::kWeightTypeCount));
    const patch::Weights weights = patch::weights_of(attributes_.weights);
    const bool bytes = weights == patch::Weights::kW8A8;
    kinds_ = {0, 1};
    if (chance(2)) {
      if (!bytes && !chance(20)) attributes_.panel_rows = 64;
      for (int kind = patch::kPatchKinds; kind < patch::kind_count(weights); ++kind)
        if (chance(3)) kinds_.push_back(kind);
    }
    attributes_.activation = static_cast<int32_t>(below(patch::kActivationCount));
    if (patch::is_quantised(weights) && !bytes && !chance(20)) attributes_.panel_rows = 64;
    if (weights == patch::Weights::kInt4 && !chance(20)) attributes_.in_features *= 16;
    if (chance(4)) attributes_.in_features = large(4);
    if (chance(4)) attributes_.out_features = large(1);
    const std::unique_ptr<IPluginV3> made(create());
    if (!made) return refused("createPlugin");
    auto& plugin = static_cast<patch::PatchLinearPlugin&>(*made);
    bool no = configure(plugin);
    std::unique_ptr<IPluginV3> context(plugin.attachToContext(nullptr));
    require(context != nullptr, "attachToContext made nothing");
    require(plugin.getFieldsToSerialize() != nullptr, "nothing to serialize");
    return execute(static_cast<patch::PatchLinearPlugin&>(*context)) || no;
  }

 private:
  int32_t large(int32_t step) { return static_cast<int32_t>(below((2 << below(24)) / step + 1) + 1) * step; }
  static void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "fault: %s\n", what);
    std::abort();
  }
  static bool refused(const char* by) {
    if (*patch_plugin_messages() == '\0') {
      std::fprintf(stderr, "fault: %s refused without a word\n", by);
      std::abort();
    }
    return true;
  }

  IPluginV3* create() {
    static const char* const kNames[] = {"in_features", "out_features", "panel_rows", "gated", "residual"};
    const int32_t values[] = {attributes_.in_features, attributes_.out_features, attributes_.panel_rows,
                              attributes_.gated, attributes_.residual};
    std::vector<std::unique_ptr<char[]>> memory;  // of exactly the bytes that a field says
    std::vector<PluginField> fields;
    for (int i = 0; i < 5; ++i) {
      int32_t value = values[i];
      if (chance(60)) value = static_cast<int32_t>(pick(kNumbers));
      memory.emplace_back(new char[sizeof(value) + 1]);
      char* at = memory.back().get() + chance(4);  // not aligned
      std::memcpy(at, &value, sizeof(value));
      fields.emplace_back(kNames[i], at, PluginFieldType::kINT32, 1);
    }
    std::string name = patch::kActivationNames[attributes_.activation];
    if (chance(60)) name = std::string(below(200), 'g');
    memory.emplace_back(new char[name.size() + 1]);
    std::memcpy(memory.back().get(), name.c_str(), name.size() + 1);
    fields.emplace_back("activation", memory.back().get(), PluginFieldType::kCHAR,
                        static_cast<int32_t>(name.size() + chance(2)));
    std::string weights = patch::kWeightTypeNames[attributes_.weights];
    if (chance(60)) weights = chance(2) ? "int2" : std::string(below(200), 'i');
    memory.emplace_back(new char[weights.size() + 1]);
    std::memcpy(memory.back().get(), weights.data(), weights.size());
    if (attributes_.weights > 0 || chance(2))
      fields.emplace_back("weights", memory.back().get(), PluginFieldType::kCHAR,
                          static_cast<int32_t>(weights.size()));
    std::string kinds = patch::names_of(kinds_, patch::weights_of(attributes_.weights));
    if (chance(60)) kinds = chance(2) ? "dense,8:16" : std::string(below(200), ',');
    memory.emplace_back(new char[kinds.size() + 1]);
    std::memcpy(memory.back().get(), kinds.data(), kinds.size());
    fields.emplace_back("kinds", memory.back().get(), PluginFieldType::kCHAR,
                        static_cast<int32_t>(kinds.size()));
    index_ = index_of(attributes_);
    while (chance(12) && !index_.empty())
      index_[below(index_.size())] = static_cast<int32_t>(chance(2) ? pick(kNumbers) : below(9));
    if (chance(60)) index_.resize(below(index_.size() + 9));
    memory.emplace_back(new char[4 * index_.size() + 1]);
    char* numbers = memory.back().get() + chance(4);
    if (!index_.empty()) std::memcpy(numbers, index_.data(), 4 * index_.size());
    fields.emplace_back("index", numbers, PluginFieldType::kINT32, static_cast<int32_t>(index_.size()));
    while (chance(12)) spoil(fields[below(fields.size())]);
    PluginFieldCollection all{static_cast<int32_t>(fields.size()), fields.data()};
    if (chance(100)) all = {chance(2) ? -3 : 4, nullptr};
    return creator_.createPlugin(chance(10) ? nullptr : "linear", chance(100) ? nullptr : &all,
                                 TensorRTPhase::kBUILD);
  }
  // Slabs of random kinds, the columns of each panel in order; nothing for a weight with too many.
  std::vector<int32_t> index_of(const patch::Attributes& a) {
    const int64_t panels = patch::ceil_div(int64_t{a.out_features} << (a.gated != 0), a.panel_rows);
    const int64_t columns = patch::ceil_div(a.in_features, 64);
    if (panels * columns > 20000) return {};
    const size_t kinds = kinds_.size();
    std::vector<std::vector<int32_t>> lists(2 * kinds);  // pointers of each kind, then columns
    for (int64_t panel = 0; panel <= panels; ++panel) {
      for (size_t place = 0; place < kinds; ++place)
        lists[place].push_back(static_cast<int32_t>(lists[kinds + place].size()));
      for (int64_t column = 0; panel < panels && column < columns; ++column)
        lists[kinds + below(kinds)].push_back(static_cast<int32_t>(column));
    }
    std::vector<int32_t> all;
    for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
    return all;
  }

  void spoil(PluginField& field) {
    switch (below(5)) {
      case 0:
        field.name = nullptr;
        return;
      case 1:
        field.name = "another";
        return;
      case 2:
        field.data = nullptr;
        return;
      case 3:
        field.length = chance(2) ? -1 : 0;
        return;
      default:
        field.type = chance(2) ? PluginFieldType::kINT64 : PluginFieldType::kUNKNOWN;
    }
  }

  std::vector<PluginTensorDesc> inputs() {
    const patch::Attributes& a = attributes_;
    const int64_t rows = int64_t{a.out_features} << (a.gated != 0);
    const int64_t panels = patch::ceil_div(rows, a.panel_rows);
    const auto kinds = static_cast<int64_t>(kinds_.size());
    const bool whole = static_cast<int64_t>(index_.size()) >= kinds * (panels + 1);
    const patch::Weights weights = patch::weights_of(a.weights);
    const bool words = patch::is_quantised(weights);
    const bool half = a.weights == 1 || a.weights == 2 ? a.weights == 1 : chance(2);
    const DataType type = half ? DataType::kHALF : DataType::kBF16;
    const int64_t tokens = chance(8) ? pick(kNumbers) : static_cast<int64_t>(below(9000));
    std::vector<PluginTensorDesc> in;
    const auto add = [&in](DataType of, std::initializer_list<int64_t> dims) {
      PluginTensorDesc d{};
      d.type = of, d.format = TensorFormat::kLINEAR, d.dims.nbDims = static_cast<int32_t>(dims.size());
      std::copy(dims.begin(), dims.end(), d.dims.d);
      in.push_back(d);
    };
    const int64_t batch = chance(12) ? pick(kNumbers) : 1;
    add(type, {batch, tokens, a.in_features});
    for (int64_t place = 0; place < kinds; ++place) {
      const int64_t count = whole ? index_[place * (panels + 1) + panels] : 3;
      add(words ? DataType::kINT32 : type,
          {count, a.panel_rows * patch::value_bytes(kinds_[place], weights) / (words ? 4 : 2)});
      if (place > 0) add(DataType::kINT32, {count, a.panel_rows * 2});
    }
    if (weights == patch::Weights::kInt8) add(DataType::kFLOAT, {panels * a.panel_rows});
    if (chance(2)) add(type, {rows});
    if (a.residual) add(type, {batch, tokens, a.out_features});
    while (chance(12)) spoil(in[below(in.size())]);
    if (chance(30)) in.resize(below(in.size() + 4));
    in.shrink_to_fit();
    return in;
  }
  void spoil(PluginTensorDesc& d) {
    switch (below(4)) {
      case 0:
        d.type = pick(kTypes);
        return;
      case 1:
        d.dims.nbDims = static_cast<int32_t>(below(12)) - 2;
        return;
      case 2:
        d.dims.d[below(Dims::MAX_DIMS)] = pick(kNumbers);
        return;
      default:
        d.format = chance(2) ? TensorFormat::kCHW32 : TensorFormat::kHWC8;
    }
  }

  bool configure(patch::PatchLinearPlugin& plugin) {
    std::vector<DynamicPluginTensorDesc> in;
    for (const PluginTensorDesc& d : inputs()) {
      DynamicPluginTensorDesc dynamic{};
      dynamic.desc = d, dynamic.min = dynamic.opt = dynamic.max = d.dims;
      if (in.empty() && chance(2)) dynamic.desc.dims.d[below(3)] = -1;
      if (chance(60)) dynamic.max.nbDims = static_cast<int32_t>(below(12)) - 2;
      if (chance(60)) dynamic.opt.nbDims = static_cast<int32_t>(below(12)) - 2;
      if (chance(60)) dynamic.max.d[below(Dims::MAX_DIMS)] = pick(kNumbers);
      in.push_back(dynamic);
    }
    const auto count = static_cast<int32_t>(in.size());
    const int32_t outputs = chance(40) ? static_cast<int32_t>(below(4)) - 1 : 1;
    DataType types[] = {DataType::kFLOAT};
    std::vector<DataType> given;
    for (const auto& d : in) given.push_back(d.desc.type);
    given.shrink_to_fit();
    bool no = false;
    if (plugin.getOutputDataTypes(types, outputs, given.data(), count) != 0)
      no = refused("getOutputDataTypes");
    std::vector<DynamicPluginTensorDesc> all = in;
    all.resize(in.size() + 1);
    plugin.supportsFormatCombination(static_cast<int32_t>(below(in.size() + 3)) - 1, all.data(), count,
                                     outputs);
    if (plugin.configurePlugin(in.data(), count, nullptr, outputs) != 0) no = refused("configurePlugin");
    const bool bound = plugin.getWorkspaceSize(in.data(), count, nullptr, outputs) < (size_t{1} << 62);
    require(bound, "a workspace beyond all memory");
    patch_plugin_messages();
    std::vector<int32_t> tactics(plugin.getNbTactics());
    require(plugin.getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size())) == 0, "no tactics");
    const int32_t tactic = chance(4) ? static_cast<int32_t>(pick(kNumbers)) : pick(tactics);
    if (plugin.setTactic(tactic) != 0) no = refused("setTactic");
    return no;
  }

  bool execute(patch::PatchLinearPlugin& plugin) {
    const std::vector<PluginTensorDesc> in = inputs();
    int launched[3];
    patch_plugin_launched(launched);
    const int32_t outputs = chance(40) ? static_cast<int32_t>(below(4)) - 1 : 1;
    if (plugin.onShapeChange(in.data(), static_cast<int32_t>(in.size()), nullptr, outputs) != 0)
      return refused("onShapeChange");
    std::vector<const void*> tensors(in.size(), memory_.data());
    void* y = memory_.data();
    const bool missing = chance(10);
    if (missing) tensors[below(tensors.size())] = nullptr;
    const int code = plugin.enqueue(in.data(), nullptr, tensors.data(), &y, memory_.data(), nullptr);
    patch_plugin_launched(launched);
    launches += launched[0];
    bool none = false;
    for (int32_t i = 0; i + 1 < in[0].dims.nbDims; ++i) none |= in[0].dims.d[i] == 0;
    require(!none || (code == 0 && launched[0] == 0), "a launch without tokens");
    require(none || missing || (code == 0 && launched[0] == 1), "a good linear was not launched");
    return code != 0 && refused("enqueue");
  }

  patch::PatchLinearCreator creator_;
  patch::Attributes attributes_;
  patch::Kinds kinds_;
  std::vector<int32_t> index_;
  alignas(256) std::array<char, 256> memory_{};
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const uint64_t seed = std::strtoull(arguments[1], nullptr, 10),
                 cases = std::strtoull(arguments[2], nullptr, 10);
  setenv("PATCH_CUBLASLT", "/no/cublaslt", 1);
  uint64_t refused = 0, launched = 0;
  for (uint64_t i = 0; i < cases; ++i) {
    Attack attack(seed + i);
    refused += attack.run();
    launched += attack.launches;
  }
  std::printf("%llu cases: %llu refused, %llu launched\n", static_cast<unsigned long long>(cases),
              static_cast<unsigned long long>(refused), static_cast<unsigned long long>(launched));
  return 0;
}
