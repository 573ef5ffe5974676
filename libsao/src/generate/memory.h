// SPDX-License-Identifier: Apache-2.0
// How much memory there is to take.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace sao::detail {

/// Bytes that are free on a device: what the system (MemAvailable) and the process's control group have left, or
/// cudaMemGetInfo's; 2 GiB where it cannot be known.
std::int64_t free_memory(c10::Device device);

}  // namespace sao::detail
