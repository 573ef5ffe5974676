// SPDX-License-Identifier: Apache-2.0
#include "io/shard_index.h"

#include <fmt/format.h>

#include "io/json.h"
#include "sao/base/error.h"

namespace sao::detail {

ShardIndex parse_shard_index(std::string_view text, const std::string& where) {
  const Json json = parse_json_object_once(text, where);
  const auto map = json.find("weight_map");
  if (map == json.end()) {
    throw InputError(fmt::format("{}: no field \"weight_map\", expected an object of tensor to file", where));
  }
  if (!map->is_object() || map->empty()) throw_field_error(where, "weight_map", *map, "an object of tensor to file");
  ShardIndex index;
  for (const auto& entry : map->items()) {
    auto file = get_field<std::string>(*map, entry.key(), where + ": weight_map");
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos) {
      throw InputError(fmt::format("{}: weight_map: tensor \"{}\" is in {}, expected a file of the same folder", where,
                                   entry.key(), describe_json(file)));
    }
    index.file_of.emplace(entry.key(), std::move(file));
  }
  if (const auto metadata = json.find("metadata"); metadata != json.end() && metadata->is_object()) {
    index.total_size = find_field<double>(*metadata, "total_size", where + ": metadata");
  }
  return index;
}

void check_shard_index(const ShardIndex& index, const std::map<std::string, ShardTensors>& shards,
                       const std::string& where) {
  for (const auto& [tensor, file] : index.file_of) {
    if (shards.at(file).contains(tensor)) continue;
    std::string place;
    for (const auto& [other, tensors] : shards) {
      if (tensors.contains(tensor)) place = fmt::format(" (it is in \"{}\")", other);
    }
    throw InputError(
        fmt::format("{}: tensor \"{}\" is not in \"{}\"{}, expected it there", where, tensor, file, place));
  }
  for (const auto& [file, tensors] : shards) {
    for (const auto& [tensor, size] : tensors) {
      const auto found = index.file_of.find(tensor);
      if (found == index.file_of.end()) {
        throw InputError(fmt::format("{}: tensor \"{}\" of \"{}\" is not in the weight_map, expected all tensors there",
                                     where, tensor, file));
      }
      if (found->second != file) {
        throw InputError(fmt::format("{}: tensor \"{}\" is in \"{}\" and in \"{}\", expected it in one shard", where,
                                     tensor, found->second, file));
      }
    }
  }
}

void check_total_size(const ShardIndex& index, const std::map<std::string, ShardTensors>& shards,
                      const std::string& where) {
  std::uint64_t bytes = 0;
  for (const auto& [file, tensors] : shards) {
    for (const auto& [tensor, size] : tensors) bytes += size;
  }
  if (index.total_size && *index.total_size != static_cast<double>(bytes)) {
    throw InputError(fmt::format(
        "{}: metadata: field \"total_size\" is {}, expected {}, the bytes of all tensors; correct or remove the field",
        where, *index.total_size, bytes));
  }
}

}  // namespace sao::detail
