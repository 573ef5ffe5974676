// SPDX-License-Identifier: Apache-2.0
// Models with adapters: made, taken apart and merged.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/causal_lm_impl.h"
#include "sao/base/error.h"

namespace sao {
namespace {

// Where the adapters of a model are: every linear of its layers.
template <class Use>
void for_each_linear(detail::Weights& weights, const Use& use) {
  for (detail::LayerWeights& layer : weights.layers) {
    for (detail::Projection* projection : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      for (detail::Linear& linear : *projection) use(linear);
    }
  }
}

double merge_tolerance(at::ScalarType type) {
  return type == at::kDouble  ? kMergeTolerance.float64
         : type == at::kFloat ? kMergeTolerance.float32
                              : kMergeTolerance.half;
}

// Random tokens as sequences of different lengths.
PackedTokens probe(const ModelConfig& config) {
  const Seed seed = Seed{1}.fork("merge probe");
  std::vector<TokenIds> sequences;
  std::uint64_t drawn = 0;
  for (const std::int64_t wanted : {1, 7, 16, 40}) {
    TokenIds ids(static_cast<std::size_t>(std::min(wanted, config.max_position_embeddings)));
    for (TokenId& id : ids) {
      id = static_cast<TokenId>(uniform_below(seed, drawn++, static_cast<std::uint64_t>(config.vocab_size)));
    }
    sequences.push_back(std::move(ids));
  }
  return pack(sequences);
}

// Before a soft cap. Throws InputError where one is not finite. With gradients on and without CausalLM::logits, which
// would merge adapters and pack all weights.
at::Tensor probe_logits(const CausalLM& model, const PackedTokens& tokens) {
  const at::AutoGradMode unmerged(true);
  const at::Tensor logits = at::linear(model.hidden(tokens), model.output_weight()).detach().to(at::kDouble);
  if (!at::isfinite(logits).all().item<bool>()) {
    throw InputError(fmt::format(
        "merged: the logits of the {} are not finite, expected numbers; weights or adapters hold such values, or the "
        "dtype {} is too narrow for them",
        model.lora() != nullptr ? "model with adapters" : "merged model", at::toString(model.dtype())));
  }
  return logits;
}

// Throws InputError unless both models say the same.
void check_merged(const CausalLM& adapted, const CausalLM& merged, const PackedTokens& tokens) {
  const at::Tensor expected = probe_logits(adapted, tokens), found = probe_logits(merged, tokens);
  const double largest = expected.abs().max().item<double>(),
               difference = (found - expected).abs().max().item<double>();
  const double allowed =
      std::max(1.0, largest) * std::max(merge_tolerance(adapted.dtype()), merge_tolerance(merged.dtype()));
  if (difference > allowed) {
    throw InputError(
        fmt::format("merged: logits of the merged model differ by {:.3g} from those with adapters, expected at most "
                    "{:.3g}; merge in a wider dtype",
                    difference, allowed));
  }
}

}  // namespace

CausalLM CausalLM::with_lora(LoraAdapter adapter) const {
  impl_->need_weights("with_lora");
  if (impl_->lora) throw InputError("CausalLM::with_lora: the model has adapters already, expected one without");
  auto impl = std::make_shared<Impl>();
  impl->config = impl_->config;
  impl->base_json = impl_->base_json;
  impl->weights = impl_->weights;
  impl->activation_checkpointing = impl_->activation_checkpointing;
  impl->version = std::make_shared<std::int64_t>(*impl_->version);
  impl->base = impl_;
  const at::ScalarType type = dtype() == at::kDouble ? at::kDouble : at::kFloat;
  std::vector<LoraModule*> missing;
  for (LoraModule& module : adapter.modules) missing.push_back(&module);
  for_each_linear(impl->weights, [&](detail::Linear& linear) {
    const auto found = std::find_if(missing.begin(), missing.end(),
                                    [&](const LoraModule* module) { return module->name == linear.name; });
    if (found == missing.end()) return;
    LoraModule& module = **found;
    missing.erase(found);
    const at::Tensor &a = module.a, &b = module.b, &w = linear.weight;
    if (a.dim() != 2 || b.dim() != 2 || a.size(1) != w.size(1) || b.size(0) != w.size(0) || a.size(0) != b.size(1)) {
      throw InputError(
          fmt::format("CausalLM::with_lora: module \"{}\" has A [{}] and B [{}], expected [r, {}] and [{}, r]",
                      module.name, fmt::join(a.sizes(), ", "), fmt::join(b.sizes(), ", "), w.size(1), w.size(0)));
    }
    module.a = a.detach().to(device(), type);
    module.b = b.detach().to(device(), type);
    linear.adapter = detail::Adapter{module.a, module.b, module.scaling, adapter.options.lora_dropout};
  });
  if (!missing.empty()) {
    throw InputError(fmt::format(
        "CausalLM::with_lora: module \"{}\", expected linears of the model's layers, each once", missing[0]->name));
  }
  set_requires_grad(false);
  impl->finish();
  impl->lora_parameters = adapter.parameters();
  impl->lora = std::move(adapter);
  return CausalLM(std::move(impl));
}

CausalLM CausalLM::with_lora(const LoraOptions& options, Seed seed) const {
  return with_lora(LoraAdapter::random(config(), options, seed));
}

const LoraAdapter* CausalLM::lora() const { return impl_->lora ? &*impl_->lora : nullptr; }
CausalLM CausalLM::base() const { return impl_->base ? CausalLM(impl_->base) : *this; }
const NamedTensors& CausalLM::trainable_parameters() const {
  impl_->need_weights("trainable_parameters");
  return impl_->lora ? impl_->lora_parameters : impl_->parameters;
}

CausalLM CausalLM::merged() const {
  for (const DType candidate : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (detail::scalar_type(candidate) == dtype()) return merged(candidate);
  }
  return merged(DType::kFloat64);
}

CausalLM CausalLM::merged(DType dtype) const {
  impl_->need_weights("merged");
  const at::NoGradGuard no_grad;
  const at::ScalarType final_type = detail::scalar_type(dtype);
  // What rounding to a narrower dtype does to a model would hide what merging does: it comes after the check.
  const bool narrows = merge_tolerance(final_type) > merge_tolerance(this->dtype());
  const at::ScalarType type = narrows ? this->dtype() : final_type;
  auto impl = std::make_shared<Impl>();
  impl->config = impl_->config;
  impl->base_json = impl_->base_json;
  impl->weights = impl_->weights;
  for_each_linear(impl->weights, [&](detail::Linear& linear) {
    if (!linear.adapter) return;
    linear.weight = linear.weight.to(linear.adapter->a.scalar_type());  // for one rounding, to `type`
    linear.weight = detail::merged_weight(linear).to(type);
    linear.adapter.reset();
  });
  const std::vector<detail::Slot> slots = detail::slots(impl->config, impl->weights);
  for (std::size_t i = 0; i < slots.size(); ++i) {  // the others become copies
    at::Tensor& tensor = *slots[i].tensor;
    if (tensor.is_same(impl_->parameters[i].second)) tensor = tensor.to(type, /*non_blocking=*/false, /*copy=*/true);
  }
  impl->finish();
  const CausalLM merged(impl);
  const PackedTokens tokens = probe(config());
  if (impl_->lora) check_merged(*this, merged, tokens);
  if (!narrows) return merged;

  auto narrow = std::make_shared<Impl>();
  narrow->config = impl->config;
  narrow->base_json = impl->base_json;
  narrow->weights = std::move(impl->weights);
  impl->parameters.clear();  // so that of every tensor one of the two forms exists
  for (const detail::Slot& slot : detail::slots(narrow->config, narrow->weights)) {
    *slot.tensor = slot.tensor->to(final_type);
  }
  narrow->finish();
  CausalLM rounded(std::move(narrow));
  probe_logits(rounded, tokens);
  return rounded;
}

}  // namespace sao
