// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

#include "io/json.h"
#include "sao/base/error.h"

namespace sao::detail {
namespace {

constexpr std::size_t kMaxDimensions = 64;

// Name and bits of an element.
constexpr std::array<std::pair<std::string_view, unsigned>, 23> kDtypes = {
    {{"F64", 64},        {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64},    {"I32", 32},
     {"I16", 16},        {"I8", 8},      {"U8", 8},      {"BOOL", 8},    {"U64", 64},    {"U32", 32},
     {"U16", 16},        {"C64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
     {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F6", 6},      {"F4", 4}}};

/// The number of bytes that dtype and shape ask for; none when it does not fit into 64 bits or is no whole number.
std::optional<std::uint64_t> byte_size(unsigned dtype_bits, const std::vector<std::int64_t>& shape) {
  std::uint64_t bits = dtype_bits;
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(size), &bits)) {
      return std::nullopt;
    }
  }
  if (empty) return 0;
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

TensorInfo parse_info(const Json& entry, const std::string& where) {
  if (!entry.is_object()) {
    throw InputError(
        fmt::format("{}: {}, expected an object with dtype, shape and data_offsets", where, describe_json(entry)));
  }
  TensorInfo info;
  info.dtype = get_field<std::string>(entry, "dtype", where);
  info.shape = get_field<std::vector<std::int64_t>>(entry, "shape", where);
  const auto offsets = get_field<std::vector<std::int64_t>>(entry, "data_offsets", where);
  const unsigned bits = safetensors_dtype_bits(info.dtype);
  if (bits == 0) {
    std::vector<std::string_view> names;
    for (const auto& known : kDtypes) names.push_back(known.first);
    throw InputError(fmt::format("{}: dtype \"{}\", expected one of {}", where, info.dtype, fmt::join(names, ", ")));
  }
  const auto negative = [](std::int64_t value) { return value < 0; };
  if (info.shape.size() > kMaxDimensions || std::any_of(info.shape.begin(), info.shape.end(), negative)) {
    throw InputError(fmt::format("{}: shape [{}], expected at most {} sizes that are not negative", where,
                                 fmt::join(info.shape, ", "), kMaxDimensions));
  }
  if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0]) {
    throw InputError(fmt::format("{}: data_offsets [{}], expected [begin, end] with 0 <= begin <= end", where,
                                 fmt::join(offsets, ", ")));
  }
  info.begin = static_cast<std::uint64_t>(offsets[0]);
  info.end = static_cast<std::uint64_t>(offsets[1]);
  const std::optional<std::uint64_t> size = byte_size(bits, info.shape);
  if (!size) {
    throw InputError(fmt::format("{}: shape [{}] of {} has no size in whole bytes below 2^61, expected one", where,
                                 fmt::join(info.shape, ", "), info.dtype));
  }
  if (*size != info.end - info.begin) {
    throw InputError(fmt::format("{}: data_offsets [{}, {}] hold {} bytes, expected {} for {} of shape [{}]", where,
                                 info.begin, info.end, info.end - info.begin, *size, info.dtype,
                                 fmt::join(info.shape, ", ")));
  }
  return info;
}

void read_entries(const Json& json, const std::string& where, SafetensorsHeader& header) {
  for (const auto& [name, entry] : json.items()) {
    if (name == kSafetensorsMetadata) {
      if (!entry.is_object()) throw InputError(fmt::format("{}: __metadata__ is not an object, expected one", where));
      for (const auto& [key, value] : entry.items()) {
        header.metadata[key] = get_field<std::string>(entry, key, where + ": __metadata__");
      }
      continue;
    }
    header.infos.emplace(name, parse_info(entry, fmt::format("{}: tensor \"{}\"", where, name)));
    header.names.push_back(name);
  }
  std::sort(header.names.begin(), header.names.end(), [&](const std::string& a, const std::string& b) {
    const TensorInfo& left = header.infos.at(a);
    const TensorInfo& right = header.infos.at(b);
    return std::tie(left.begin, left.end, a) < std::tie(right.begin, right.end, b);
  });
}

/// The tensors must fill the data exactly, one behind the other.
void check_offsets(const SafetensorsHeader& header, std::uint64_t data_bytes, const std::string& where) {
  for (const std::string& name : header.names) {
    const TensorInfo& info = header.infos.at(name);
    if (info.end > data_bytes) {
      throw InputError(
          fmt::format("{}: tensor \"{}\" ends at byte {} of {}, expected inside the file; the file is cut "
                      "off or its header is wrong",
                      where, name, info.end, data_bytes));
    }
  }
  std::uint64_t end = 0;
  for (const std::string& name : header.names) {
    const TensorInfo& info = header.infos.at(name);
    if (info.begin != end) {
      throw InputError(fmt::format("{}: tensor \"{}\" begins at byte {}, expected {} (tensors without {})", where, name,
                                   info.begin, end, info.begin < end ? "overlap" : "holes between"));
    }
    end = info.end;
  }
  if (end != data_bytes) {
    throw InputError(fmt::format("{}: {} bytes behind the last tensor, expected none", where, data_bytes - end));
  }
}

}  // namespace

unsigned safetensors_dtype_bits(std::string_view dtype) {
  const auto found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& known) { return known.first == dtype; });
  return found == kDtypes.end() ? 0 : found->second;
}

SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& where) {
  if (file.size() < kSafetensorsLengthBytes) {
    throw InputError(
        fmt::format("{}: {} bytes, expected a safetensors file, which begins with the 8-byte length of its header",
                    where, file.size()));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), kSafetensorsLengthBytes);
  if (length > kMaxSafetensorsHeaderBytes) {
    throw InputError(
        fmt::format("{}: a header of {} bytes, expected at most {}; the file is damaged or no safetensors "
                    "file",
                    where, length, kMaxSafetensorsHeaderBytes));
  }
  if (length > file.size() - kSafetensorsLengthBytes) {
    throw InputError(fmt::format("{}: a header of {} bytes in a file of {}, expected it to fit; the file is cut off",
                                 where, length, file.size()));
  }
  const std::string_view text = file.substr(kSafetensorsLengthBytes, static_cast<std::size_t>(length));
  if (!text.starts_with('{')) {
    throw InputError(
        fmt::format("{}: header does not begin with {{, expected a JSON object; the file is damaged or no "
                    "safetensors file",
                    where));
  }
  SafetensorsHeader header;
  header.data_begin = kSafetensorsLengthBytes + length;
  read_entries(parse_json_object_once(text, where + ": header"), where, header);
  check_offsets(header, file.size() - header.data_begin, where);
  return header;
}

}  // namespace sao::detail
