// SPDX-License-Identifier: Apache-2.0
#include "sao/model/packed_tokens.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "model/pack_parts.h"
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

std::vector<PackedTokens> detail::parts_of(const PackedTokens& pack, std::int64_t most_tokens) {
  const std::int64_t sequences = pack.sequences();
  const auto is_list = [](const at::Tensor& t, std::int64_t size) {
    return t.device().is_cpu() && t.scalar_type() == at::kLong && t.dim() == 1 && t.is_contiguous() &&
           t.size(0) == size;
  };
  if (!is_list(pack.starts, sequences + 1) || (pack.parents.defined() && !is_list(pack.parents, sequences)))
    return {pack};
  const at::Tensor lengths = pack.starts.diff();
  const bool is_whole = sequences > 0 && lengths.gt(0).all().item<bool>() && pack.starts[0].item<std::int64_t>() == 0 &&
                        lengths.sum().item<std::int64_t>() == pack.tokens();
  if (!is_whole) return {pack};  // which attention refuses
  const std::int64_t* starts = pack.starts.const_data_ptr<std::int64_t>();
  const std::int64_t* parents = pack.parents.defined() ? pack.parents.const_data_ptr<std::int64_t>() : nullptr;
  // A part may begin at s where no sequence from s on continues one before it.
  std::vector<std::int64_t> places{sequences};
  for (std::int64_t s = sequences - 1, earliest = sequences; s >= 0; --s) {
    if (parents != nullptr && parents[s] >= 0) earliest = std::min(earliest, parents[s]);
    if (earliest >= s) places.push_back(s);
  }
  std::reverse(places.begin(), places.end());
  std::vector<PackedTokens> parts;
  for (std::size_t at = 0; at + 1 < places.size();) {
    const std::int64_t first = places[at++];
    while (at + 1 < places.size() && starts[places[at + 1]] - starts[first] <= most_tokens) ++at;
    const std::int64_t last = places[at], begin = starts[first], count = starts[last] - begin;
    PackedTokens part{.ids = pack.ids.narrow(0, begin, count),
                      .positions = pack.positions.narrow(0, begin, count),
                      .starts = pack.starts.narrow(0, first, last - first + 1) - begin};
    if (parents != nullptr) {
      const at::Tensor of_part = pack.parents.narrow(0, first, last - first);
      part.parents = at::where(of_part >= 0, of_part - first, of_part);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace sao
