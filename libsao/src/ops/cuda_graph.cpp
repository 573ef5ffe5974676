// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/cuda_graph.h"

#include "ops/cuda_dispatch.h"
#include "sao/base/error.h"

namespace sao::ops {

CudaGraph::CudaGraph(void* recording) : recording_(recording, cuda::table()->forget) {}

bool CudaGraph::serves(const at::Tensor& x, std::int64_t head_dim) {
  return cuda::kernels_for(x) != nullptr && head_dim <= cuda::kWidestHead;
}

CudaGraph CudaGraph::record(at::Device device, c10::function_ref<void()> work, const CudaGraph* sharing) {
  SAO_CHECK(device.is_cuda() && cuda::table() != nullptr);
  return CudaGraph(cuda::table()->record(device, work, sharing == nullptr ? nullptr : sharing->recording_.get()));
}

void CudaGraph::replay() const { cuda::table()->replay(recording_.get()); }

}  // namespace sao::ops
