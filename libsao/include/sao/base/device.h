// SPDX-License-Identifier: Apache-2.0
// Names of devices and data types as users write them, without LibTorch.
#pragma once

#include <string>
#include <string_view>

namespace sao {

/// Data types of weights and of computation.
enum class DType { kFloat32, kBFloat16, kFloat16, kFloat64 };

/// "float32", "bfloat16", "float16", "float64".
std::string_view to_string(DType dtype);

/// The inverse of to_string. Throws InputError naming `text` and the accepted names.
DType parse_dtype(std::string_view text);

/// "cpu" or "cuda:N". Throws InputError for another form. "cuda" is "cuda:0".
std::string parse_device(std::string_view text);

}  // namespace sao
