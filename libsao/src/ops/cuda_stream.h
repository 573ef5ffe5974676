// SPDX-License-Identifier: Apache-2.0
// Where the dispatch code meets the CUDA runtime: everything else of it is plain LibTorch, and is tested without a GPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

namespace sao::ops::cuda {

/// Calls `launch` with the current stream of x's device, that device being the current one. Throws where a launch
/// failed.
void on_stream(const at::Tensor& x, c10::function_ref<void(void* stream)> launch);

int device_count();

/// As the functions of these names in Table.
void* record(at::Device device, c10::function_ref<void()> work, void* sharing);
void replay(void* recording);
void forget(void* recording);

}  // namespace sao::ops::cuda
