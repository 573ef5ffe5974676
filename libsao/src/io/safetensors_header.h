// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file, and the whole layout that follows from it. Free of LibTorch.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sao/io/tensor_info.h"

namespace sao::detail {

inline constexpr std::uint64_t kSafetensorsLengthBytes = 8;
inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // as in the reference implementation
inline constexpr std::string_view kSafetensorsMetadata = "__metadata__";

/// The size of one element of a dtype of the format; 0 for a name that is none.
unsigned safetensors_dtype_bits(std::string_view dtype);

struct SafetensorsHeader {
  std::uint64_t data_begin = 0;    ///< where the data begins in the file
  std::vector<std::string> names;  ///< in the order of their offsets
  std::unordered_map<std::string, TensorInfo> infos;
  std::map<std::string, std::string> metadata;
};

/// Reads the header of a whole file and checks that its tensors fill the file exactly, one behind the other. Throws
/// InputError that begins with `where` and names the tensor.
SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& where);

}  // namespace sao::detail
