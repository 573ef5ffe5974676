// SPDX-License-Identifier: Apache-2.0
// An index, then its shards in the order of their names: the folder of a sharded checkpoint.
#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "io/safetensors_header.h"
#include "io/shard_index.h"

void sao::fuzz::checkpoint(std::string_view input) {
  const std::vector<std::string_view> files = parts(input, 4);
  accepted([&] {
    const detail::ShardIndex index = detail::parse_shard_index(files[0], "index");
    std::map<std::string, detail::ShardTensors> shards;
    for (const auto& [tensor, file] : index.file_of) shards[file];
    std::size_t next = 1;
    for (auto& [file, tensors] : shards) {
      const std::string_view bytes = next < files.size() ? files[next++] : std::string_view();
      const detail::SafetensorsHeader header = detail::parse_safetensors_header(bytes, file);
      for (const std::string& name : header.names)
        tensors[name] = header.infos.at(name).end - header.infos.at(name).begin;
    }
    detail::check_shard_index(index, shards, "index");
    accepted([&] { detail::check_total_size(index, shards, "index"); });
    for (const auto& [tensor, file] : index.file_of)
      expect(shards.at(file).contains(tensor), "tensors are where they are said to be");
  });
}
