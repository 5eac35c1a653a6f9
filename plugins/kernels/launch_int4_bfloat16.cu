#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kBFloat16, Group::kInt4, &launch_scalar<BFloat16, kFirstInt4, kFirstW8A8>);

}  // namespace patch
