// SPDX-License-Identifier: Apache-2.0
// Stands in for load_cuda.cpp where the kernels are not built.
#include <fmt/format.h>

#include "ops/cuda_dispatch.h"
#include "sao/base/error.h"
#include "sao/ops/cuda.h"

namespace sao::ops {

void enable_cuda(std::int64_t index) {
  throw ResourceError(fmt::format(
      "device cuda:{}: this libsao was built without CUDA; configure with -D SAO_CUDA=ON (which says what it "
      "misses), or use the device cpu",
      index));
}

const cuda::Table* cuda::table() { return nullptr; }

const cuda::Table* cuda::kernels_for(const at::Tensor&) { return nullptr; }

}  // namespace sao::ops
