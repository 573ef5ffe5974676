// SPDX-License-Identifier: Apache-2.0
#include "sao/base/device.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <utility>

#include "sao/base/error.h"

namespace sao {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 4> kNames = {{{DType::kFloat32, "float32"},
                                                                       {DType::kBFloat16, "bfloat16"},
                                                                       {DType::kFloat16, "float16"},
                                                                       {DType::kFloat64, "float64"}}};

}  // namespace

std::string_view to_string(DType dtype) {
  for (const auto& [value, name] : kNames) {
    if (value == dtype) return name;
  }
  SAO_CHECK(!"a DType without a name");
}

DType parse_dtype(std::string_view text) {
  for (const auto& [value, name] : kNames) {
    if (name == text) return value;
  }
  throw InputError(fmt::format("dtype: \"{}\", expected float32, bfloat16, float16 or float64", text));
}

std::string parse_device(std::string_view text) {
  if (text == "cpu") return "cpu";
  if (text == "cuda") return "cuda:0";
  constexpr std::string_view kCuda = "cuda:";
  if (text.starts_with(kCuda)) {
    const std::string_view number = text.substr(kCuda.size());
    unsigned index = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), index);
    constexpr unsigned kMaxIndex = 127;  // LibTorch keeps the index in a signed byte
    if (error == std::errc{} && end == number.data() + number.size() && index <= kMaxIndex) {
      return fmt::format("cuda:{}", index);
    }
  }
  throw InputError(fmt::format("device: \"{}\", expected cpu, cuda or cuda:N", text));
}

}  // namespace sao
