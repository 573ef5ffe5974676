// SPDX-License-Identifier: Apache-2.0
// Going to a GPU. Programs link to LibTorch's CPU half only; the CUDA half and libsao's kernels for it are loaded when
// they are first wanted, so that the same program also runs where there is no GPU.
#pragma once

#include <cstdint>

namespace sao::ops {

/// Makes CUDA device `index` usable, with libsao's kernels behind the functions of this room. Call it before anything
/// else asks LibTorch about CUDA (at::hasCUDA, at::manual_seed) and before the first backward pass of the program:
/// LibTorch keeps the answers it gave without CUDA. Calling it again is cheap. CausalLM::load calls it for the device
/// "cuda:N". Throws ResourceError that says what is missing: the driver, a device with that number, or kernels in this
/// build.
void enable_cuda(std::int64_t index = 0);

}  // namespace sao::ops
