// SPDX-License-Identifier: Apache-2.0
// How much memory there is to take, and for what.
#pragma once

#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>

namespace sao::detail {

/// Bytes that are free on a device: what the system (MemAvailable) and the process's control group have left, or
/// cudaMemGetInfo's; 2 GiB where it cannot be known.
std::int64_t free_memory(c10::Device device);

/// Rows of logits that exist at one time: 256 MB of them, but at least 64.
inline std::int64_t most_logit_rows(std::int64_t vocab_size) {
  return std::clamp<std::int64_t>((1 << 26) / vocab_size, 64, 4096);
}

}  // namespace sao::detail
