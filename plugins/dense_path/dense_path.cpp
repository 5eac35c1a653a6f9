#include "dense_path/dense_path.h"

#include <algorithm>

#include "kernels/launch.h"

namespace patch {
namespace {

std::string words(const char* what, cudaError_t error) {
  return error == cudaSuccess ? std::string() : std::string(what) + ": " + cudaGetErrorString(error);
}

}  // namespace

size_t dense_path_workspace(const Problem& p, const Epilogue& e) {
  return rounded_bytes(p) + pieces_bound(p, e) + kProductWorkspace;
}

// A plain product ends at Y's last feature.  Any other includes the padding of the last panel.
int32_t DensePath::features(int32_t first_panel, int32_t panels) const {
  const int32_t rows = panels * problem_.panel_rows;
  if (!is_plain(problem_, epilogue_)) return rows;
  return std::min(rows, problem_.out_features - first_panel * problem_.panel_rows);
}

std::string DensePath::prepare(const Problem& p, const Epilogue& e, Scalar scalar) {
  problem_ = p, epilogue_ = e, scalar_ = scalar, pieces_ = choose_pieces(p, e);
  if (p.tokens == 0) return {};
  const bool plain = is_plain(p, e), integers = p.weights == Weights::kW8A8;
  const auto shape = [&](int32_t rows) {
    const int64_t output = plain ? p.out_features : rows, columns = padded_columns(p.in_features);
    return ProductShape{p.tokens,
                        rows,
                        integers ? columns : p.in_features,
                        columns,
                        output,
                        plain && e.bias,
                        plain && e.residual,
                        integers,
                        scalar};
  };
  const int32_t last = (pieces_.count - 1) * pieces_.panels;
  const auto all = static_cast<int32_t>(panel_count(p));
  std::string why = last_.prepare(shape(features(last, all - last)));
  if (why.empty() && pieces_.count > 1) why = whole_.prepare(shape(features(0, pieces_.panels)));
  return why;
}

bool DensePath::takes(const LinearArguments& a) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % kProductAlignment == 0; };
  const void* const pointers[] = {a.x, a.bias, a.residual, a.y, a.scales};
  return std::all_of(std::begin(pointers), std::end(pointers), aligned) &&
         std::all_of(std::begin(a.slabs), std::end(a.slabs),
                     [&](const Slabs& s) { return aligned(s.values); });
}

std::string DensePath::run(const LinearArguments& a, void* workspace, cudaStream_t stream) const {
  std::string why;
  if (problem_.tokens == 0) return why;
  if (problem_.weights == Weights::kW8A8) why = words("rounding X", launch_rounding(a, scalar_, stream));
  uint8_t* pieces = static_cast<uint8_t*>(workspace) + rounded_bytes(problem_);
  for (int32_t panel = 0; why.empty() && panel < a.panels; panel += pieces_.panels)
    why = run_piece(a, panel, pieces, stream);
  return why;
}

std::string DensePath::run_piece(const LinearArguments& a, int32_t first_panel, uint8_t* workspace,
                                 cudaStream_t stream) const {
  const bool plain = is_plain(problem_, epilogue_), last = first_panel + pieces_.panels >= a.panels;
  const int32_t panels = std::min(pieces_.panels, a.panels - first_panel),
                rows = panels * problem_.panel_rows;
  const int64_t first_row = int64_t{first_panel} * problem_.panel_rows, first = first_row >> problem_.gated;
  const bool integers = problem_.weights == Weights::kW8A8;
  auto* weight = reinterpret_cast<uint16_t*>(workspace);
  void* products = workspace + piece_weight_bytes(problem_, pieces_.panels);
  uint8_t* rest = workspace + piece_bytes(problem_, epilogue_, pieces_.panels);
  const uint16_t* bias = a.bias ? a.bias + first : nullptr;
  const uint16_t* residual = a.residual ? a.residual + first : nullptr;

  UnpackArguments unpack{};
  std::copy(std::begin(a.slabs), std::end(a.slabs), unpack.slabs);
  unpack.index = a.index, unpack.kinds = kinds_for(problem_.slabs, problem_.weights), unpack.weight = weight;
  unpack.panel_rows = problem_.panel_rows;
  unpack.all_panels = a.panels, unpack.first_panel = first_panel, unpack.panels = panels;
  unpack.columns = slab_columns(problem_), unpack.scales = a.scales;
  unpack.weights = problem_.weights, unpack.scalar = scalar_;
  std::string why = words("unpacking W", launch_unpack(unpack, stream));
  if (!why.empty()) return why;

  const void* x = integers ? static_cast<const void*>(a.rounded) : a.x;
  const ProductPointers p{x, weight, bias, residual, plain ? a.y + first : products, rest};
  why = (last ? last_ : whole_).run(p, stream);
  if (plain || !why.empty()) return why;

  ActivateArguments activate{};
  if (integers) {
    activate.scales = a.scales + first_row;
    activate.token_scales = a.token_scales;
  }
  activate.z = products, activate.bias = bias, activate.residual = residual, activate.y = a.y + first;
  activate.tokens = a.tokens, activate.stride = rows, activate.out_features = a.out_features;
  activate.columns = static_cast<int32_t>(std::min<int64_t>(rows >> problem_.gated, a.out_features - first));
  activate.gated = problem_.gated, activate.activation = a.activation;
  return words("the activation", launch_activate(activate, scalar_, stream));
}

}  // namespace patch
