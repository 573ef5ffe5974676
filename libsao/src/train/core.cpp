// SPDX-License-Identifier: Apache-2.0
#include "train/core.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <system_error>
#include <utility>

#include "io/paths.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "train/problems.h"

namespace sao::detail {

namespace fs = std::filesystem;

namespace {

constexpr const char* kTensorsFile = "tensors.safetensors";
constexpr const char* kStateFile = "state.json";
constexpr const char* kPrefix = "step-";

// Complete checkpoints by step, oldest first. A folder without state.json is not one of ours.
std::vector<std::pair<std::int64_t, fs::path>> find_checkpoints(const fs::path& folder) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const auto step = checkpoint_step(entry->path().filename().string());
    if (step && detail::exists(entry->path() / kStateFile)) found.emplace_back(*step, entry->path());
  }
  if (error) throw ResourceError(fmt::format("cannot read {}: {}", folder.string(), error.message()));
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::optional<std::int64_t> checkpoint_step(const std::string& name) {
  constexpr std::size_t kMaxDigits = 18;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string digits = name.substr(std::string_view(kPrefix).size());
  if (digits.empty() || digits.size() > kMaxDigits || digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(digits);
}

void remove_checkpoint(const fs::path& folder) {
  std::error_code ignored;
  fs::remove(folder / kStateFile, ignored);  // first: without it the rest is no checkpoint
  fs::remove_all(folder, ignored);
}

void validate(const CheckpointOptions& options) {
  Problems problems("checkpoint");
  problems.need(options.every_steps >= 0, "every_steps", options.every_steps, "0 or more");
  problems.need(options.keep >= 1, "keep", options.keep, "at least 1");
  problems.raise();
}

Core::Core(CausalLM model, const CoreOptions& options, std::int64_t total_steps)
    : model_(std::move(model)),
      options_(options),
      total_steps_(total_steps),
      optimizer_(model_.trainable_parameters(), options.optimizer) {
  if (model_.dtype() == at::kHalf) {  // also where the optimizer sees adapters alone
    throw InputError("train: the model is float16, which loses gradients, expected bfloat16, float32 or float64");
  }
  const std::int64_t warmup = warmup_steps(options.schedule, total_steps);
  if (warmup > 0 && warmup >= total_steps) {
    throw InputError(fmt::format(
        "train: the schedule warms up for {} of {} steps and never reaches the learning rate{}, expected "
        "fewer; lower schedule.warmup_ratio = {} (0 = no warm-up), or take more steps: more data, a smaller "
        "batch, more passes",
        warmup, total_steps, total_steps == 1 ? ", which is 0 in the only step" : "", options.schedule.warmup_ratio));
  }
  optimizer_.zero_grad();
  model_.set_requires_grad(true);
  model_.set_activation_checkpointing(options.activation_checkpointing);
}

Core::~Core() {
  optimizer_.zero_grad();
  model_.set_requires_grad(false);
}

double Core::learning_rate() const {
  return options_.optimizer.learning_rate * schedule_factor(options_.schedule, steps_done(), total_steps_);
}

at::Tensor Core::scored_logps(const PackedTokens& tokens, const at::Tensor& rows, const at::Tensor& targets,
                              ops::TokenStatistics* statistics) const {
  return model_.log_probs(model_.hidden(tokens).index_select(0, rows.to(model_.device())), targets,
                          options_.chunk_tokens, statistics);
}

void Core::backward(const at::Tensor& values, const at::Tensor& gradient) {
  values.backward(gradient.to(values.device(), values.scalar_type()));
  optimizer_.accumulate();
}

double Core::update(const std::function<void(OrderedJson&)>& describe) {
  const double norm = optimizer_.gradient_norm();
  if (!std::isfinite(norm)) {
    stop_non_finite(fmt::format("the gradient norm is {}", norm), describe);
  }
  optimizer_.update(norm, learning_rate());
  model_.weights_changed();
  return norm;
}

void Core::stop_non_finite(const std::string& problem, const std::function<void(OrderedJson&)>& describe) {
  const std::int64_t step = steps_done() + 1;
  std::string written;
  if (has_folder()) {
    OrderedJson report{{"step", step}, {"problem", problem}, {"learning_rate", json_number(learning_rate())}};
    if (describe) describe(report);
    OrderedJson norms = OrderedJson::object(), weights = OrderedJson::object();
    const std::vector<double> gradient_norms = optimizer_.gradient_norms();
    const c10::NoGradGuard no_grad;
    for (std::size_t i = 0; i < gradient_norms.size(); ++i) {
      const auto& [name, parameter] = model_.trainable_parameters()[i];
      norms[name] = json_number(gradient_norms[i]);
      weights[name] = json_number(parameter.detach().to(at::kFloat).norm().item<double>());
    }
    report["gradient_norms"] = std::move(norms);
    report["parameter_norms"] = std::move(weights);
    const fs::path path = folder_ / fmt::format("non-finite-step-{:06}.json", step);
    write_file_atomically(path, dump_json_pretty(report));
    written = fmt::format("; its values are in {}", path.string());
  }
  optimizer_.zero_grad();
  throw InputError(
      fmt::format("train: step {}: {}, expected finite numbers; lower the learning rate, or check the "
                  "weights and data that training began with{}",
                  step, problem, written));
}

std::optional<SavedState> Core::open(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw ResourceError(fmt::format("{}: {}, expected a folder for checkpoints", folder.string(), error.message()));
  folder_ = folder;
  if (const LoraAdapter* lora = model_.lora()) {
    // Checkpoints hold the adapters alone.
    adapters_ = OrderedJson{{"options", options_to_json(lora->options)}, {"base", fingerprint_of(model_.parameters())}};
    for (const LoraModule& module : lora->modules) adapters_["scaling"][module.name] = module.scaling;
  }
  remove_unfinished(folder);
  const auto found = find_checkpoints(folder);
  if (found.empty()) return std::nullopt;
  const fs::path& newest = found.back().second;
  const std::string where = (newest / kStateFile).string();
  return SavedState{newest, parse_json_object(read_file(newest / kStateFile), where),
                    SafetensorsFile::open(newest / kTensorsFile)};
}

void Core::restore(const SavedState& saved, const OrderedJson& identity) {
  const std::string where = (saved.folder / kStateFile).string();
  const auto same = saved.state.find("made_with");
  if (same == saved.state.end()) throw_missing_field(where, "made_with", "what the checkpoint was made with");
  const std::vector<std::string> differences = json_differences(*same, Json(with_adapters(identity)));
  if (!differences.empty()) {
    throw InputError(fmt::format("{}: {}; resume with the checkpoint's settings, or start in another folder", where,
                                 fmt::join(differences, "; ")));
  }
  const auto steps = get_field<std::int64_t>(saved.state, "step", where);
  if (steps < 0 || steps > total_steps_) {
    throw InputError(fmt::format("{}: field \"step\" is {}, expected 0 to {}", where, steps, total_steps_));
  }
  optimizer_.load(saved.tensors, steps);
  model_.weights_changed();
}

void Core::save_if_due(const OrderedJson& identity, const OrderedJson& progress, const NamedTensors& more) {
  if (!has_folder()) return;
  const std::int64_t step = steps_done(), every = options_.checkpoint.every_steps;
  if (!done() && (every == 0 || step % every != 0)) return;
  NamedTensors tensors = optimizer_.state();
  tensors.insert(tensors.end(), more.begin(), more.end());
  OrderedJson state{{"format", 1}, {"step", step}};
  state.update(progress);
  state["made_with"] = with_adapters(identity);
  write_folder_atomically(folder_ / fmt::format("{}{:06}", kPrefix, step), [&](const fs::path& temporary) {
    write_safetensors(temporary / kTensorsFile, tensors);
    write_file_atomically(temporary / kStateFile, dump_json_pretty(state));
  });
  may_prune_ = true;
}

void Core::prune() {
  if (!has_folder() || !may_prune_) return;
  may_prune_ = false;
  const auto found = find_checkpoints(folder_);
  const auto keep = static_cast<std::size_t>(options_.checkpoint.keep);
  for (std::size_t i = 0; i + keep < found.size(); ++i) remove_checkpoint(found[i].second);
}

OrderedJson Core::with_adapters(OrderedJson identity) const {
  if (!adapters_.is_null()) identity["lora"] = adapters_;
  return identity;
}

std::string fingerprint_of(const NamedTensors& parameters) {
  std::string text;
  for (const auto& [name, tensor] : parameters) {
    const at::Tensor values = tensor.detach().to(at::kCPU).contiguous();
    const std::string_view bytes(static_cast<const char*>(values.const_data_ptr()), values.nbytes());
    text += fmt::format("{} [{}] {} {}\n", name, fmt::join(values.sizes(), ", "), at::toString(values.scalar_type()),
                        fingerprint(bytes));
  }
  return fingerprint(text);
}

void explain_out_of_memory(const std::function<void()>& work) {
  constexpr const char* kAdvice =
      "train: out of memory; lower micro_batch_tokens or chunk_tokens, or switch activation_checkpointing on";
  try {
    work();
  } catch (const c10::OutOfMemoryError&) {
    throw ResourceError(kAdvice);
  } catch (const std::bad_alloc&) {
    throw ResourceError(kAdvice);
  } catch (const c10::Error& e) {
    // LibTorch's CPU allocator has no exception type of its own.
    if (std::string_view(e.what_without_backtrace()).find("DefaultCPUAllocator") == std::string_view::npos) throw;
    throw ResourceError(kAdvice);
  }
}

OrderedJson json_number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0.0 ? "inf" : "-inf";
}

void check_ids(TokenSpan ids, std::int64_t vocab_size, const std::string& where) {
  for (const TokenId id : ids) {
    if (id < 0 || id >= vocab_size) {
      throw InputError(
          fmt::format("{}: token id {}, expected 0 to {}, the model's vocabulary", where, id, vocab_size - 1));
    }
  }
}

}  // namespace sao::detail
