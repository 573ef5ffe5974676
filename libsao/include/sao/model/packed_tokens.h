// SPDX-License-Identifier: Apache-2.0
// A batch without padding: the tokens of all sequences one after the other, and where each begins.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "sao/base/seed.h"
#include "sao/base/tokens.h"

namespace sao {

/// S sequences, T tokens in all.
struct PackedTokens {
  at::Tensor ids;           ///< [T] int64
  at::Tensor positions;     ///< [T] int64, counted from the start of each sequence, its parent's tokens included
  at::Tensor starts;        ///< [S + 1] int64 on the CPU: sequence s is tokens starts[s] .. starts[s+1]-1
  at::Tensor parents = {};  ///< [S] int64 on the CPU, or undefined where there are none: see PackedSequence
  /// In training, what adapters with dropout drop is drawn from it: a function of it, a token and those before it.
  /// Nothing is dropped where there is none.
  std::optional<Seed> dropout = {};

  std::int64_t sequences() const;
  std::int64_t tokens() const;
};

/// What a pack is made of. A sequence may continue an earlier one of the pack: it sees the parent's tokens as if they
/// stood in front of it, and they are computed once for all that share them (the prompt of several answers).
struct PackedSequence {
  TokenSpan ids = {};
  std::int64_t parent = -1;  ///< index of the sequence that it continues, which has no parent itself; -1 = none
};

/// Packs sequences in the given order. Throws InputError on an empty sequence and on a parent that is none.
PackedTokens pack(std::span<const PackedSequence> sequences);
/// The same for sequences that stand alone.
PackedTokens pack(std::span<const TokenIds> sequences);

}  // namespace sao
