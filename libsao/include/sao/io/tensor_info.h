// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sao {

/// What the header of a safetensors file says of one tensor.
struct TensorInfo {
  std::string dtype;  ///< as in the file: "F32", "BF16", "F16", "F64", "I64", "I32", "U8", "BOOL", ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  ///< byte offsets relative to the end of the header
  std::uint64_t end = 0;
};

}  // namespace sao
