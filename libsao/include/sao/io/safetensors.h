// SPDX-License-Identifier: Apache-2.0
// The safetensors format: 8 bytes header length, a JSON header, raw little-endian tensors.
//   auto file = sao::SafetensorsFile::open("model.safetensors");
//   at::Tensor w = file.tensor("model.embed_tokens.weight");   // a view of the mapped file
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sao/io/tensor_info.h"

namespace sao {

/// A mapped, validated safetensors file. Copies share the mapping.
class SafetensorsFile {
 public:
  /// Maps the file and checks the whole header: length, JSON, dtypes, shapes, offsets in bounds and
  /// without overlap or holes. Throws InputError naming the file, the tensor and what was expected.
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  /// In the order of their offsets.
  const std::vector<std::string>& names() const;
  bool contains(const std::string& name) const;
  /// Throws InputError when there is no such tensor.
  const TensorInfo& info(const std::string& name) const;
  /// A read-only CPU view of the mapped bytes (copied when misaligned for its dtype); keeps the mapping
  /// alive. Writing to it is undefined. Throws InputError when absent or of a dtype LibTorch lacks.
  at::Tensor tensor(const std::string& name) const;
  /// Frees the memory that reading the tensor took; a view of it reads from the file again. What a loader says of a
  /// tensor that it has copied, so that the file does not stay in memory beside the copies.
  void forget(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Named tensors in the order in which they are written (dtypes of larger elements before smaller ones, so that every
/// tensor of the file is aligned).
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Writes one file atomically, in the format's canonical layout (8-byte aligned header, no holes).
/// Tensors are made contiguous on the CPU. Throws ResourceError (disk) or InputError (a dtype or layout that the format
/// does not have, a name twice).
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace sao
