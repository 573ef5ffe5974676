// SPDX-License-Identifier: Apache-2.0
// Work of many small launches on a GPU, recorded once and started with one call. The host then no longer bounds the
// speed of a decode step.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <memory>

namespace sao::ops {

class CudaGraph {
 public:
  /// Whether attention and the other ops of this room on tensors like x can be recorded: where they have CUDA kernels.
  /// Their plain LibTorch forms wait for the device.
  static bool serves(const at::Tensor& x, std::int64_t head_dim);

  /// Records what `work` launches on `device`, a CUDA device that enable_cuda made usable; nothing runs. `work` must
  /// have run before in the same shapes, must not wait for the device, and reads and writes tensors whose addresses
  /// stay; those that it makes belong to the graph. `sharing`: another graph whose scratch memory this one may use; the
  /// two must not run at one time. Throws what `work` throws.
  static CudaGraph record(at::Device device, c10::function_ref<void()> work, const CudaGraph* sharing = nullptr);

  /// Starts it on the device's current stream, without waiting.
  void replay() const;

 private:
  explicit CudaGraph(void* recording);
  std::shared_ptr<void> recording_;
};

}  // namespace sao::ops
