// SPDX-License-Identifier: Apache-2.0
// A whole safetensors file.
#include "io/safetensors_header.h"

#include "fuzz/input.h"
#include "fuzz/targets.h"

void sao::fuzz::safetensors(std::string_view input) {
  detail::SafetensorsHeader header;
  if (!accepted([&] { header = detail::parse_safetensors_header(input, "file"); })) return;
  std::uint64_t end = header.data_begin;
  for (const std::string& name : header.names) {
    const TensorInfo& info = header.infos.at(name);
    expect(header.data_begin + info.begin == end, "tensors lie one behind the other");
    end = header.data_begin + info.end;
  }
  expect(end == input.size(), "tensors fill the file");
}
