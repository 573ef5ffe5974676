// SPDX-License-Identifier: Apache-2.0
#include "train/reference.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "io/json.h"
#include "io/paths.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/io/jsonl.h"
#include "train/core.h"
#include "train/problems.h"

namespace sao {

ReferenceScorer model_reference(CausalLM model) {
  return [model = std::move(model)](std::span<const PromptedResponse> completions, const ScoringOptions& options) {
    return response_token_logps(model, completions, options);
  };
}

void validate(const ReferenceOptions& options) {
  detail::Problems problems("reference");
  const std::string& mode = options.mode;
  problems.need(mode == "frozen" || mode == "none" || mode == "rows" || mode == "moving", "mode", '"' + mode + '"',
                "frozen, none, rows or moving");
  problems.need(options.file.empty() || mode == "frozen", "file", '"' + options.file + '"',
                "none unless the mode is frozen");
  problems.need(options.alpha > 0.0 && options.alpha <= 1.0, "alpha", options.alpha, "above 0 to 1");
  problems.need(options.sync_steps >= 1, "sync_steps", options.sync_steps, "at least 1");
  problems.raise();
}

namespace detail {

// With adapters, where there are some.
std::string fingerprint_of(const CausalLM& model) {
  NamedTensors all = model.parameters();
  if (model.lora() != nullptr) {
    const NamedTensors& adapters = model.trainable_parameters();
    all.insert(all.end(), adapters.begin(), adapters.end());
  }
  return fingerprint_of(all);
}

namespace {

bool same_tensors(const NamedTensors& left, const NamedTensors& right) {
  if (left.size() != right.size()) return false;
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (left[i].first != right[i].first) return false;
    if (left[i].second.is_same(right[i].second)) continue;
    if (left[i].second.sizes() != right[i].second.sizes() || !at::equal(left[i].second, right[i].second)) return false;
  }
  return true;
}

}  // namespace

// False for a base and new adapters on it, though these change nothing yet.
bool same_weights(const CausalLM& a, const CausalLM& b) {
  if ((a.lora() == nullptr) != (b.lora() == nullptr) || a.dtype() != b.dtype() || a.device() != b.device())
    return false;
  return same_tensors(a.parameters(), b.parameters()) &&
         (a.lora() == nullptr || same_tensors(a.trainable_parameters(), b.trainable_parameters()));
}

double desensitised_sum(const double* logps, std::int64_t length, std::int64_t head, double alpha) {
  double whole = 0.0, tail = 0.0;
  for (std::int64_t t = 0; t < length; ++t) (t < head ? whole : tail) += logps[t];
  return whole + alpha * tail;
}

namespace {

// What the log-prob sum of a sequence depends on, beside the model.
std::string key_of(const Scored& sequence, double alpha) {
  const auto bytes_of = [](TokenSpan ids) {
    return std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(TokenId));
  };
  const TokenSpan prompt = sequence.tokens.prompt, response = sequence.tokens.response;
  std::string text = fmt::format("{} {}", prompt.size(), response.size());
  const auto length = static_cast<std::int64_t>(response.size());
  if (sequence.head < length && alpha != 1.0) text += fmt::format(" {} {}", sequence.head, alpha);
  return fingerprint(text + '\n' + bytes_of(prompt) + bytes_of(response)) + fingerprint(bytes_of(response) + text);
}

}  // namespace

ReferenceFile::ReferenceFile(std::filesystem::path path) : path_(std::move(path)) {
  if (!detail::exists(path_)) return;
  for_each_line(path_, [&](std::string_view line) {
    const Json object = parse_json_object(line, "");
    if (!model_) {
      if (get_field<std::int64_t>(object, "format", "") != 1) throw_field_error("", "format", object["format"], "1");
      model_ = get_field<std::string>(object, "model", "");
      return;
    }
    const auto logp = get_field<double>(object, "logp", "");
    if (!std::isfinite(logp)) throw_field_error("", "logp", object["logp"], "a finite log-prob");
    entries_[get_field<std::string>(object, "key", "")] = {
        logp, static_cast<std::size_t>(get_field<std::int64_t>(object, "tokens", ""))};
  });
  if (!model_) throw InputError(fmt::format("{}: no lines, expected a file of reference log-probs", path_.string()));
}

std::optional<double> ReferenceFile::find(const Scored& sequence, double alpha) const {
  const auto found = entries_.find(key_of(sequence, alpha));
  // The length tells the rare keys that are equal by chance.
  if (found == entries_.end() || found->second.tokens != sequence.tokens.response.size()) return std::nullopt;
  return found->second.logp;
}

void ReferenceFile::add(const Scored& sequence, double alpha, double logp) {
  entries_[key_of(sequence, alpha)] = {logp, sequence.tokens.response.size()};
  changed_ = true;
}

void ReferenceFile::save(const std::string& model) {
  if (!changed_) return;
  model_ = model;
  std::string text = dump_json_line({{"format", 1}, {"model", model}}) + "\n";
  for (const auto& [key, entry] : entries_) {
    text += dump_json_line({{"key", key}, {"logp", entry.logp}, {"tokens", entry.tokens}}) + "\n";
  }
  write_file_atomically(path_, text);
  changed_ = false;
}

}  // namespace detail
}  // namespace sao
