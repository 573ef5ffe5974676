// SPDX-License-Identifier: Apache-2.0
#include "sao/model/packed_tokens.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <numeric>

#include "sao/base/error.h"

namespace sao {

std::int64_t PackedTokens::sequences() const { return starts.size(0) - 1; }
std::int64_t PackedTokens::tokens() const { return ids.size(0); }

PackedTokens pack(std::span<const TokenIds> sequences) {
  std::int64_t total = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (sequences[s].empty())
      throw InputError(fmt::format("pack: sequence {} is empty, expected at least one token", s));
    total += static_cast<std::int64_t>(sequences[s].size());
  }
  PackedTokens packed{.ids = at::empty({total}, at::kLong),
                      .positions = at::empty({total}, at::kLong),
                      .starts = at::empty({static_cast<std::int64_t>(sequences.size()) + 1}, at::kLong)};
  std::int64_t* ids = packed.ids.mutable_data_ptr<std::int64_t>();
  std::int64_t* positions = packed.positions.mutable_data_ptr<std::int64_t>();
  std::int64_t* starts = packed.starts.mutable_data_ptr<std::int64_t>();
  *starts = 0;
  for (const TokenIds& sequence : sequences) {
    const std::int64_t length = static_cast<std::int64_t>(sequence.size());
    ids = std::copy(sequence.begin(), sequence.end(), ids);
    std::iota(positions, positions + length, std::int64_t{0});
    positions += length;
    starts[1] = starts[0] + length;
    ++starts;
  }
  return packed;
}

}  // namespace sao
