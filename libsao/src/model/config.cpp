// SPDX-License-Identifier: Apache-2.0
#include "sao/model/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "model/config_problems.h"
#include "model/families.h"
#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao {
namespace detail {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 31;
constexpr double kMaxParameters = 1e15;  // their bytes fit into 64 bits; nothing of the kind exists

bool positive(double x) { return std::isfinite(x) && x > 0.0; }
bool not_negative(double x) { return std::isfinite(x) && x >= 0.0; }
bool about(double x, double y) { return std::abs(x - y) <= 1e-6 * std::abs(y); }
std::string quoted(const std::string& text) { return '"' + text + '"'; }

class Checks {
 public:
  explicit Checks(Problems& problems) : problems_(problems) {}
  void need(bool good, const std::string& field, const auto& found, const std::string& expected) {
    if (!good) problems_.emplace_back(field, fmt::format("is {}, expected {}", found, expected));
  }

 private:
  Problems& problems_;
};

void check_sizes(const ModelConfig& c, Checks& checks) {
  struct Size {
    const char* field;
    std::int64_t value;
    std::int64_t most = kMaxSize;
  };
  for (const auto& [field, value, most] :
       std::initializer_list<Size>{{"vocab_size", c.vocab_size},
                                   {"hidden_size", c.hidden_size},
                                   {"intermediate_size", c.intermediate_size},
                                   {"num_hidden_layers", c.num_hidden_layers, kMaxLayers},
                                   {"num_attention_heads", c.num_attention_heads},
                                   {"num_key_value_heads", c.num_key_value_heads},
                                   {"head_dim", c.head_dim},
                                   {"max_position_embeddings", c.max_position_embeddings}}) {
    checks.need(value >= 1 && value <= most, field, value, fmt::format("an integer from 1 to {}", most));
  }
  // As parameter_count, where it may not overflow.
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double parameters =
      real(c.hidden_size) * (real(c.vocab_size) * 2.0 +
                             real(c.num_hidden_layers) *
                                 (real(c.head_dim) * 2.0 * (real(c.num_attention_heads) + real(c.num_key_value_heads)) +
                                  3.0 * real(c.intermediate_size) + 4.0));
  checks.need(!(parameters > kMaxParameters), "hidden_size", c.hidden_size,
              fmt::format("one that makes at most {:.0e} parameters with the other sizes, not {:.1e}", kMaxParameters,
                          parameters));
  checks.need(c.num_key_value_heads < 1 || c.num_attention_heads % c.num_key_value_heads == 0, "num_key_value_heads",
              c.num_key_value_heads, fmt::format("a divisor of num_attention_heads = {}", c.num_attention_heads));
  checks.need(c.head_dim % 2 == 0, "head_dim", c.head_dim, "an even number");
  checks.need(not_negative(c.rms_norm_eps), "rms_norm_eps", c.rms_norm_eps, "0 or more");
  checks.need(positive(c.embedding_scale), "embedding_scale", c.embedding_scale, "a positive number");
  checks.need(positive(c.attention_scale), "attention_scale", c.attention_scale, "a positive number");
  checks.need(not_negative(c.attn_logit_softcapping), "attn_logit_softcapping", c.attn_logit_softcapping, "0 or more");
  checks.need(not_negative(c.final_logit_softcapping), "final_logit_softcapping", c.final_logit_softcapping,
              "0 or more");
  for (const TokenId id : c.eos_token_ids) {
    checks.need(id >= 0 && (id < c.vocab_size || c.vocab_size < 1), "eos_token_id", id,
                fmt::format("a token id below {}", c.vocab_size));
  }
}

void check_rope(const ModelConfig& c, const Family& family, Checks& checks) {
  checks.need(positive(c.rope_theta), "rope_theta", c.rope_theta, "a positive number");
  checks.need(not_negative(c.sliding_rope_theta), "rope_local_base_freq", c.sliding_rope_theta, "a positive number");
  const bool part = c.partial_rotary_factor > 0.0 && c.partial_rotary_factor <= 1.0;
  checks.need(part, "partial_rotary_factor", c.partial_rotary_factor, "above 0 and at most 1");
  if (part && c.head_dim >= 2 && c.head_dim % 2 == 0) {
    checks.need(c.rotary_dim() >= 2 && c.rotary_dim() % 2 == 0, "partial_rotary_factor", c.partial_rotary_factor,
                fmt::format("one that makes an even part of head_dim = {}", c.head_dim));
  }
  const RopeScaling& rope = c.rope_scaling;
  const std::string path = "rope_scaling.";
  checks.need(std::ranges::find(family.rope_types, rope.rope_type) != family.rope_types.end(), path + "rope_type",
              quoted(rope.rope_type), fmt::format("one of: {}", fmt::join(family.rope_types, ", ")));
  checks.need(positive(rope.factor), path + "factor", rope.factor, "a positive number");
  checks.need(positive(rope.attention_factor), path + "attention_factor", rope.attention_factor, "a positive number");
  if (rope.rope_type == "llama3" || rope.rope_type == "yarn" || rope.rope_type == "longrope") {
    checks.need(rope.original_max_position_embeddings >= 1, path + "original_max_position_embeddings",
                rope.original_max_position_embeddings, "a positive integer");
  }
  if (rope.rope_type == "llama3") {
    checks.need(positive(rope.low_freq_factor), path + "low_freq_factor", rope.low_freq_factor, "a positive number");
    checks.need(std::isfinite(rope.high_freq_factor) && rope.high_freq_factor > rope.low_freq_factor,
                path + "high_freq_factor", rope.high_freq_factor, "a value above low_freq_factor");
  }
  if (rope.rope_type == "yarn") {
    checks.need(positive(rope.beta_slow), path + "beta_slow", rope.beta_slow, "a positive number");
    checks.need(std::isfinite(rope.beta_fast) && rope.beta_fast >= rope.beta_slow, path + "beta_fast", rope.beta_fast,
                "beta_slow or more");
    checks.need(c.rope_theta != 1.0, "rope_theta", c.rope_theta, "another number than 1");  // its logarithm divides
  }
  if (rope.rope_type == "longrope") {
    for (const auto& [name, factors] :
         {std::pair("short_factor", &rope.short_factor), {"long_factor", &rope.long_factor}}) {
      const bool one_each = part && static_cast<std::int64_t>(factors->size()) == c.rotary_dim() / 2;
      checks.need(one_each, path + name, fmt::format("a list of {}", factors->size()),
                  fmt::format("one for each of {} frequencies", part ? c.rotary_dim() / 2 : 0));
      for (const double factor : *factors) checks.need(positive(factor), path + name, factor, "positive numbers");
    }
  }
}

void check_windows(const ModelConfig& c, const Family& family, Checks& checks) {
  const std::vector<std::int64_t>& windows = c.layer_windows;
  checks.need(static_cast<std::int64_t>(windows.size()) == std::clamp<std::int64_t>(c.num_hidden_layers, 0, kMaxLayers),
              "layer_windows", fmt::format("a list of {}", windows.size()),
              fmt::format("one for each of {} layers", c.num_hidden_layers));
  std::int64_t window = 0;
  for (const std::int64_t found : windows) {
    checks.need(found >= 0, "layer_windows", found, "0 or more");
    if (found > 0 && window == 0) window = found;
  }
  const bool every = family.windows == Windows::kEveryLayer;
  for (const std::int64_t found : windows) {
    if (found == window || (found == 0 && !every) || found < 0) continue;
    checks.need(false, "layer_windows", found, fmt::format("{}{}, as another layer has", window, every ? "" : " or 0"));
    break;
  }
  checks.need(family.windows != Windows::kNone || window == 0, "layer_windows", window,
              fmt::format("0: no layer of {} has one", family.model_type));
}

// A config is saved by the fields of its family: what they cannot say would be lost.
void check_block(const ModelConfig& c, const Family& family, Checks& checks) {
  struct Switch {
    const char* field;
    bool found, expected;
  };
  const bool by_field = family.reads_field("attention_bias") && c.attention_output_bias;
  for (const auto& [field, found, expected] : std::initializer_list<Switch>{
           {"zero_centered_norm", c.zero_centered_norm, family.zero_centered_norm},
           {"post_norms", c.post_norms, family.post_norms},
           {"query_key_norm", c.query_key_norm, family.query_key_norm},
           {"fused_projections", c.fused_projections, family.fused_projections},
           {"query_key_value_bias", c.query_key_value_bias, family.query_key_value_bias || by_field},
           {"attention_output_bias", c.attention_output_bias, by_field},
           {"mlp_bias", c.mlp_bias, family.reads_field("mlp_bias") && c.mlp_bias}}) {
    checks.need(found == expected, field, found, fmt::format("{}, as {} has it", expected, family.model_type));
  }
  if (c.hidden_size >= 1 && positive(c.embedding_scale)) {
    const double scale = family.scaled_embedding ? std::sqrt(static_cast<double>(c.hidden_size)) : 1.0;
    checks.need(about(c.embedding_scale, scale), "embedding_scale", c.embedding_scale, fmt::format("{}", scale));
  }
  if (c.head_dim >= 1 && positive(c.attention_scale) && !family.reads_field("query_pre_attn_scalar")) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
    checks.need(about(c.attention_scale, scale), "attention_scale", c.attention_scale, fmt::format("{}", scale));
  }
  struct Number {
    const char* field;
    double value, off;
  };
  for (const auto& [field, value, off] :
       std::initializer_list<Number>{{"attn_logit_softcapping", c.attn_logit_softcapping, 0.0},
                                     {"final_logit_softcapping", c.final_logit_softcapping, 0.0},
                                     {"partial_rotary_factor", c.partial_rotary_factor, 1.0},
                                     {"rope_local_base_freq", c.sliding_rope_theta, 0.0}}) {
    checks.need(value == off || family.reads_field(field), field, value,
                fmt::format("{}: {} has none", off, family.model_type));
  }
  checks.need(c.hidden_act == "gelu_pytorch_tanh" || c.hidden_act == "gelu" || c.hidden_act == "silu",
              std::string(family.activation_field), quoted(c.hidden_act),
              "\"gelu_pytorch_tanh\", \"gelu\" or \"silu\"");
}

}  // namespace

Problems find_problems(const ModelConfig& config) {
  Problems problems;
  Checks checks(problems);
  const Family* family = find_family(config.model_type);
  checks.need(family != nullptr, "model_type", quoted(config.model_type), "one of: " + family_names());
  check_sizes(config, checks);
  if (family != nullptr) {
    check_rope(config, *family, checks);
    check_windows(config, *family, checks);
    check_block(config, *family, checks);
  }
  return problems;
}

void throw_problems(std::string_view where, const Problems& problems) {
  std::vector<std::string> sentences;
  for (const auto& [field, sentence] : problems) sentences.push_back(field + " " + sentence);
  throw InputError(fmt::format("{}: {}", where, fmt::join(sentences, "; ")));
}

}  // namespace detail

void validate(const ModelConfig& config, std::string_view where) {
  if (const detail::Problems problems = detail::find_problems(config); !problems.empty()) {
    detail::throw_problems(where, problems);
  }
}

ModelConfig ModelConfig::read(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  return parse(read_file(file, 16 << 20), file.string());
}

std::int64_t ModelConfig::context_length() const {
  if (rope_scaling.rope_type != "longrope") return max_position_embeddings;
  return std::min(max_position_embeddings, rope_scaling.original_max_position_embeddings);
}

std::int64_t ModelConfig::rotary_dim() const {
  return static_cast<std::int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
}

}  // namespace sao
