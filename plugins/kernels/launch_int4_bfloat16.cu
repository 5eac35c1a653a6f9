#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kBFloat16, Group::kInt4, &launch_scalar<BFloat16, kFirstInt4, kConfigCount>);

}  // namespace patch
