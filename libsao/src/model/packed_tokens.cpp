// SPDX-License-Identifier: Apache-2.0
#include "sao/model/packed_tokens.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <numeric>

#include "sao/base/error.h"

namespace sao {

std::int64_t PackedTokens::sequences() const { return starts.size(0) - 1; }
std::int64_t PackedTokens::tokens() const { return ids.size(0); }

PackedTokens pack(std::span<const PackedSequence> sequences) {
  const auto size = [&](std::size_t s) { return static_cast<std::int64_t>(sequences[s].ids.size()); };
  const auto count = static_cast<std::int64_t>(sequences.size());
  std::int64_t total = 0;
  bool shared = false;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (sequences[s].ids.empty())
      throw InputError(fmt::format("pack: sequence {} is empty, expected at least one token", s));
    const std::int64_t parent = sequences[s].parent;
    if (parent < -1 || parent >= static_cast<std::int64_t>(s) ||
        (parent >= 0 && sequences[static_cast<std::size_t>(parent)].parent != -1)) {
      throw InputError(fmt::format(
          "pack: parent {} of sequence {}, expected -1 or an earlier sequence that has no parent itself", parent, s));
    }
    shared = shared || parent >= 0;
    total += size(s);
  }
  PackedTokens packed{.ids = at::empty({total}, at::kLong),
                      .positions = at::empty({total}, at::kLong),
                      .starts = at::empty({count + 1}, at::kLong)};
  if (shared) packed.parents = at::empty({count}, at::kLong);
  std::int64_t* ids = packed.ids.mutable_data_ptr<std::int64_t>();
  std::int64_t* positions = packed.positions.mutable_data_ptr<std::int64_t>();
  std::int64_t* starts = packed.starts.mutable_data_ptr<std::int64_t>();
  *starts = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::int64_t parent = sequences[s].parent, length = size(s);
    ids = std::copy(sequences[s].ids.begin(), sequences[s].ids.end(), ids);
    std::iota(positions, positions + length, parent < 0 ? 0 : size(static_cast<std::size_t>(parent)));
    positions += length;
    starts[1] = starts[0] + length;
    ++starts;
    if (shared) packed.parents.mutable_data_ptr<std::int64_t>()[s] = parent;
  }
  return packed;
}

PackedTokens pack(std::span<const TokenIds> sequences) {
  std::vector<PackedSequence> alone;
  for (const TokenIds& ids : sequences) alone.push_back({.ids = ids});
  return pack(alone);
}

}  // namespace sao
