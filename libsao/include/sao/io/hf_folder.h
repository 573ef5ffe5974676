// SPDX-License-Identifier: Apache-2.0
// A Hugging Face model folder: config.json, model.safetensors or shards with an index, tokenizer files.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "sao/io/safetensors.h"

namespace sao {

/// The weights of a folder, whether in one file or in shards.
class CheckpointReader {
 public:
  /// Opens `folder`/model.safetensors, or the shards that `folder`/model.safetensors.index.json names.
  /// Throws InputError: no weights, a missing shard, a tensor that its shard does not hold.
  static CheckpointReader open(const std::filesystem::path& folder);

  std::vector<std::string> names() const;
  bool contains(const std::string& name) const;
  /// The file that holds the tensor, for messages. Throws InputError when absent.
  std::filesystem::path file_of(const std::string& name) const;
  /// See SafetensorsFile.
  const TensorInfo& info(const std::string& name) const;
  at::Tensor tensor(const std::string& name) const;
  void forget(const std::string& name) const;
  /// Throws InputError where an index gives another total_size than the shards' tensors have. Not a part of open: a
  /// tensor that is missing is the better complaint.
  void check_total_size() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Writes model.safetensors, or shards of at most `max_shard_bytes` and their index, into an existing folder without
/// weights. A folder is half-written until it returns: write_folder_atomically makes one that appears whole. Throws
/// InputError where there is a model.safetensors or an index already, ResourceError.
void write_checkpoint(const std::filesystem::path& folder, const NamedTensors& tensors,
                      std::uint64_t max_shard_bytes = 5ULL << 30);

/// Copies what belongs to the text side of a model (tokenizer.model, tokenizer.json, tokenizer_config.json,
/// special_tokens_map.json, generation_config.json, chat_template.jinja, additional_chat_templates/,
/// sao_templates.json) where present. Throws ResourceError.
void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace sao
