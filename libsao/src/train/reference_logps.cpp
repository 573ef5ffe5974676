// SPDX-License-Identifier: Apache-2.0
#include "train/reference_logps.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "sao/base/error.h"
#include "train/core.h"
#include "train/reference.h"
#include "train/vectors.h"

namespace sao::detail {
namespace {

// Sequences scored at a time, so that progress can be told and only these are there token by token.
constexpr std::size_t kSlice = 512;

// Log-prob sums of many sequences: from a file where it has them, else by a scorer that is made when it is needed.
class SumsOrFile {
 public:
  SumsOrFile(std::optional<ReferenceFile>& file, double ld_alpha,
             std::function<std::vector<double>(std::span<const Scored>)> score)
      : file_(file), ld_alpha_(ld_alpha), score_(std::move(score)) {}

  std::vector<double> operator()(std::span<const Scored> sequences) {
    std::vector<double> sums(sequences.size());
    std::vector<Scored> missing;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto found = file_ ? file_->find(sequences[i], ld_alpha_) : std::nullopt;
      if (found) {
        sums[i] = *found;
      } else {
        missing.push_back(sequences[i]);
        places.push_back(i);
      }
    }
    if (missing.empty()) return sums;
    const std::vector<double> scored = score_(missing);
    for (std::size_t i = 0; i < missing.size(); ++i) {
      sums[places[i]] = scored[i];
      if (file_ && std::isfinite(scored[i])) file_->add(missing[i], ld_alpha_, scored[i]);
    }
    return sums;
  }

 private:
  std::optional<ReferenceFile>& file_;
  double ld_alpha_;
  std::function<std::vector<double>(std::span<const Scored>)> score_;
};

std::vector<double> saved_numbers(const SafetensorsFile& file, const std::string& name, std::size_t expected) {
  std::vector<double> values = to_vector(file.tensor(name));
  if (values.size() != expected) {
    throw InputError(fmt::format("{}: tensor \"{}\" holds {} numbers, expected {}", file.path().string(), name,
                                 values.size(), expected));
  }
  return values;
}

}  // namespace

// Log-prob sums under a model or another scorer, gradients off.
std::vector<double> ReferenceLogps::sums_under(const ReferenceScorer& scorer, std::span<const Scored> sequences) const {
  const c10::NoGradGuard no_grad;
  std::vector<PromptedResponse> completions;
  for (const Scored& sequence : sequences) {
    completions.push_back({sequence.tokens.prompt, sequence.tokens.response});
  }
  std::vector<std::vector<double>> logps;
  explain_out_of_memory([&] {
    logps = scorer(completions, {.batch_tokens = options_.micro_batch_tokens, .chunk_tokens = options_.chunk_tokens});
  });
  if (logps.size() != sequences.size()) {
    throw InputError(fmt::format("train: the reference scored {} of {} responses", logps.size(), sequences.size()));
  }
  std::vector<double> sums;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (logps[i].size() != completions[i].response.size()) {
      throw InputError(fmt::format("train: the reference gives {} log-probs for a response of {} tokens",
                                   logps[i].size(), completions[i].response.size()));
    }
    sums.push_back(desensitised_sum(logps[i].data(), static_cast<std::int64_t>(logps[i].size()), sequences[i].head,
                                    options_.ld_alpha));
  }
  return sums;
}

std::vector<Scored> ReferenceLogps::scored(std::span<const std::size_t> rows) const {
  std::vector<Scored> sequences;
  for (const std::size_t row : rows) {
    const std::vector<Scored> of_row = objective_.scored(row);
    sequences.insert(sequences.end(), of_row.begin(),
                     of_row.begin() + static_cast<std::ptrdiff_t>(objective_.reference_slots()));
  }
  return sequences;
}

void ReferenceLogps::refuse(std::size_t row, double logp) const {
  throw InputError(
      fmt::format("train: the reference gives \"{}\" the log-prob {}, expected finite numbers; check its weights",
                  objective_.id(row), logp));
}

void ReferenceLogps::compute_frozen(const CausalLM& policy, std::int64_t total_steps) {
  std::optional<ReferenceFile> file;
  if (!options_.reference.file.empty()) file.emplace(options_.reference.file);
  const bool existed = file && file->model();
  std::string fingerprint;  // of the model that scores, where there is a file
  ReferenceScorer scorer;
  const auto ready = [&] {
    if (scorer) return;
    if (scorer_) {
      scorer = scorer_;
      return;
    }
    const CausalLM model = given_ ? *given_ : policy;
    if (file) fingerprint = fingerprint_of(model);
    if (existed && fingerprint != *file->model()) {
      throw InputError(fmt::format(
          "{}: holds log-probs of another reference (fingerprint {}, expected {}); give that one, or another file",
          file->path().string(), *file->model(), fingerprint));
    }
    scorer = model_reference(model);
  };
  if (given_) ready();  // a file of another model is refused even when it has all that is needed
  equals_start_ = !scorer_ && !existed && (!given_ || same_weights(*given_, policy));
  SumsOrFile sums_of(file, options_.ld_alpha, [&](std::span<const Scored> missing) {
    ready();
    return sums_under(scorer, missing);
  });

  // The rows, then the mismatched pairs of every step.
  std::vector<std::size_t> rows(objective_.size()), mismatched_rows;
  for (std::size_t row = 0; row < rows.size(); ++row) rows[row] = row;
  std::vector<Scored> mismatched;
  for (std::int64_t step = 0; step < total_steps; ++step) {
    const std::vector<std::size_t> batch = batches_.batch_of(step);
    const std::vector<Scored> of_step = batches_.mismatched(batch);
    if (of_step.empty()) break;
    mismatched_rows.insert(mismatched_rows.end(), batch.begin(), batch.end());
    mismatched.insert(mismatched.end(), of_step.begin(), of_step.end());
  }
  const std::size_t slots = objective_.reference_slots(), total = slots * rows.size() + mismatched.size();
  std::size_t done = 0;
  const auto tell = [&](std::size_t more) {
    done += more;
    if (progress_) progress_("reference log-probs", done, total);
  };
  const std::size_t rows_a_slice = std::max<std::size_t>(1, kSlice / slots);
  for (std::size_t begin = 0; begin < rows.size(); begin += rows_a_slice) {
    const std::size_t size = std::min(rows_a_slice, rows.size() - begin);
    const std::vector<double> sums = sums_of(scored(std::span(rows).subspan(begin, size)));
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (!std::isfinite(sums[i])) refuse(rows[begin + i / slots], sums[i]);
      logps_[i % slots].push_back(sums[i]);
    }
    tell(sums.size());
  }
  for (std::size_t begin = 0; begin < mismatched.size(); begin += kSlice) {
    const std::size_t size = std::min(kSlice, mismatched.size() - begin);
    const std::vector<double> sums = sums_of(std::span(mismatched).subspan(begin, size));
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (!std::isfinite(sums[i])) refuse(mismatched_rows[begin + i], sums[i]);
      mismatched_.push_back(sums[i]);
    }
    tell(sums.size());
  }
  if (file) file->save(fingerprint);
}

void ReferenceLogps::read_rows() {
  for (std::size_t row = 0; row < objective_.size(); ++row) {
    for (std::size_t slot = 0; slot < objective_.reference_slots(); ++slot) {
      const auto logp = objective_.given_reference(row, slot);
      if (!logp) {
        throw InputError(
            fmt::format("train: \"{}\" has no reference log-prob of {}, expected one in every row (ref_chosen_logps "
                        "and ref_rejected_logps, or ref_logps) in reference mode rows",
                        objective_.id(row), objective_.slot_name(slot)));
      }
      logps_[slot].push_back(*logp);
    }
  }
}

void ReferenceLogps::make_moving(const CausalLM& policy) {
  // A copy: what was given, or the policy, stays what it is.
  moving_ = (given_ ? *given_ : policy).clone_frozen();
  equals_start_ = !given_ || same_weights(*given_, policy);
}

void ReferenceLogps::let_go() {
  given_.reset();
  scorer_ = {};
}

void ReferenceLogps::start(const CausalLM& policy, std::int64_t total_steps) {
  const std::string& mode = options_.reference.mode;
  if (is_used() && mode == "frozen") compute_frozen(policy, total_steps);
  if (is_used() && mode == "rows") read_rows();
  if (moves()) make_moving(policy);
  let_go();
}

void ReferenceLogps::resume(const CausalLM& policy, std::int64_t total_steps, const SafetensorsFile& tensors) {
  if (moves()) {
    make_moving(policy);
    equals_start_ = false;
    const c10::NoGradGuard no_grad;
    for (const auto& [name, tensor] : moving_->parameters()) {
      const at::Tensor value = tensors.tensor("reference.model." + name);
      if (value.sizes() != tensor.sizes() || value.scalar_type() != tensor.scalar_type()) {
        throw InputError(fmt::format("{}: tensor \"reference.model.{}\" is no weight of the reference",
                                     tensors.path().string(), name));
      }
      at::Tensor target = tensor;
      target.copy_(value);
    }
    moving_->weights_changed();
  } else if (is_used() && options_.reference.mode != "none") {
    for (std::size_t slot = 0; slot < objective_.reference_slots(); ++slot) {
      logps_[slot] = saved_numbers(tensors, fmt::format("reference.{}", objective_.slot_name(slot)), objective_.size());
    }
    if (objective_.mismatched(0, 0)) {
      const auto expected = static_cast<std::size_t>(batches_.rows_before(total_steps));
      mismatched_ = saved_numbers(tensors, "reference.mismatched", expected);
    }
  }
  let_go();
}

NamedTensors ReferenceLogps::tensors() const {
  NamedTensors tensors;
  for (std::size_t slot = 0; slot < logps_.size(); ++slot) {
    if (logps_[slot].empty()) continue;
    tensors.emplace_back(fmt::format("reference.{}", objective_.slot_name(slot)), double_tensor(logps_[slot]));
  }
  if (!mismatched_.empty()) tensors.emplace_back("reference.mismatched", double_tensor(mismatched_));
  if (moving_) {
    for (const auto& [name, tensor] : moving_->parameters()) {
      tensors.emplace_back("reference.model." + name, tensor.detach());
    }
  }
  return tensors;
}

void ReferenceLogps::fill(std::span<const std::size_t> batch, std::vector<RowValues>& values) const {
  if (!is_used() || options_.reference.mode == "none") return;
  const std::size_t slots = objective_.reference_slots();
  if (!moves()) {
    for (std::size_t k = 0; k < batch.size(); ++k) {
      for (std::size_t slot = 0; slot < slots; ++slot) values[k].reference[slot] = logps_[slot][batch[k]];
    }
    return;
  }
  const std::vector<double> sums = sums_under(model_reference(*moving_), scored(batch));
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (!std::isfinite(sums[i])) refuse(batch[i / slots], sums[i]);
    values[i / slots].reference[i % slots] = sums[i];
  }
}

double ReferenceLogps::kl(std::int64_t step, std::span<const std::size_t> batch, const CausalLM& policy) const {
  const std::vector<Scored> sequences = batches_.mismatched(batch);
  if (sequences.empty()) return 0.0;
  std::vector<double> reference(sequences.size());
  if (moves()) {
    reference = sums_under(model_reference(*moving_), sequences);
  } else if (options_.reference.mode != "none") {
    const auto first = mismatched_.begin() + batches_.rows_before(step);
    reference.assign(first, first + static_cast<std::ptrdiff_t>(sequences.size()));
  }
  const std::vector<double> found = sums_under(model_reference(policy), sequences);
  policy.set_requires_grad(true);  // frees the packed weights of that pass
  return kl_estimate(double_tensor(found), double_tensor(reference));
}

// As TRL's SyncRefModelCallback.
void ReferenceLogps::move(const CausalLM& policy, std::int64_t steps_done) {
  if (!moves() || steps_done % options_.reference.sync_steps != 0) return;
  const c10::NoGradGuard no_grad;
  const NamedTensors &from = policy.parameters(), &to = moving_->parameters();
  for (std::size_t i = 0; i < to.size(); ++i) {
    at::Tensor target = to[i].second;
    target.mul_(1.0 - options_.reference.alpha).add_(from[i].second.detach(), options_.reference.alpha);
  }
  moving_->weights_changed();
}

}  // namespace sao::detail
