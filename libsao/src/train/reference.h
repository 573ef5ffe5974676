// SPDX-License-Identifier: Apache-2.0
// Files of reference log-probs, and what tells models apart.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "sao/model/causal_lm.h"
#include "sao/train/reference.h"
#include "train/objective.h"

namespace sao::detail {

/// Of names, shapes and values, as they stand in memory.
std::string fingerprint_of(const CausalLM& model);

/// Whether the weights are equal, bit for bit.
bool same_weights(const CausalLM& a, const CausalLM& b);

/// Sum of token log-probs with weight 1 up to `head`, then alpha.
double desensitised_sum(const double* logps, std::int64_t length, std::int64_t head, double alpha);

/// Log-prob sums by what was scored.
class ReferenceFile {
 public:
  /// Reads the file where there is one. Throws InputError naming file and line.
  explicit ReferenceFile(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  /// Of the model that wrote it; nothing for a new file.
  const std::optional<std::string>& model() const { return model_; }
  /// Log-prob sum of a sequence. `alpha` is ld_alpha.
  std::optional<double> find(const Scored& sequence, double alpha) const;
  void add(const Scored& sequence, double alpha, double logp);
  /// Writes it as a whole if anything was added.
  void save(const std::string& model);

 private:
  struct Entry {
    double logp = 0.0;
    std::size_t tokens = 0;
  };
  std::filesystem::path path_;
  std::optional<std::string> model_;
  std::map<std::string, Entry> entries_;
  bool changed_ = false;
};

}  // namespace sao::detail
