// SPDX-License-Identifier: Apache-2.0
#include "sao/io/safetensors.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
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

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors_header.h"
#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian and is mapped as it is");

// What LibTorch has of the format's dtypes.
constexpr std::array<std::pair<std::string_view, at::ScalarType>, 19> kTypes = {
    {{"F64", at::kDouble},
     {"F32", at::kFloat},
     {"F16", at::kHalf},
     {"BF16", at::kBFloat16},
     {"I64", at::kLong},
     {"I32", at::kInt},
     {"I16", at::kShort},
     {"I8", at::kChar},
     {"U8", at::kByte},
     {"BOOL", at::kBool},
     {"U64", at::kUInt64},
     {"U32", at::kUInt32},
     {"U16", at::kUInt16},
     {"C64", at::kComplexFloat},
     {"F8_E4M3", at::kFloat8_e4m3fn},
     {"F8_E5M2", at::kFloat8_e5m2},
     {"F8_E8M0", at::kFloat8_e8m0fnu},
     {"F8_E4M3FNUZ", at::kFloat8_e4m3fnuz},
     {"F8_E5M2FNUZ", at::kFloat8_e5m2fnuz}}};

std::optional<at::ScalarType> type_of(std::string_view dtype) {
  const auto found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) { return known.first == dtype; });
  if (found == kTypes.end()) return std::nullopt;
  return found->second;
}

/// Nothing for a type that the format lacks.
std::optional<std::string_view> dtype_of(at::ScalarType type) {
  const auto found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) { return known.second == type; });
  if (found == kTypes.end()) return std::nullopt;
  return found->first;
}

/// A read-only mapping of a whole file.
class Mapping {
 public:
  explicit Mapping(const fs::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not hold us up
    if (descriptor < 0) {
      throw InputError(fmt::format("{}: {}, expected a safetensors file", path.string(), std::strerror(errno)));
    }
    struct stat status = {};
    const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    size_ = regular ? static_cast<std::uint64_t>(status.st_size) : 0;
    if (size_ > 0) {
      data_ = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    const int error = errno;
    ::close(descriptor);
    if (!regular) throw InputError(fmt::format("{}: not a regular file, expected a safetensors file", path.string()));
    if (size_ > 0 && data_ == MAP_FAILED) detail::throw_system_error("cannot map", path, error);
  }
  ~Mapping() {
    if (data_ != MAP_FAILED) ::munmap(data_, static_cast<std::size_t>(size_));
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::string_view bytes() const {
    return size_ == 0 ? std::string_view()
                      : std::string_view(static_cast<const char*>(data_), static_cast<std::size_t>(size_));
  }
  // Whole pages inside `part` of bytes().
  void forget(std::string_view part) const {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = (reinterpret_cast<std::uintptr_t>(part.data()) + page - 1) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size()) / page * page;
    // Of a read-only mapping of a file nothing is lost. Where the system declines, the pages stay: no error.
    if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }

 private:
  void* data_ = MAP_FAILED;
  std::uint64_t size_ = 0;
};

}  // namespace

struct SafetensorsFile::Impl {
  explicit Impl(const fs::path& file)
      : path(file),
        mapping(std::make_shared<const Mapping>(file)),
        header(detail::parse_safetensors_header(mapping->bytes(), path.string())) {}

  const TensorInfo& info(const std::string& name) const {
    const auto found = header.infos.find(name);
    if (found == header.infos.end()) throw InputError(fmt::format("{}: no tensor \"{}\"", path.string(), name));
    return found->second;
  }

  std::string_view data(const TensorInfo& info) const {
    return mapping->bytes().substr(static_cast<std::size_t>(header.data_begin + info.begin),
                                   static_cast<std::size_t>(info.end - info.begin));
  }

  fs::path path;
  std::shared_ptr<const Mapping> mapping;
  detail::SafetensorsHeader header;
};

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  file.impl_ = std::make_shared<const Impl>(path);
  return file;
}

void SafetensorsFile::forget(const std::string& name) const { impl_->mapping->forget(impl_->data(impl_->info(name))); }

const fs::path& SafetensorsFile::path() const { return impl_->path; }
const std::vector<std::string>& SafetensorsFile::names() const { return impl_->header.names; }
bool SafetensorsFile::contains(const std::string& name) const { return impl_->header.infos.contains(name); }
const TensorInfo& SafetensorsFile::info(const std::string& name) const { return impl_->info(name); }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return impl_->header.metadata; }

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const TensorInfo& info = impl_->info(name);
  const std::optional<at::ScalarType> type = type_of(info.dtype);
  if (!type) {
    throw InputError(fmt::format("{}: tensor \"{}\" is {}, expected a dtype that LibTorch has", impl_->path.string(),
                                 name, info.dtype));
  }
  const auto options = at::TensorOptions().dtype(*type);
  const std::string_view bytes = impl_->data(info);
  if (bytes.empty()) return at::empty(info.shape, options);
  if (type == at::kBool && std::any_of(bytes.begin(), bytes.end(), [](char byte) { return byte != 0 && byte != 1; })) {
    throw InputError(fmt::format("{}: tensor \"{}\" is BOOL with other bytes than 0 and 1, expected these",
                                 impl_->path.string(), name));
  }
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % c10::elementSize(*type) != 0) {
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
    std::string_view dtype;
  };
  std::vector<Entry> entries;
  std::set<std::string_view> seen;
  for (const auto& [name, tensor] : tensors) {
    const std::string where = fmt::format("{}: tensor \"{}\"", path.string(), name);
    if (name == detail::kSafetensorsMetadata || !seen.insert(name).second) {
      throw InputError(fmt::format("{}: the name is {}, expected one of its own", where,
                                   name == detail::kSafetensorsMetadata ? "reserved" : "there twice"));
    }
    if (!tensor.defined() || tensor.layout() != at::kStrided) {
      throw InputError(fmt::format("{}: undefined or not dense, expected a dense tensor", where));
    }
    const std::optional<std::string_view> dtype = dtype_of(tensor.scalar_type());
    if (!dtype) {
      throw InputError(
          fmt::format("{}: {}, expected a dtype of the safetensors format", where, at::toString(tensor.scalar_type())));
    }
    entries.push_back({&name, &tensor, *dtype});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.tensor->element_size() > b.tensor->element_size(); });

  detail::OrderedJson header = detail::OrderedJson::object();
  if (!metadata.empty()) header[std::string(detail::kSafetensorsMetadata)] = metadata;
  std::uint64_t end = 0;
  for (const Entry& entry : entries) {
    const std::uint64_t begin = end;
    end += entry.tensor->nbytes();
    header[*entry.name] = {
        {"dtype", entry.dtype}, {"shape", entry.tensor->sizes().vec()}, {"data_offsets", {begin, end}}};
  }
  std::string text = detail::dump_json_line(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > detail::kMaxSafetensorsHeaderBytes) {
    throw InputError(fmt::format("{}: a header of {} bytes, expected at most {}", path.string(), text.size(),
                                 detail::kMaxSafetensorsHeaderBytes));
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
