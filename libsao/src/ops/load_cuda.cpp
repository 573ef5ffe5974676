// SPDX-License-Identifier: Apache-2.0
// Loads libsao_cuda.so, and LibTorch's CUDA half with it, on first use.
#include <ATen/Context.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "ops/cuda_dispatch.h"
#include "sao/base/error.h"
#include "sao/base/version.h"
#include "sao/ops/cuda.h"

namespace sao::ops {
namespace {

struct Library {
  const cuda::Table* table = nullptr;
  std::string problem = {};
};

// Beside an installed program (bin and lib), else wherever the program's search path leads.
std::string library_path() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = program.parent_path().parent_path() / SAO_LIBDIR / "libsao_cuda.so";
  return !error && std::filesystem::exists(beside, error) ? beside.string() : "libsao_cuda.so";
}

Library load() {
  // The driver first: without it the rest would load, slowly, and be of no use.
  if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    return {.problem = "no NVIDIA driver is installed (libcuda.so.1 does not load)"};
  }
  // Global, because LibTorch's CUDA half loads further parts of itself by name.
  void* library = dlopen(library_path().c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    return {.problem =
                fmt::format("{}; libsao's CUDA library belongs in the folder that the program was built or installed "
                            "with, and needs LibTorch's CUDA libraries",
                            dlerror())};
  }
  const auto function = reinterpret_cast<cuda::TableFunction*>(dlsym(library, cuda::kTableFunction));
  const cuda::Table* table = function == nullptr ? nullptr : function();
  if (table == nullptr || table->size != sizeof(cuda::Table) || std::string_view(table->version) != SAO_VERSION) {
    return {.problem = "the libsao_cuda.so that was found is of another build; build or install both together"};
  }
  return {.table = table};
}

const Library& library() {
  static const Library loaded = load();
  return loaded;
}

}  // namespace

void enable_cuda(std::int64_t index) {
  const auto fail = [&](const std::string& problem) {
    throw ResourceError(fmt::format("device cuda:{}: {}; or use the device cpu", index, problem));
  };
  if (library().table == nullptr) fail(library().problem);
  const int devices = library().table->device_count();
  if (devices == 0) fail("no CUDA device is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES)");
  if (index < 0 || index >= devices)
    fail(fmt::format("expected a number below {}, the number of visible devices", devices));
  if (!at::hasCUDA()) {
    fail("LibTorch was asked about CUDA before its CUDA half was loaded; call sao::ops::enable_cuda first of all");
  }
}

const cuda::Table* cuda::table() { return library().table; }

const cuda::Table* cuda::kernels_for(const at::Tensor& x) {
  if (!x.is_cuda() || (x.scalar_type() != at::kFloat && x.scalar_type() != at::kBFloat16)) return nullptr;
  return library().table;
}

}  // namespace sao::ops
