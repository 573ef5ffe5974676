// SPDX-License-Identifier: Apache-2.0
// A batch without padding: the tokens of all sequences one after the other, and where each begins.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "sao/base/tokens.h"

namespace sao {

/// S sequences, T tokens in all.
struct PackedTokens {
  at::Tensor ids;        ///< [T] int64
  at::Tensor positions;  ///< [T] int64, counted from the start of each sequence
  at::Tensor starts;     ///< [S + 1] int64 on the CPU: sequence s is tokens starts[s] .. starts[s+1]-1

  std::int64_t sequences() const;
  std::int64_t tokens() const;
};

/// Packs sequences in the given order; every position counts from 0. Throws InputError on an empty sequence.
PackedTokens pack(std::span<const TokenIds> sequences);

}  // namespace sao
