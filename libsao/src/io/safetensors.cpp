// SPDX-License-Identifier: Apache-2.0
#include "sao/io/safetensors.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>

#include "io/atomic_file.h"
#include "io/json.h"
#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian and is mapped as it is");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // as in the reference implementation
constexpr std::size_t kMaxDimensions = 64;
constexpr std::string_view kMetadata = "__metadata__";

struct FormatDtype {
  std::string_view name;
  unsigned bits;
  std::optional<at::ScalarType> type;  // none: sizes are checked, the tensor cannot be had
};

constexpr std::array<FormatDtype, 21> kDtypes = {{{"F64", 64, at::kDouble},
                                                  {"F32", 32, at::kFloat},
                                                  {"F16", 16, at::kHalf},
                                                  {"BF16", 16, at::kBFloat16},
                                                  {"I64", 64, at::kLong},
                                                  {"I32", 32, at::kInt},
                                                  {"I16", 16, at::kShort},
                                                  {"I8", 8, at::kChar},
                                                  {"U8", 8, at::kByte},
                                                  {"BOOL", 8, at::kBool},
                                                  {"U64", 64, at::kUInt64},
                                                  {"U32", 32, at::kUInt32},
                                                  {"U16", 16, at::kUInt16},
                                                  {"C64", 64, at::kComplexFloat},
                                                  {"F8_E4M3", 8, at::kFloat8_e4m3fn},
                                                  {"F8_E5M2", 8, at::kFloat8_e5m2},
                                                  {"F8_E8M0", 8, at::kFloat8_e8m0fnu},
                                                  {"F8_E4M3FNUZ", 8, at::kFloat8_e4m3fnuz},
                                                  {"F8_E5M2FNUZ", 8, at::kFloat8_e5m2fnuz},
                                                  {"F6", 6, std::nullopt},
                                                  {"F4", 4, std::nullopt}}};

const FormatDtype* find_dtype(std::string_view name) {
  if (name == "F6_E2M3" || name == "F6_E3M2") name = "F6";
  const auto found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& dtype) { return dtype.name == name; });
  return found == kDtypes.end() ? nullptr : &*found;
}

const FormatDtype* find_dtype(at::ScalarType type) {
  const auto found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& dtype) { return dtype.type == type; });
  return found == kDtypes.end() ? nullptr : &*found;
}

/// A read-only mapping of a whole file.
class Mapping {
 public:
  explicit Mapping(const fs::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
      throw InputError(fmt::format("{}: {}, expected a safetensors file", path.string(), std::strerror(errno)));
    }
    struct stat status = {};
    const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    size_ = regular ? static_cast<std::uint64_t>(status.st_size) : 0;
    if (size_ >= kLengthBytes) {
      data_ = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    const int error = errno;
    ::close(descriptor);
    if (!regular) throw InputError(fmt::format("{}: not a regular file, expected a safetensors file", path.string()));
    if (size_ < kLengthBytes) {
      throw InputError(
          fmt::format("{}: {} bytes, expected a safetensors file, which begins with the 8-byte length of "
                      "its header",
                      path.string(), size_));
    }
    if (data_ == MAP_FAILED) detail::throw_system_error("cannot map", path, error);
  }
  ~Mapping() {
    if (data_ != MAP_FAILED) ::munmap(data_, static_cast<std::size_t>(size_));
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::string_view bytes() const { return {static_cast<const char*>(data_), static_cast<std::size_t>(size_)}; }

 private:
  void* data_ = MAP_FAILED;
  std::uint64_t size_ = 0;
};

/// JSON that keeps what a map would hide: names that stand twice at the top level.
detail::Json parse_header(std::string_view text, const std::string& where) {
  std::set<std::string> names;
  std::string twice;
  const auto watch = [&](int depth, detail::Json::parse_event_t event, detail::Json& parsed) {
    if (event == detail::Json::parse_event_t::key && depth == 1 && !names.insert(parsed.get<std::string>()).second) {
      twice = parsed.get<std::string>();
    }
    return true;
  };
  detail::Json header;
  try {
    header = detail::Json::parse(text, watch);
  } catch (const nlohmann::json::exception&) {
    header = detail::parse_json(text, where + ": header");  // throws with the position
  }
  if (!twice.empty())
    throw InputError(fmt::format("{}: tensor \"{}\" twice in the header, expected once", where, twice));
  if (!header.is_object()) throw InputError(fmt::format("{}: header is not a JSON object, expected one", where));
  return header;
}

/// The number of bytes that dtype and shape ask for; none when it does not fit into 64 bits or is no whole number.
std::optional<std::uint64_t> byte_size(const FormatDtype& dtype, const std::vector<std::int64_t>& shape) {
  std::uint64_t bits = dtype.bits;
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

TensorInfo parse_info(const detail::Json& entry, const std::string& where) {
  if (!entry.is_object()) {
    throw InputError(fmt::format("{}: {}, expected an object with dtype, shape and data_offsets", where,
                                 detail::describe_json(entry)));
  }
  TensorInfo info;
  info.dtype = detail::get_field<std::string>(entry, "dtype", where);
  info.shape = detail::get_field<std::vector<std::int64_t>>(entry, "shape", where);
  const auto offsets = detail::get_field<std::vector<std::int64_t>>(entry, "data_offsets", where);
  const FormatDtype* dtype = find_dtype(info.dtype);
  if (dtype == nullptr) {
    std::vector<std::string_view> names;
    for (const FormatDtype& known : kDtypes) names.push_back(known.name);
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
  const std::optional<std::uint64_t> size = byte_size(*dtype, info.shape);
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

}  // namespace

struct SafetensorsFile::Impl {
  explicit Impl(const fs::path& file) : path(file), mapping(std::make_shared<const Mapping>(file)) {
    const std::string where = path.string();
    const std::string_view bytes = mapping->bytes();
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), kLengthBytes);
    if (length > kMaxHeaderBytes) {
      throw InputError(
          fmt::format("{}: a header of {} bytes, expected at most {}; the file is damaged or no safetensors "
                      "file",
                      where, length, kMaxHeaderBytes));
    }
    if (length > bytes.size() - kLengthBytes) {
      throw InputError(fmt::format("{}: a header of {} bytes in a file of {}, expected it to fit; the file is cut off",
                                   where, length, bytes.size()));
    }
    const std::string_view text = bytes.substr(kLengthBytes, static_cast<std::size_t>(length));
    if (!text.starts_with('{')) {
      throw InputError(
          fmt::format("{}: header does not begin with {{, expected a JSON object; the file is damaged or no "
                      "safetensors file",
                      where));
    }
    data = bytes.substr(static_cast<std::size_t>(kLengthBytes + length));
    const detail::Json header = parse_header(text, where);
    read_entries(header, where);
    check_offsets(where);
  }

  const TensorInfo& info(const std::string& name) const {
    const auto found = infos.find(name);
    if (found == infos.end()) throw InputError(fmt::format("{}: no tensor \"{}\"", path.string(), name));
    return found->second;
  }

  fs::path path;
  std::shared_ptr<const Mapping> mapping;
  std::string_view data;  // behind the header
  std::vector<std::string> names;
  std::unordered_map<std::string, TensorInfo> infos;
  std::map<std::string, std::string> metadata;

 private:
  void read_entries(const detail::Json& header, const std::string& where) {
    for (const auto& [name, entry] : header.items()) {
      if (name == kMetadata) {
        if (!entry.is_object()) throw InputError(fmt::format("{}: __metadata__ is not an object, expected one", where));
        for (const auto& [key, value] : entry.items()) {
          metadata[key] = detail::get_field<std::string>(entry, key, where + ": __metadata__");
        }
        continue;
      }
      infos.emplace(name, parse_info(entry, fmt::format("{}: tensor \"{}\"", where, name)));
      names.push_back(name);
    }
    std::sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
      const TensorInfo& left = infos.at(a);
      const TensorInfo& right = infos.at(b);
      return std::tie(left.begin, left.end, a) < std::tie(right.begin, right.end, b);
    });
  }

  /// The tensors must fill the data exactly, one behind the other.
  void check_offsets(const std::string& where) const {
    std::uint64_t end = 0;
    for (const std::string& name : names) {
      const TensorInfo& info = infos.at(name);
      if (info.end > data.size()) {
        throw InputError(
            fmt::format("{}: tensor \"{}\" ends at byte {} of {}, expected inside the file; the file is cut "
                        "off or its header is wrong",
                        where, name, info.end, data.size()));
      }
      if (info.begin != end) {
        throw InputError(fmt::format("{}: tensor \"{}\" begins at byte {}, expected {} (tensors without {})", where,
                                     name, info.begin, end, info.begin < end ? "overlap" : "holes between"));
      }
      end = info.end;
    }
    if (end != data.size()) {
      throw InputError(fmt::format("{}: {} bytes behind the last tensor, expected none", where, data.size() - end));
    }
  }
};

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  file.impl_ = std::make_shared<const Impl>(path);
  return file;
}

const fs::path& SafetensorsFile::path() const { return impl_->path; }
const std::vector<std::string>& SafetensorsFile::names() const { return impl_->names; }
bool SafetensorsFile::contains(const std::string& name) const { return impl_->infos.contains(name); }
const TensorInfo& SafetensorsFile::info(const std::string& name) const { return impl_->info(name); }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return impl_->metadata; }

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const TensorInfo& info = impl_->info(name);
  const FormatDtype* dtype = find_dtype(info.dtype);
  SAO_CHECK(dtype != nullptr);
  if (!dtype->type) {
    throw InputError(fmt::format("{}: tensor \"{}\" is {}, expected a dtype that LibTorch has", impl_->path.string(),
                                 name, info.dtype));
  }
  const auto options = at::TensorOptions().dtype(*dtype->type);
  const std::string_view bytes =
      impl_->data.substr(static_cast<std::size_t>(info.begin), static_cast<std::size_t>(info.end - info.begin));
  if (bytes.empty()) return at::empty(info.shape, options);
  if (dtype->type == at::kBool &&
      std::any_of(bytes.begin(), bytes.end(), [](char byte) { return byte != 0 && byte != 1; })) {
    throw InputError(fmt::format("{}: tensor \"{}\" is BOOL with other bytes than 0 and 1, expected these",
                                 impl_->path.string(), name));
  }
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % (dtype->bits / 8) != 0) {
    at::Tensor copy = at::empty(info.shape, options);
    std::memcpy(copy.data_ptr(), bytes.data(), bytes.size());
    return copy;
  }
  return at::from_blob(
      const_cast<char*>(bytes.data()), info.shape, [mapping = impl_->mapping](void*) {}, options);
}

void write_safetensors(const fs::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  struct Entry {
    const std::string* name;
    const at::Tensor* tensor;
    const FormatDtype* dtype;
  };
  std::vector<Entry> entries;
  std::set<std::string_view> seen;
  for (const auto& [name, tensor] : tensors) {
    const std::string where = fmt::format("{}: tensor \"{}\"", path.string(), name);
    if (name == kMetadata || !seen.insert(name).second) {
      throw InputError(fmt::format("{}: the name is {}, expected one of its own", where,
                                   name == kMetadata ? "reserved" : "there twice"));
    }
    if (!tensor.defined() || tensor.layout() != at::kStrided) {
      throw InputError(fmt::format("{}: undefined or not dense, expected a dense tensor", where));
    }
    const FormatDtype* dtype = find_dtype(tensor.scalar_type());
    if (dtype == nullptr) {
      throw InputError(
          fmt::format("{}: {}, expected a dtype of the safetensors format", where, at::toString(tensor.scalar_type())));
    }
    entries.push_back({&name, &tensor, dtype});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.dtype->bits > b.dtype->bits; });

  detail::OrderedJson header = detail::OrderedJson::object();
  if (!metadata.empty()) header[std::string(kMetadata)] = metadata;
  std::uint64_t end = 0;
  for (const Entry& entry : entries) {
    const std::uint64_t begin = end;
    end += static_cast<std::uint64_t>(entry.tensor->numel()) * (entry.dtype->bits / 8);
    header[*entry.name] = {
        {"dtype", entry.dtype->name}, {"shape", entry.tensor->sizes().vec()}, {"data_offsets", {begin, end}}};
  }
  std::string text = detail::dump_json_line(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    throw InputError(
        fmt::format("{}: a header of {} bytes, expected at most {}", path.string(), text.size(), kMaxHeaderBytes));
  }

  AtomicFile file(path);
  const std::uint64_t length = text.size();
  file.write({reinterpret_cast<const char*>(&length), sizeof(length)});
  file.write(text);
  for (const Entry& entry : entries) {
    const at::Tensor plain = entry.tensor->detach().resolve_conj().resolve_neg().to(at::kCPU).contiguous();
    file.write({static_cast<const char*>(plain.const_data_ptr()), plain.nbytes()});
  }
  file.commit();
}

}  // namespace sao
