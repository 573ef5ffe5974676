// SPDX-License-Identifier: Apache-2.0
#include "sao/io/hf_folder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <map>
#include <system_error>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/paths.h"
#include "io/shard_index.h"
#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";
constexpr std::uint64_t kMaxIndexBytes = 100'000'000;

fs::path shard_name(std::size_t number, std::size_t count) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", number, count);
}

}  // namespace

struct CheckpointReader::Impl {
  fs::path folder;
  std::vector<std::string> names;                  // sorted
  std::map<std::string, SafetensorsFile> file_of;  // by tensor
  detail::ShardIndex index;                        // of a folder with shards
  std::map<std::string, detail::ShardTensors> tensors_of;

  const SafetensorsFile& file(const std::string& name) const {
    const auto found = file_of.find(name);
    if (found == file_of.end()) {
      throw InputError(fmt::format("{}: no tensor \"{}\" in the weights", folder.string(), name));
    }
    return found->second;
  }

  void read_single(const fs::path& path) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    for (const std::string& name : file.names()) file_of.emplace(name, file);
  }

  void read_sharded(const fs::path& index_path) {
    const std::string where = index_path.string();
    index = detail::parse_shard_index(read_file(index_path, kMaxIndexBytes), where);
    std::map<std::string, SafetensorsFile> shards;
    for (const auto& [tensor, shard] : index.file_of) {
      if (shards.contains(shard)) continue;
      if (!detail::exists(folder / shard)) {
        throw InputError(
            fmt::format("{}: shard \"{}\" is not in the folder, expected all files of the weight_map", where, shard));
      }
      tensors_of[shard];  // also where it holds none
      const SafetensorsFile& file = shards.emplace(shard, SafetensorsFile::open(folder / shard)).first->second;
      for (const std::string& name : file.names())
        tensors_of[shard][name] = file.info(name).end - file.info(name).begin;
    }
    detail::check_shard_index(index, tensors_of, where);
    for (const auto& [tensor, shard] : index.file_of) file_of.emplace(tensor, shards.at(shard));
  }
};

CheckpointReader CheckpointReader::open(const fs::path& folder) {
  auto impl = std::make_shared<Impl>();
  impl->folder = folder;
  if (!detail::is_folder(folder)) {
    throw InputError(fmt::format("{}: no such folder, expected a Hugging Face model folder", folder.string()));
  }
  if (detail::exists(folder / kSingleFile)) {
    impl->read_single(folder / kSingleFile);
  } else if (detail::exists(folder / kIndexFile)) {
    impl->read_sharded(folder / kIndexFile);
  } else {
    const bool pickled =
        detail::exists(folder / "pytorch_model.bin") || detail::exists(folder / "pytorch_model.bin.index.json");
    throw InputError(fmt::format("{}: no weights, expected {} or {}{}", folder.string(), kSingleFile, kIndexFile,
                                 pickled ? "; convert pytorch_model.bin to safetensors" : ""));
  }
  for (const auto& entry : impl->file_of) impl->names.push_back(entry.first);
  CheckpointReader reader;
  reader.impl_ = std::move(impl);
  return reader;
}

std::vector<std::string> CheckpointReader::names() const { return impl_->names; }
bool CheckpointReader::contains(const std::string& name) const { return impl_->file_of.contains(name); }
fs::path CheckpointReader::file_of(const std::string& name) const { return impl_->file(name).path(); }
const TensorInfo& CheckpointReader::info(const std::string& name) const { return impl_->file(name).info(name); }
at::Tensor CheckpointReader::tensor(const std::string& name) const { return impl_->file(name).tensor(name); }
void CheckpointReader::forget(const std::string& name) const { impl_->file(name).forget(name); }

void CheckpointReader::check_total_size() const {
  detail::check_total_size(impl_->index, impl_->tensors_of, (impl_->folder / kIndexFile).string());
}

void write_checkpoint(const fs::path& folder, const NamedTensors& tensors, std::uint64_t max_shard_bytes) {
  for (const std::string_view name : {kSingleFile, kIndexFile}) {
    if (detail::exists(folder / name)) {
      throw InputError(fmt::format("{}: holds {} already, expected a folder without weights", folder.string(), name));
    }
  }
  std::vector<NamedTensors> shards(1);
  std::uint64_t shard_bytes = 0;
  std::uint64_t total_bytes = 0;
  for (const auto& entry : tensors) {
    const std::uint64_t bytes = entry.second.nbytes();
    if (shard_bytes + bytes > max_shard_bytes && !shards.back().empty()) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back(entry);
    shard_bytes += bytes;
    total_bytes += bytes;
  }

  if (shards.size() == 1) return write_safetensors(folder / kSingleFile, shards[0]);
  detail::OrderedJson weight_map = detail::OrderedJson::object();
  std::map<std::string, std::string> sorted;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const fs::path name = shard_name(i + 1, shards.size());
    write_safetensors(folder / name, shards[i]);
    for (const auto& entry : shards[i]) sorted[entry.first] = name.string();
  }
  for (const auto& [tensor, shard] : sorted) weight_map[tensor] = shard;
  const detail::OrderedJson index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}};
  write_file_atomically(folder / kIndexFile, detail::dump_json_pretty(index));
}

void copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  constexpr std::array<std::string_view, 7> kFiles = {
      "tokenizer.model",        "tokenizer.json",      "tokenizer_config.json", "special_tokens_map.json",
      "generation_config.json", "chat_template.jinja", "sao_templates.json"};
  std::error_code error;
  if (fs::equivalent(from, to, error)) return;
  for (const std::string_view name : kFiles) {
    if (!detail::exists(from / name)) continue;
    fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing, error);
    if (error) detail::throw_system_error("cannot write", to / name, error.value());
  }
  constexpr std::string_view kMoreTemplates = "additional_chat_templates";
  if (!detail::is_folder(from / kMoreTemplates)) return;
  fs::copy(from / kMoreTemplates, to / kMoreTemplates,
           fs::copy_options::recursive | fs::copy_options::overwrite_existing, error);
  if (error) detail::throw_system_error("cannot write", to / kMoreTemplates, error.value());
}

}  // namespace sao
