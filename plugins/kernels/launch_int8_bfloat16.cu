#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kBFloat16, Group::kInt8, &launch_scalar<BFloat16, kFirstInt8, kFirstInt4>);

}  // namespace patch
