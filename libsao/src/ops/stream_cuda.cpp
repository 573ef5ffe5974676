// SPDX-License-Identifier: Apache-2.0
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/cuda_stream.h"

namespace sao::ops::cuda {

void on_stream(const at::Tensor& x, c10::function_ref<void(void* stream)> launch) {
  const c10::cuda::CUDAGuard guard(x.device());
  launch(c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

int device_count() { return c10::cuda::device_count(); }

}  // namespace sao::ops::cuda
