// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json: which tensor is in which shard. Free of LibTorch.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace sao::detail {

struct ShardIndex {
  std::map<std::string, std::string> file_of;  ///< by tensor; names of files in the index's folder
  std::optional<double> total_size;            ///< bytes of all tensors
};

/// Throws InputError that begins with `where`: no weight_map, a file outside of the folder, a field twice.
ShardIndex parse_shard_index(std::string_view text, const std::string& where);

/// What a shard holds: each tensor's bytes.
using ShardTensors = std::map<std::string, std::uint64_t>;

/// Holds an index against all its shards, by file name. Throws InputError: a tensor that its shard lacks
/// or that stands in another one, a tensor that the index leaves out.
void check_shard_index(const ShardIndex& index, const std::map<std::string, ShardTensors>& shards,
                       const std::string& where);
/// Throws InputError where the index gives a total_size that is not that of the tensors.
void check_total_size(const ShardIndex& index, const std::map<std::string, ShardTensors>& shards,
                      const std::string& where);

}  // namespace sao::detail
