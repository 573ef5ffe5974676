// SPDX-License-Identifier: Apache-2.0
#include "sao/model/causal_lm.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "model/causal_lm_impl.h"
#include "model/decoder.h"
#include "model/pack_parts.h"
#include "sao/base/error.h"
#include "sao/base/memory.h"
#include "sao/ops/log_probs.h"
#include "sao/ops/pointwise.h"

namespace sao {

using detail::PackedLayer;
using detail::PackedModel;
using detail::RotaryTables;

namespace {

[[noreturn]] void throw_no_int8(at::Device device, at::ScalarType dtype) {
  throw InputError(fmt::format("int8 inference: a model in {} on {}, expected float32 on the CPU", at::toString(dtype),
                               device.str()));
}

}  // namespace

void CausalLM::Impl::set_purpose(Purpose purpose, at::Device device, at::ScalarType dtype) {
  const bool packs = device.is_cpu() && dtype == at::kFloat;
  if (purpose == Purpose::kInt8Inference) {
    if (!packs) throw_no_int8(device, dtype);
    packed_format = ops::WeightFormat::kInt8;
  }
  inference_only = packs && purpose != Purpose::kAll;
}

void CausalLM::Impl::fill_slots(const std::function<void(const detail::Slot&)>& fill) {
  const auto packed_of = [](const at::Tensor& matrix, ops::WeightFormat format) {
    return ops::PackedWeight::pack({&matrix, 1}, {}, format);
  };
  const auto ends = [&](const detail::LayerWeights& layer, const at::Tensor* tensor) {
    const detail::Linear& last = layer.down.back();
    return tensor == (config.mlp_bias ? &last.bias : &last.weight);
  };
  auto packed = std::make_shared<PackedModel>();
  bool whole = true;
  for (const detail::Slot& slot : detail::slots(config, weights)) {
    fill(slot);
    whole = whole && slot.tensor->defined();
    if (!inference_only || !whole) continue;
    const std::size_t next = packed->layers.size();
    if (slot.tensor == &weights.embedding && config.tie_word_embeddings) {
      packed->embedding = packed_of(weights.embedding, ops::WeightFormat::kFloat32);
      packed->output = packed_format == ops::WeightFormat::kFloat32 ? packed->embedding
                                                                    : packed_of(weights.embedding, packed_format);
      weights.embedding = at::Tensor();
    } else if (slot.tensor == &weights.output) {
      packed->output = packed_of(weights.output, packed_format);
      weights.output = at::Tensor();
    } else if (next < weights.layers.size() && ends(weights.layers[next], slot.tensor)) {
      packed->layers.push_back(detail::pack(weights.layers[next], packed_format));
      detail::drop_matrices(weights.layers[next]);
      release_freed_memory();
    }
  }
  if (inference_only) packed_model_ = std::move(packed);
}

void CausalLM::Impl::finish() {
  if (inference_only) return;
  if (config.tie_word_embeddings) weights.output = weights.embedding;
  if (!ops::PackedWeight::supports(weights.embedding)) {  // which joins them in its own way
    for (detail::LayerWeights& layer : weights.layers) {
      detail::join(layer.qkv);
      detail::join(layer.gate_up);
    }
  }
  for (const detail::Slot& slot : detail::slots(config, weights)) parameters.emplace_back(slot.name, *slot.tensor);
}

RotaryTables CausalLM::Impl::rotary_tables(std::int64_t positions) {
  const std::lock_guard lock(mutex_);
  if (positions > rope_positions_) {
    // On a GPU at once all there can be: recorded work keeps pointing to the tables.
    rope_positions_ =
        device().is_cpu()
            ? std::max(positions, std::min(config.context_length(), std::max<std::int64_t>(2 * positions, 512)))
            : config.context_length();
    rope_ = detail::rotary_tables(config, rope_positions_, device());
  }
  return rope_;
}

const detail::RotaryTable& CausalLM::Impl::rotary_of(const RotaryTables& tables, std::size_t layer) const {
  return config.layer_windows[layer] > 0 ? tables.sliding : tables.full;
}

void CausalLM::Impl::need_weights(const char* caller) const {
  if (!inference_only) return;
  throw InputError(
      fmt::format("CausalLM::{}: the model is for inference only and holds its weights packed, expected one that was "
                  "loaded with LoadOptions::purpose kAll",
                  caller));
}

std::shared_ptr<const PackedModel> CausalLM::Impl::packed() {
  if (inference_only) return packed_model_;
  if (!ops::PackedWeight::supports(weights.embedding)) return nullptr;
  const std::lock_guard lock(mutex_);
  std::int64_t stamp = *version;
  for (const NamedTensors* list : {&parameters, &lora_parameters}) {
    for (const auto& [name, tensor] : *list) stamp += tensor._version();
  }
  if (packed_model_ != nullptr && stamp == packed_stamp_) return packed_model_;
  packed_model_.reset();  // before the new one is made: there is room for one
  packed_model_ = std::make_shared<PackedModel>(detail::pack(weights, packed_format));
  packed_stamp_ = stamp;
  return packed_model_;
}

void CausalLM::Impl::drop_packed() {
  if (inference_only) return;
  const std::lock_guard lock(mutex_);
  packed_model_.reset();
}

bool CausalLM::Impl::differentiable(const at::Tensor& hidden) const {
  return !inference_only && at::GradMode::is_enabled() && (hidden.requires_grad() || weights.output.requires_grad());
}

at::Tensor CausalLM::Impl::embed(const at::Tensor& ids, const PackedModel* packed) const {
  const bool is_packed = packed != nullptr && packed->embedding.defined();
  at::Tensor h = is_packed ? packed->embedding.rows(ids) : at::embedding(weights.embedding, ids);
  // The scale is rounded to the model's dtype first, as the reference does.
  if (config.embedding_scale != 1.0) h = h * at::scalar_tensor(config.embedding_scale, h.options());
  return h;
}

ops::AttentionOptions CausalLM::Impl::attention_options(std::size_t layer) const {
  return {
      .scale = config.attention_scale, .softcap = config.attn_logit_softcapping, .window = config.layer_windows[layer]};
}

at::Tensor CausalLM::Impl::final_norm(const at::Tensor& h) const {
  return ops::rms_norm(h, weights.final_norm, {.eps = config.rms_norm_eps, .zero_centered = config.zero_centered_norm});
}

// What tensors hold is looked at on the CPU only, where packs and plans are made.
void CausalLM::Impl::check_ids(const at::Tensor& ids, std::int64_t expected, const char* of) const {
  if (ids.dim() != 1 || ids.scalar_type() != at::kLong || ids.size(0) != expected) {
    throw InputError(fmt::format("CausalLM::hidden: ids [{}] {} for {} {}, expected as many int64",
                                 fmt::join(ids.sizes(), ", "), at::toString(ids.scalar_type()), expected, of));
  }
  if (!ids.device().is_cpu()) return;
  const at::Tensor row = ids.contiguous();
  const std::int64_t* id = row.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < expected; ++i) {
    if (id[i] < 0 || id[i] >= config.vocab_size) {
      throw InputError(
          fmt::format("CausalLM::hidden: token id {} at place {}, expected 0 to {}", id[i], i, config.vocab_size - 1));
    }
  }
}

void CausalLM::Impl::check_context(std::int64_t longest) const {
  if (longest > config.context_length()) {
    throw InputError(fmt::format("CausalLM::hidden: a sequence of {} tokens, expected at most {}, the model's context",
                                 longest, config.context_length()));
  }
}

at::Tensor CausalLM::Impl::run(const PackedTokens& tokens, const std::function<void(const at::Tensor&)>& observe) {
  check_ids(tokens.ids, tokens.positions.numel(), "positions");
  const at::Tensor ids = tokens.ids.to(device()), positions = tokens.positions.to(device());
  std::int64_t longest = 0;
  if (tokens.tokens() > 0) {
    const auto [least, most] = at::aminmax(tokens.positions);
    if (least.item<std::int64_t>() < 0) throw InputError("CausalLM::hidden: a negative position, expected 0 or more");
    longest = most.item<std::int64_t>() + 1;
  }
  check_context(longest);
  const RotaryTables rope = rotary_tables(longest);
  const bool training = at::GradMode::is_enabled() && !inference_only;
  std::shared_ptr<const detail::Dropout> dropout;
  if (tokens.dropout && lora && lora->options.lora_dropout > 0.0) {
    dropout = std::make_shared<const detail::Dropout>(detail::dropout_streams(tokens));
  }
  const std::shared_ptr<const PackedModel> held = training || dropout ? nullptr : packed();

  at::Tensor h = embed(ids, held.get());
  if (observe) observe(h);
  for (std::size_t i = 0; i < weights.layers.size(); ++i) {
    const PackedLayer* packed_layer = held == nullptr ? nullptr : &held->layers[i];
    const auto layer = [this, i, packed_layer, positions, rope, dropout, starts = tokens.starts,
                        parents = tokens.parents](const at::Tensor& input) {
      const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        const auto turned = [&](const at::Tensor& x) {
          return detail::rotated(config, x, positions, rotary_of(rope, i));
        };
        return ops::packed_attention(turned(q), turned(k), v, starts, attention_options(i), parents);
      };
      return detail::decoder_layer(config, weights.layers[i], packed_layer, {input}, attend, dropout.get()).h;
    };
    h = training && activation_checkpointing ? detail::recomputed(layer, h, weights.layers[i].all()) : layer(h);
    if (observe) observe(h);
  }
  return h;
}

CausalLM::CausalLM(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

const ModelConfig& CausalLM::config() const { return impl_->config; }
at::Device CausalLM::device() const { return impl_->device(); }
at::ScalarType CausalLM::dtype() const { return impl_->weights.final_norm.scalar_type(); }
bool CausalLM::inference_only() const { return impl_->inference_only; }
const at::Tensor& CausalLM::output_weight() const {
  impl_->need_weights("output_weight");
  return impl_->weights.output;
}
const NamedTensors& CausalLM::parameters() const {
  impl_->need_weights("parameters");
  return impl_->parameters;
}
void CausalLM::set_activation_checkpointing(bool enabled) { impl_->activation_checkpointing = enabled; }
void CausalLM::weights_changed() const {
  impl_->drop_packed();
  ++*impl_->version;
}
std::int64_t CausalLM::weights_version() const { return *impl_->version; }

CausalLM CausalLM::with_int8_inference() const {
  if (impl_->packed_format == ops::WeightFormat::kInt8) return *this;
  if (impl_->inference_only) {
    throw InputError(
        "int8 inference: the model is for inference in float32 only, expected one that was loaded with "
        "LoadOptions::purpose kInt8Inference or kAll");
  }
  if (!ops::PackedWeight::supports(impl_->weights.embedding)) throw_no_int8(device(), dtype());
  auto impl = std::make_shared<Impl>();
  impl->config = impl_->config;
  impl->base_json = impl_->base_json;
  impl->weights = impl_->weights;
  impl->parameters = impl_->parameters;
  impl->lora = impl_->lora;
  impl->lora_parameters = impl_->lora_parameters;
  impl->base = impl_->base;
  impl->version = impl_->version;
  impl->packed_format = ops::WeightFormat::kInt8;
  return CausalLM(std::move(impl));
}

void CausalLM::set_requires_grad(bool requires_grad) const {
  impl_->need_weights("set_requires_grad");
  if (requires_grad) {
    impl_->drop_packed();
    if (impl_->base) impl_->base->drop_packed();
  }
  for (const auto& [name, tensor] : trainable_parameters()) tensor.set_requires_grad(requires_grad);
}

at::Tensor CausalLM::hidden(const PackedTokens& tokens) const {
  const bool in_parts = tokens.tokens() > kInferenceTokens && impl_->device().is_cpu() && !tokens.dropout &&
                        (impl_->inference_only || !at::GradMode::is_enabled()) && impl_->packed() != nullptr;
  if (!in_parts) return impl_->final_norm(impl_->run(tokens, {}));
  // A token costs the same in a pack of any size: larger matrices than these are given to and taken back from the
  // system at every step of a layer.
  impl_->check_ids(tokens.ids, tokens.positions.numel(), "positions");
  at::Tensor all = at::empty({tokens.tokens(), config().hidden_size}, impl_->weights.final_norm.options());
  std::int64_t begin = 0;
  for (const PackedTokens& part : detail::parts_of(tokens, kInferenceTokens)) {
    all.narrow(0, begin, part.tokens()).copy_(impl_->final_norm(impl_->run(part, {})));
    begin += part.tokens();
  }
  return all;
}

std::vector<at::Tensor> CausalLM::hidden_states(const PackedTokens& tokens) const {
  std::vector<at::Tensor> states;
  impl_->run(tokens, [&](const at::Tensor& h) { states.push_back(h); });
  return states;
}

at::Tensor CausalLM::hidden(const at::Tensor& ids, KvCache& cache, const KvStep& given) const {
  const at::NoGradGuard no_grad;
  Impl& impl = *impl_;
  impl.check_ids(ids, given.slots.size(0), "slots");
  impl.check_context(given.longest);
  const RotaryTables rope = impl.rotary_tables(given.longest);
  const std::shared_ptr<const PackedModel> packed = impl.packed();
  const KvStep step = given.on(impl.device());
  // Of several tokens a sequence a GPU's kernel is planned from what the host knows of them.
  const KvStep& sequences = given.slots.size(0) > given.lengths.size(0) ? given : step;

  const auto& layers = impl.weights.layers;
  detail::Residual residual{impl.embed(ids.to(impl.device()), packed.get())};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    at::Tensor& keys = cache.keys(static_cast<std::int64_t>(i));
    at::Tensor& values = cache.values(static_cast<std::int64_t>(i));
    const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      const detail::RotaryTable& table = impl.rotary_of(rope, i);
      at::Tensor turned;
      if (impl.config.rotary_dim() == impl.config.head_dim) {
        turned = ops::rotary_append(q, k, v, step.positions, table.cosines, table.sines, step.slots, keys, values);
      } else {
        ops::append_to_cache(detail::rotated(impl.config, k, step.positions, table), v, step.slots, keys, values);
        turned = detail::rotated(impl.config, q, step.positions, table);
      }
      return ops::paged_attention(turned, keys, values, sequences.starts, sequences.lengths, sequences.block_tables,
                                  impl.attention_options(i));
    };
    residual = detail::decoder_layer(impl.config, layers[i], packed == nullptr ? nullptr : &packed->layers[i], residual,
                                     attend, /*dropout=*/nullptr,
                                     i + 1 < layers.size() ? layers[i + 1].input_norm : impl.weights.final_norm);
  }
  return residual.normed;
}

at::Tensor CausalLM::logits(const at::Tensor& hidden) const {
  const double cap = impl_->config.final_logit_softcapping;
  const std::shared_ptr<const PackedModel> packed = impl_->differentiable(hidden) ? nullptr : impl_->packed();
  if (packed == nullptr) {
    const at::Tensor logits = at::linear(hidden, output_weight());
    if (!impl_->differentiable(hidden)) return ops::softcapped(logits, cap);
    const at::Tensor capped = cap > 0.0 ? at::tanh(logits / cap) * cap : logits;
    return capped.scalar_type() == at::kDouble ? capped : capped.to(at::kFloat);
  }
  at::Tensor logits = packed->output.multiply(hidden);
  if (cap > 0.0) ops::softcap_(logits, cap);
  return logits;
}

at::Tensor CausalLM::log_probs(const at::Tensor& hidden, const at::Tensor& targets, std::int64_t chunk_tokens,
                               ops::TokenStatistics* statistics) const {
  const std::shared_ptr<const PackedModel> packed = impl_->differentiable(hidden) ? nullptr : impl_->packed();
  const ops::LogProbsOptions options{.logit_softcap = impl_->config.final_logit_softcapping,
                                     .chunk_tokens = chunk_tokens};
  const at::Tensor ids = targets.to(device());
  if (packed != nullptr) return ops::log_probs(hidden, packed->output, ids, options, statistics);
  return ops::log_probs(hidden, output_weight(), ids, options, statistics);
}

}  // namespace sao
