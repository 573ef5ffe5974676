// SPDX-License-Identifier: Apache-2.0
#include "sao/model/causal_lm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <functional>
#include <mutex>
#include <numbers>
#include <set>
#include <system_error>

#include "io/paths.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/io/hf_folder.h"
#include "sao/ops/attention.h"
#include "sao/ops/cuda.h"
#include "sao/ops/linear.h"
#include "sao/ops/log_probs.h"
#include "sao/ops/pointwise.h"

namespace sao {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LayerWeights {
  at::Tensor input_norm;           // [H]
  at::Tensor q, k, v, o;           // [heads * D, H], [kv_heads * D, H] twice, [H, heads * D]
  at::Tensor post_attention_norm;  // [H]; before the MLP for Llama, after attention for Gemma-2
  at::Tensor pre_mlp_norm;         // [H]; Gemma-2 only
  at::Tensor post_mlp_norm;        // [H]; Gemma-2 only
  at::Tensor gate, up, down;       // [I, H] twice, [H, I]

  std::vector<at::Tensor> all() const {
    std::vector<at::Tensor> list;
    for (const at::Tensor& t :
         {input_norm, q, k, v, o, post_attention_norm, pre_mlp_norm, post_mlp_norm, gate, up, down}) {
      if (t.defined()) list.push_back(t);
    }
    return list;
  }
};

// The same matrices packed for the CPU's inference kernel; those with the same input as one.
struct PackedLayer {
  ops::PackedWeight qkv, o, gate_up, down;
};
struct PackedModel {
  std::vector<PackedLayer> layers;
  ops::PackedWeight output;
};

struct Weights {
  at::Tensor embedding;  // [V, H]
  std::vector<LayerWeights> layers;
  at::Tensor final_norm;  // [H]
  at::Tensor output;      // [V, H]; the embedding when tied
};

// Checkpoint name, shape and place of every parameter, in the order in which they are saved.
struct Slot {
  std::string name;
  std::vector<std::int64_t> shape;
  at::Tensor* tensor;
  bool norm;
};

std::vector<Slot> slots(const ModelConfig& c, Weights& w) {
  const std::int64_t H = c.hidden_size, I = c.intermediate_size;
  const std::int64_t q_width = c.num_attention_heads * c.head_dim, kv_width = c.num_key_value_heads * c.head_dim;
  w.layers.resize(static_cast<std::size_t>(c.num_hidden_layers));
  std::vector<Slot> list;
  list.push_back({"model.embed_tokens.weight", {c.vocab_size, H}, &w.embedding, false});
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    LayerWeights& layer = w.layers[i];
    const auto add = [&](const char* name, std::vector<std::int64_t> shape, at::Tensor* tensor, bool norm) {
      list.push_back({fmt::format("model.layers.{}.{}.weight", i, name), std::move(shape), tensor, norm});
    };
    add("input_layernorm", {H}, &layer.input_norm, true);
    add("self_attn.q_proj", {q_width, H}, &layer.q, false);
    add("self_attn.k_proj", {kv_width, H}, &layer.k, false);
    add("self_attn.v_proj", {kv_width, H}, &layer.v, false);
    add("self_attn.o_proj", {H, q_width}, &layer.o, false);
    add("post_attention_layernorm", {H}, &layer.post_attention_norm, true);
    if (c.post_norms) {
      add("pre_feedforward_layernorm", {H}, &layer.pre_mlp_norm, true);
      add("post_feedforward_layernorm", {H}, &layer.post_mlp_norm, true);
    }
    add("mlp.gate_proj", {I, H}, &layer.gate, false);
    add("mlp.up_proj", {I, H}, &layer.up, false);
    add("mlp.down_proj", {H, I}, &layer.down, false);
  }
  list.push_back({"model.norm.weight", {H}, &w.final_norm, true});
  if (!c.tie_word_embeddings) list.push_back({"lm_head.weight", {c.vocab_size, H}, &w.output, false});
  return list;
}

at::ScalarType scalar_type(DType dtype) {
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

// Inverse frequencies in float32 arithmetic, as transformers' modeling_rope_utils computes them.
at::Tensor inverse_frequencies(const ModelConfig& c) {
  const at::Tensor exponents = at::arange(0, c.head_dim, 2, at::kLong).to(at::kFloat) / c.head_dim;
  at::Tensor inverse = 1.0 / at::pow(at::Scalar(c.rope_theta), exponents);
  const RopeScaling& s = c.rope_scaling;
  if (s.rope_type == "linear") return inverse / s.factor;
  if (s.rope_type == "llama3") {
    const double context = static_cast<double>(s.original_max_position_embeddings);
    const at::Tensor wavelength = 2.0 * std::numbers::pi / inverse;
    const at::Tensor smooth = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    const at::Tensor smoothed = (1.0 - smooth) * inverse / s.factor + smooth * inverse;
    const at::Tensor low = wavelength > context / s.low_freq_factor;
    const at::Tensor high = wavelength < context / s.high_freq_factor;
    return at::where(low, inverse / s.factor, at::where(high, inverse, smoothed));
  }
  return inverse;
}

struct RotaryTable {
  at::Tensor cosines, sines;  // [positions, D / 2] float32
};

using Attend = std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

// Several matrices applied to the same input: one packed product where there is one, else one product each.
std::vector<at::Tensor> project(const at::Tensor& x, const ops::PackedWeight* packed,
                                std::initializer_list<at::Tensor> weights) {
  std::vector<at::Tensor> outputs;
  if (packed == nullptr) {
    for (const at::Tensor& weight : weights) outputs.push_back(at::linear(x, weight));
    return outputs;
  }
  const at::Tensor joined = packed->multiply(x);
  std::int64_t begin = 0;
  for (const at::Tensor& weight : weights) {
    outputs.push_back(joined.narrow(1, begin, weight.size(0)));
    begin += weight.size(0);
  }
  return outputs;
}

// One decoder layer. h [T, H] -> [T, H].
at::Tensor decoder_layer(const ModelConfig& c, const LayerWeights& w, const PackedLayer* packed, const at::Tensor& h,
                         const at::Tensor& positions, const RotaryTable& rope, const Attend& attend) {
  const ops::RmsNormOptions norm{.eps = c.rms_norm_eps, .zero_centered = c.zero_centered_norm};
  const std::int64_t T = h.size(0);

  at::Tensor x = ops::rms_norm(h, w.input_norm, norm);  // [T, H]
  const std::vector<at::Tensor> qkv = project(x, packed ? &packed->qkv : nullptr, {w.q, w.k, w.v});
  const at::Tensor q =
      ops::rotary(qkv[0].view({T, c.num_attention_heads, c.head_dim}), positions, rope.cosines, rope.sines);
  const at::Tensor k =
      ops::rotary(qkv[1].view({T, c.num_key_value_heads, c.head_dim}), positions, rope.cosines, rope.sines);
  const at::Tensor v = qkv[2].view({T, c.num_key_value_heads, c.head_dim});
  at::Tensor attended = project(attend(q, k, v), packed ? &packed->o : nullptr, {w.o})[0];  // [T, H]
  if (c.post_norms) attended = ops::rms_norm(attended, w.post_attention_norm, norm);
  const at::Tensor middle = h + attended;

  x = ops::rms_norm(middle, c.post_norms ? w.pre_mlp_norm : w.post_attention_norm, norm);
  const std::vector<at::Tensor> gate_up = project(x, packed ? &packed->gate_up : nullptr, {w.gate, w.up});
  const ops::Gate kind = c.hidden_act == "silu" ? ops::Gate::kSilu : ops::Gate::kGeluTanh;
  at::Tensor mlp =
      project(ops::gated_activation(gate_up[0], gate_up[1], kind), packed ? &packed->down : nullptr, {w.down})[0];
  if (c.post_norms) mlp = ops::rms_norm(mlp, w.post_mlp_norm, norm);
  return middle + mlp;
}

// Keeps a layer's input only and computes the layer again in backward. The weights are inputs, so that they get their
// gradients even when the layer's input needs none.
struct Recompute : torch::autograd::Function<Recompute> {
  using LayerFunction = std::function<at::Tensor(const at::Tensor& h)>;
  struct Holder : torch::CustomClassHolder {
    explicit Holder(LayerFunction function) : layer(std::move(function)) {}
    LayerFunction layer;
  };

  static at::Tensor forward(AutogradContext* context, const at::Tensor& h, at::TensorList weights,
                            c10::intrusive_ptr<Holder> holder) {
    variable_list saved{h};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["layer"] = c10::IValue::make_capsule(holder);
    const at::NoGradGuard no_grad;
    return holder->layer(h);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const auto capsule = context->saved_data["layer"].toCapsule();
    const auto& layer = static_cast<Holder*>(capsule.get())->layer;
    const at::Tensor h = saved[0].detach().requires_grad_(true);
    at::Tensor out;
    {
      const at::AutoGradMode with_grad(true);
      out = layer(h);
    }
    variable_list inputs{h};
    for (std::size_t i = 1; i < saved.size(); ++i) inputs.push_back(saved[i]);
    variable_list wanted;
    for (const at::Tensor& t : inputs) {
      if (t.requires_grad()) wanted.push_back(t);
    }
    const variable_list found = torch::autograd::grad({out}, wanted, {grads[0]}, false, false, true);
    variable_list result;
    std::size_t next = 0;
    for (const at::Tensor& t : inputs) result.push_back(t.requires_grad() ? found[next++] : at::Tensor());
    result.emplace_back();  // the holder
    return result;
  }
};

}  // namespace

struct CausalLM::Impl {
  ModelConfig config;
  std::string base_json;  // config.json as read; empty for a new model
  Weights weights;
  NamedTensors parameters;
  bool activation_checkpointing = false;
  std::int64_t version = 0;

  std::mutex mutex;  // guards what is made on demand below
  RotaryTable rope;
  std::int64_t rope_positions = 0;
  std::shared_ptr<const PackedModel> packed_model;  // held by every pass that uses it
  std::int64_t packed_stamp = -1;

  at::Tensor frequencies;  // [D / 2]

  void finish() {
    if (config.tie_word_embeddings) weights.output = weights.embedding;
    for (const Slot& slot : slots(config, weights)) parameters.emplace_back(slot.name, *slot.tensor);
    frequencies = inverse_frequencies(config).to(weights.embedding.device());
  }

  at::Device device() const { return weights.embedding.device(); }

  // Cosines and sines of positions 0 .. positions-1 at least.
  RotaryTable rotary_table(std::int64_t positions) {
    const std::lock_guard lock(mutex);
    if (positions > rope_positions) {
      rope_positions =
          std::max(positions, std::min(config.max_position_embeddings, std::max<std::int64_t>(2 * positions, 512)));
      const at::NoGradGuard no_grad;
      const at::Tensor index = at::arange(rope_positions, frequencies.options());
      const at::Tensor angles = index.unsqueeze(1) * frequencies.unsqueeze(0);
      rope = {at::cos(angles), at::sin(angles)};
    }
    return rope;
  }

  // The packed weights for inference, made anew when weights changed; null where the kernel does not apply.
  std::shared_ptr<const PackedModel> packed() {
    if (!ops::PackedWeight::supports(weights.embedding)) return nullptr;
    const std::lock_guard lock(mutex);
    std::int64_t stamp = version;
    for (const auto& [name, tensor] : parameters) stamp += tensor._version();
    if (packed_model != nullptr && stamp == packed_stamp) return packed_model;
    packed_model.reset();  // before the new one is made: there is room for one
    auto made = std::make_shared<PackedModel>();
    for (const LayerWeights& w : weights.layers) {
      made->layers.push_back({.qkv = ops::PackedWeight::pack(std::vector{w.q, w.k, w.v}),
                              .o = ops::PackedWeight::pack(std::vector{w.o}),
                              .gate_up = ops::PackedWeight::pack(std::vector{w.gate, w.up}),
                              .down = ops::PackedWeight::pack(std::vector{w.down})});
    }
    made->output = ops::PackedWeight::pack(std::vector{weights.output});
    packed_stamp = stamp;
    packed_model = std::move(made);
    return packed_model;
  }

  void drop_packed() {
    const std::lock_guard lock(mutex);
    packed_model.reset();
  }

  bool differentiable(const at::Tensor& hidden) const {
    return at::GradMode::is_enabled() && (hidden.requires_grad() || weights.output.requires_grad());
  }

  at::Tensor embed(const at::Tensor& ids) const {
    at::Tensor h = at::embedding(weights.embedding, ids);
    // The scale is rounded to the model's dtype first, as the reference does.
    if (config.embedding_scale != 1.0) h = h * at::scalar_tensor(config.embedding_scale, h.options());
    return h;
  }

  ops::AttentionOptions attention_options(std::size_t layer) const {
    return {.scale = config.attention_scale,
            .softcap = config.attn_logit_softcapping,
            .window = config.layer_windows[layer]};
  }

  at::Tensor final_norm(const at::Tensor& h) const {
    return ops::rms_norm(h, weights.final_norm,
                         {.eps = config.rms_norm_eps, .zero_centered = config.zero_centered_norm});
  }

  // What tensors hold is looked at on the CPU only, where packs and plans are made.
  void check_ids(const at::Tensor& ids, std::int64_t expected, const char* of) const {
    if (ids.dim() != 1 || ids.scalar_type() != at::kLong || ids.size(0) != expected) {
      throw InputError(fmt::format("CausalLM::hidden: ids [{}] {} for {} {}, expected as many int64",
                                   fmt::join(ids.sizes(), ", "), at::toString(ids.scalar_type()), expected, of));
    }
    if (!ids.device().is_cpu()) return;
    const at::Tensor row = ids.contiguous();
    const std::int64_t* id = row.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < expected; ++i) {
      if (id[i] < 0 || id[i] >= config.vocab_size) {
        throw InputError(fmt::format("CausalLM::hidden: token id {} at place {}, expected 0 to {}", id[i], i,
                                     config.vocab_size - 1));
      }
    }
  }

  void check_context(std::int64_t longest) const {
    if (longest > config.max_position_embeddings) {
      throw InputError(
          fmt::format("CausalLM::hidden: a sequence of {} tokens, expected at most {}, the model's context", longest,
                      config.max_position_embeddings));
    }
  }

  // Runs all layers over a pack; `observe` sees the embeddings and every layer's output.
  at::Tensor run(const PackedTokens& tokens, const std::function<void(const at::Tensor&)>& observe) {
    check_ids(tokens.ids, tokens.positions.numel(), "positions");
    const at::Tensor ids = tokens.ids.to(device()), positions = tokens.positions.to(device());
    std::int64_t longest = 0;
    if (tokens.tokens() > 0) {
      const auto [least, most] = at::aminmax(tokens.positions);
      if (least.item<std::int64_t>() < 0) throw InputError("CausalLM::hidden: a negative position, expected 0 or more");
      longest = most.item<std::int64_t>() + 1;
    }
    check_context(longest);
    const RotaryTable rope_table = rotary_table(longest);
    const bool training = at::GradMode::is_enabled();
    const std::shared_ptr<const PackedModel> held = training ? nullptr : packed();

    at::Tensor h = embed(ids);
    if (observe) observe(h);
    for (std::size_t i = 0; i < weights.layers.size(); ++i) {
      const PackedLayer* packed_layer = held == nullptr ? nullptr : &held->layers[i];
      const auto layer = [this, i, packed_layer, positions, rope_table, starts = tokens.starts,
                          parents = tokens.parents](const at::Tensor& input) {
        const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
          return ops::packed_attention(q, k, v, starts, attention_options(i), parents);
        };
        return decoder_layer(config, weights.layers[i], packed_layer, input, positions, rope_table, attend);
      };
      if (training && activation_checkpointing) {
        const std::vector<at::Tensor> all = weights.layers[i].all();
        h = Recompute::apply(h, at::TensorList(all), c10::make_intrusive<Recompute::Holder>(layer));
      } else {
        h = layer(h);
      }
      if (observe) observe(h);
    }
    return h;
  }
};

CausalLM::CausalLM(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

CausalLM CausalLM::load(const std::filesystem::path& folder, const LoadOptions& options) {
  auto impl = std::make_shared<Impl>();
  impl->config = ModelConfig::read(folder);
  impl->base_json = read_file(folder / "config.json", 16 << 20);
  const at::Device device = device_of(options.device);
  const at::ScalarType dtype = scalar_type(options.dtype);
  const CheckpointReader reader = CheckpointReader::open(folder);

  std::vector<std::string> problems;
  std::set<std::string> known{"lm_head.weight"};  // a tied head may be stored too
  for (const Slot& slot : slots(impl->config, impl->weights)) {
    known.insert(slot.name);
    if (!reader.contains(slot.name)) {
      problems.push_back(
          fmt::format("tensor \"{}\" is missing, expected shape [{}]", slot.name, fmt::join(slot.shape, ", ")));
      continue;
    }
    const TensorInfo& info = reader.info(slot.name);
    const std::string file = reader.file_of(slot.name).filename().string();
    if (info.shape != slot.shape) {
      problems.push_back(fmt::format("{}: tensor \"{}\" is [{}], expected [{}]", file, slot.name,
                                     fmt::join(info.shape, ", "), fmt::join(slot.shape, ", ")));
      continue;
    }
    if (info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F16" && info.dtype != "F64") {
      problems.push_back(
          fmt::format("{}: tensor \"{}\" has dtype {}, expected F32, BF16, F16 or F64", file, slot.name, info.dtype));
      continue;
    }
    *slot.tensor = at::empty(slot.shape, at::TensorOptions(dtype).device(device));
    slot.tensor->copy_(reader.tensor(slot.name));
  }
  for (const std::string& name : reader.names()) {
    if (!known.contains(name) && !name.ends_with("rotary_emb.inv_freq")) {
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
  impl->finish();
  return CausalLM(std::move(impl));
}

CausalLM CausalLM::random(const ModelConfig& config, Seed seed, const LoadOptions& options, double initializer_range) {
  validate(config);
  auto impl = std::make_shared<Impl>();
  impl->config = config;
  const at::Device device = device_of(options.device);
  const at::ScalarType dtype = scalar_type(options.dtype);
  for (const Slot& slot : slots(config, impl->weights)) {
    at::Tensor values = at::zeros(slot.shape, at::kFloat);
    if (slot.norm) {
      if (!config.zero_centered_norm) values.fill_(1.0);
    } else {
      const Seed stream = seed.fork(slot.name);
      float* data = values.mutable_data_ptr<float>();
      at::parallel_for(0, values.numel(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          data[i] = static_cast<float>(initializer_range * normal(stream, static_cast<std::uint64_t>(i)));
        }
      });
    }
    *slot.tensor = values.to(at::TensorOptions(dtype).device(device));
  }
  impl->finish();
  return CausalLM(std::move(impl));
}

const ModelConfig& CausalLM::config() const { return impl_->config; }
at::Device CausalLM::device() const { return impl_->device(); }
at::ScalarType CausalLM::dtype() const { return impl_->weights.embedding.scalar_type(); }
const at::Tensor& CausalLM::output_weight() const { return impl_->weights.output; }
const NamedTensors& CausalLM::parameters() const { return impl_->parameters; }
void CausalLM::set_activation_checkpointing(bool enabled) { impl_->activation_checkpointing = enabled; }
void CausalLM::weights_changed() const {
  impl_->drop_packed();
  ++impl_->version;
}
std::int64_t CausalLM::weights_version() const { return impl_->version; }

void CausalLM::set_requires_grad(bool requires_grad) const {
  if (requires_grad) impl_->drop_packed();
  for (const auto& [name, tensor] : impl_->parameters) tensor.set_requires_grad(requires_grad);
}

at::Tensor CausalLM::hidden(const PackedTokens& tokens) const { return impl_->final_norm(impl_->run(tokens, {})); }

std::vector<at::Tensor> CausalLM::hidden_states(const PackedTokens& tokens) const {
  std::vector<at::Tensor> states;
  impl_->run(tokens, [&](const at::Tensor& h) { states.push_back(h); });
  return states;
}

at::Tensor CausalLM::hidden(const at::Tensor& ids, KvCache& cache, const KvStep& step) const {
  const at::NoGradGuard no_grad;
  Impl& impl = *impl_;
  impl.check_ids(ids, step.slots.size(0), "slots");
  const std::int64_t* lengths = step.lengths.const_data_ptr<std::int64_t>();
  const std::int64_t longest = *std::max_element(lengths, lengths + step.lengths.size(0));
  impl.check_context(longest);
  const RotaryTable rope = impl.rotary_table(longest);
  const std::shared_ptr<const PackedModel> packed = impl.packed();
  const at::Tensor positions = step.positions.to(impl.device());

  at::Tensor h = impl.embed(ids.to(impl.device()));
  for (std::size_t i = 0; i < impl.weights.layers.size(); ++i) {
    at::Tensor& keys = cache.keys(static_cast<std::int64_t>(i));
    at::Tensor& values = cache.values(static_cast<std::int64_t>(i));
    const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      ops::append_to_cache(k, v, step.slots, keys, values);
      return ops::paged_attention(q, keys, values, step.starts, step.lengths, step.block_tables,
                                  impl.attention_options(i));
    };
    h = decoder_layer(impl.config, impl.weights.layers[i], packed == nullptr ? nullptr : &packed->layers[i], h,
                      positions, rope, attend);
  }
  return impl.final_norm(h);
}

at::Tensor CausalLM::logits(const at::Tensor& hidden) const {
  const double cap = impl_->config.final_logit_softcapping;
  const std::shared_ptr<const PackedModel> packed = impl_->differentiable(hidden) ? nullptr : impl_->packed();
  if (packed == nullptr) {
    at::Tensor logits = at::linear(hidden, output_weight());
    if (cap > 0.0) logits = at::tanh(logits / cap) * cap;
    return logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  }
  at::Tensor logits = packed->output.multiply(hidden);
  if (cap > 0.0) ops::softcap_(logits, cap);
  return logits;
}

at::Tensor CausalLM::log_probs(const at::Tensor& hidden, const at::Tensor& targets, std::int64_t chunk_tokens) const {
  const std::shared_ptr<const PackedModel> packed = impl_->differentiable(hidden) ? nullptr : impl_->packed();
  return ops::log_probs(hidden, output_weight(), targets.to(device()),
                        {.logit_softcap = impl_->config.final_logit_softcapping, .chunk_tokens = chunk_tokens},
                        packed == nullptr ? nullptr : &packed->output);
}

CausalLM CausalLM::clone_frozen() const {
  auto copy = std::make_shared<Impl>();
  copy->config = impl_->config;
  copy->base_json = impl_->base_json;
  const std::vector<Slot> to = slots(copy->config, copy->weights);
  SAO_CHECK(to.size() == impl_->parameters.size());
  for (std::size_t i = 0; i < to.size(); ++i) *to[i].tensor = impl_->parameters[i].second.detach().clone();
  copy->finish();
  return CausalLM(std::move(copy));
}

void CausalLM::save(const std::filesystem::path& folder, const std::filesystem::path& tokenizer_from) const {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    if (scalar_type(dtype) == this->dtype()) return save(folder, tokenizer_from, dtype);
  }
}

void CausalLM::save(const std::filesystem::path& folder, const std::filesystem::path& tokenizer_from,
                    DType dtype) const {
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
