// SPDX-License-Identifier: Apache-2.0
// New models, copies, and models in Hugging Face folders.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>
#include <system_error>

#include "io/paths.h"
#include "model/causal_lm_impl.h"
#include "model/finite.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/io/hf_folder.h"
#include "sao/ops/cuda.h"

namespace sao {

using detail::Initial;
using detail::Slot;

using detail::scalar_type;

at::ScalarType detail::scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return at::kFloat;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kFloat16:
      return at::kHalf;
    case DType::kFloat64:
      return at::kDouble;
  }
  throw InternalError("scalar_type: unknown dtype");
}

namespace {

std::string dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kDouble:
      return "float64";
    default:
      throw InternalError("dtype_name: not a floating dtype of a model");
  }
}

at::Device device_of(const std::string& text) {
  const at::Device device(parse_device(text));
  if (device.is_cuda()) ops::enable_cuda(device.index());
  return device;
}

}  // namespace

CausalLM CausalLM::load(const std::filesystem::path& folder, const LoadOptions& options) {
  auto impl = std::make_shared<Impl>();
  impl->config = ModelConfig::read(folder);
  impl->base_json = read_file(folder / "config.json", 16 << 20);
  const at::Device device = device_of(options.device);
  const at::ScalarType dtype = scalar_type(options.dtype);
  impl->set_purpose(options.purpose, device, dtype);
  const CheckpointReader reader = CheckpointReader::open(folder);

  // Where a checkpoint reads images too (gemma3), the language model is a part of it and the rest is left alone.
  const std::string part = "language_model.";
  const bool whole = !reader.contains(part + "model.embed_tokens.weight");
  const std::string prefix = whole ? "" : part;
  const auto other_part = [&](const std::string& name) {
    return !whole && (name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector."));
  };

  std::vector<std::string> problems;
  std::set<std::string> known{prefix + "lm_head.weight"};  // a tied head may be stored too
  impl->fill_slots([&](const Slot& slot) {
    const std::string name = prefix + slot.name;
    known.insert(name);
    if (!reader.contains(name)) {
      problems.push_back(
          fmt::format("tensor \"{}\" is missing, expected shape [{}]", name, fmt::join(slot.shape, ", ")));
      return;
    }
    const TensorInfo& info = reader.info(name);
    const std::string file = reader.file_of(name).filename().string();
    if (info.shape != slot.shape) {
      problems.push_back(fmt::format("{}: tensor \"{}\" is [{}], expected [{}]", file, name,
                                     fmt::join(info.shape, ", "), fmt::join(slot.shape, ", ")));
      return;
    }
    if (info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F16" && info.dtype != "F64") {
      problems.push_back(
          fmt::format("{}: tensor \"{}\" has dtype {}, expected F32, BF16, F16 or F64", file, name, info.dtype));
      return;
    }
    const at::Tensor stored = reader.tensor(name);
    if (const auto place = detail::find_not_finite(stored)) {
      problems.push_back(fmt::format("{}: tensor \"{}\" holds {} at [{}], expected finite numbers", file, name,
                                     place->value, fmt::join(place->index, ", ")));
      return;
    }
    *slot.tensor = at::empty(slot.shape, at::TensorOptions(dtype).device(device));
    slot.tensor->copy_(stored);
    reader.forget(name);
  });
  for (const std::string& name : reader.names()) {
    if (!known.contains(name) && !other_part(name) && !name.ends_with("rotary_emb.inv_freq")) {
      problems.push_back(fmt::format("{}: tensor \"{}\" is not one that config.json describes",
                                     reader.file_of(name).filename().string(), name));
    }
  }
  if (!problems.empty()) {
    const std::size_t shown = std::min<std::size_t>(problems.size(), 5);
    const std::string more =
        problems.size() > shown ? fmt::format("; and {} more problems", problems.size() - shown) : "";
    problems.resize(shown);
    throw InputError(fmt::format("{}: {}{}", folder.string(), fmt::join(problems, "; "), more));
  }
  reader.check_total_size();
  impl->finish();
  return CausalLM(std::move(impl));
}

CausalLM CausalLM::random(const ModelConfig& config, Seed seed, const LoadOptions& options, double initializer_range) {
  validate(config);
  auto impl = std::make_shared<Impl>();
  impl->config = config;
  const at::Device device = device_of(options.device);
  const at::ScalarType dtype = scalar_type(options.dtype);
  impl->set_purpose(options.purpose, device, dtype);
  impl->fill_slots([&](const Slot& slot) {
    at::Tensor values = at::zeros(slot.shape, at::kFloat);
    if (slot.initial == Initial::kIdentity && !config.zero_centered_norm) values.fill_(1.0);
    if (slot.initial == Initial::kNormal) {
      const Seed stream = seed.fork(slot.name);
      float* data = values.mutable_data_ptr<float>();
      at::parallel_for(0, values.numel(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          data[i] = static_cast<float>(initializer_range * normal(stream, static_cast<std::uint64_t>(i)));
        }
      });
    }
    *slot.tensor = values.to(at::TensorOptions(dtype).device(device));
  });
  impl->finish();
  return CausalLM(std::move(impl));
}
CausalLM CausalLM::clone_frozen() const {
  impl_->need_weights("clone_frozen");
  auto copy = std::make_shared<Impl>();
  copy->config = impl_->config;
  copy->base_json = impl_->base_json;
  const std::vector<Slot> to = detail::slots(copy->config, copy->weights);
  SAO_CHECK(to.size() == impl_->parameters.size());
  for (std::size_t i = 0; i < to.size(); ++i) *to[i].tensor = impl_->parameters[i].second.detach().clone();
  copy->finish();
  CausalLM clone(std::move(copy));
  if (!impl_->lora) return clone;
  LoraAdapter adapter = *impl_->lora;
  for (LoraModule& module : adapter.modules) {
    module.a = module.a.detach().clone();
    module.b = module.b.detach().clone();
  }
  return clone.with_lora(std::move(adapter));
}

void CausalLM::save(const std::filesystem::path& folder, const std::filesystem::path& tokenizer_from) const {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    if (scalar_type(dtype) == this->dtype()) return save(folder, tokenizer_from, dtype);
  }
}

void CausalLM::save(const std::filesystem::path& folder, const std::filesystem::path& tokenizer_from,
                    DType dtype) const {
  impl_->need_weights("save");
  if (impl_->lora) {
    throw InputError(fmt::format(
        "{}: the model has adapters, expected one without; save them by lora()->save, or merged()", folder.string()));
  }
  std::error_code error;
  if (detail::is_folder(folder) && !std::filesystem::is_empty(folder, error) &&
      !detail::exists(folder / "config.json")) {
    throw InputError(
        fmt::format("{}: holds files but no config.json, expected an empty folder, a new one or a model's, which is "
                    "replaced with everything in it",
                    folder.string()));
  }
  write_folder_atomically(folder, [&](const std::filesystem::path& temporary) {
    NamedTensors tensors;
    for (const auto& [name, tensor] : impl_->parameters)
      tensors.emplace_back(name, tensor.detach().to(at::kCPU, scalar_type(dtype)));
    write_file_atomically(temporary / "config.json",
                          impl_->config.to_json(impl_->base_json, dtype_name(scalar_type(dtype))));
    write_checkpoint(temporary, tensors);
    if (!tokenizer_from.empty()) copy_tokenizer_files(tokenizer_from, temporary);
  });
}
}  // namespace sao
