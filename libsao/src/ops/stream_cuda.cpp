// SPDX-License-Identifier: Apache-2.0
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>

#include "ops/cuda_stream.h"

namespace sao::ops::cuda {

void on_stream(const at::Tensor& x, c10::function_ref<void(void* stream)> launch) {
  const c10::cuda::CUDAGuard guard(x.device());
  launch(c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

namespace {

struct Recording {
  explicit Recording(at::Device device_) : device(device_) {}
  at::Device device;
  at::cuda::CUDAGraph graph;
};

}  // namespace

void* record(at::Device device, c10::function_ref<void()> work, void* sharing) {
  const c10::cuda::CUDAGuard guard(device);
  auto recording = std::make_unique<Recording>(device);
  // Not on the default stream, which cannot be recorded; behind what runs there.
  c10::cuda::getCurrentCUDAStream().synchronize();
  const c10::cuda::CUDAStreamGuard on(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()));
  at::cuda::MempoolId_t pool{0, 0};
  if (sharing != nullptr) pool = static_cast<Recording*>(sharing)->graph.pool();
  recording->graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
  try {
    work();
  } catch (...) {
    try {
      recording->graph.capture_end();
    } catch (const c10::Error&) {  // the recording is broken: the first error tells why
    }
    throw;
  }
  recording->graph.capture_end();
  return recording.release();
}

void replay(void* recording) {
  const c10::cuda::CUDAGuard guard(static_cast<Recording*>(recording)->device);
  static_cast<Recording*>(recording)->graph.replay();
}

void forget(void* recording) { delete static_cast<Recording*>(recording); }

int device_count() { return c10::cuda::device_count(); }

}  // namespace sao::ops::cuda
