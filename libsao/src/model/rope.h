// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding: from the config to the tables of cosines and sines.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "sao/model/config.h"

namespace sao::detail {

/// Of positions 0 .. P - 1.
struct RotaryTable {
  at::Tensor cosines, sines;  ///< [P, D / 2] float32
};

/// [D / 2] float32. Follows: transformers' modeling_rope_utils, in its order of float32 operations.
at::Tensor inverse_frequencies(const ModelConfig& config);

/// Cosines and sines of positions 0 .. positions - 1, on the device of `frequencies`.
RotaryTable rotary_table(const at::Tensor& frequencies, std::int64_t positions);

}  // namespace sao::detail
