#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kBFloat16, Group::kAll, &launch_scalar<BFloat16, kPatchConfigCount, kFirstInt8>);

}  // namespace patch
