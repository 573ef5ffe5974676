// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding: from the config to the tables of cosines and sines.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "sao/model/config.h"

namespace sao::detail {

/// Of positions 0 .. P - 1.
struct RotaryTable {
  at::Tensor cosines, sines;  ///< [P, rotary_dim / 2] float32
};

/// What a model's layers rotate by.
struct RotaryTables {
  RotaryTable full;     ///< layers that see everything
  RotaryTable sliding;  ///< layers with a window: the same, but for families that rotate them by a base of their own
};

/// [rotary_dim / 2] float32, of the layers that see everything. Follows: transformers' modeling_rope_utils, in its
/// order of float32 operations.
at::Tensor inverse_frequencies(const ModelConfig& config);

/// Cosines and sines of positions 0 .. positions - 1.
RotaryTables rotary_tables(const ModelConfig& config, std::int64_t positions, at::Device device);

}  // namespace sao::detail
