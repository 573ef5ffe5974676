// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/pointwise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "ops/checks.h"
#include "ops/cuda_dispatch.h"
#include "ops/kernels.h"
#include "ops/reference.h"
#include "sao/ops/linear.h"

namespace sao::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool on_cpu(const at::Tensor& x) { return x.device().is_cpu() && x.scalar_type() == at::kFloat; }

bool has_kernel(const at::Tensor& x) { return on_cpu(x) || cuda::kernels_for(x) != nullptr; }

bool alike(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device();
}

bool differentiable(std::initializer_list<at::Tensor> inputs) {
  return at::GradMode::is_enabled() && std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& t) {
           return t.defined() && t.requires_grad();
         });
}

// Rows a thread should take at least: about 16k numbers.
std::int64_t grain(std::int64_t width) { return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, width)); }

at::Tensor rms_norm_rows(const at::Tensor& x, const at::Tensor& weight, const RmsNormOptions& options,
                         at::Tensor* inverse_rms) {
  if (const cuda::Table* gpu = cuda::kernels_for(x)) return gpu->rms_norm(x, weight, options, inverse_rms);
  const at::Tensor input = x.contiguous(), scale = weight.contiguous();
  const std::int64_t rows = input.size(0), width = input.size(1);
  at::Tensor y = at::empty({rows, width}, input.options());
  float* inverse = nullptr;
  if (inverse_rms != nullptr) {
    *inverse_rms = at::empty({rows}, input.options());
    inverse = inverse_rms->mutable_data_ptr<float>();
  }
  const float offset = options.zero_centered ? 1.0f : 0.0f;
  const float* from = input.const_data_ptr<float>();
  const float* w = scale.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
    kernels().rms_norm(end - begin, width, from + begin * width, w, offset, static_cast<float>(options.eps),
                       to + begin * width, inverse == nullptr ? nullptr : inverse + begin);
  });
  return y;
}

// A norm's weight for rows of x, or none.
bool is_scale_of(const at::Tensor& x, const at::Tensor& weight) {
  return !weight.defined() || (alike(x, weight) && weight.dim() == 1 && weight.size(0) == x.size(1));
}

std::array<at::Tensor, 2> residual_norm_rows(const at::Tensor& h, const at::Tensor& update,
                                             const at::Tensor& update_weight, const at::Tensor& weight,
                                             const RmsNormOptions& options) {
  const auto contiguous = [](const at::Tensor& t) { return t.defined() ? t.contiguous() : t; };
  const auto data = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; };
  const at::Tensor h_rows = h.contiguous(), update_rows = update.contiguous(), update_scale = contiguous(update_weight),
                   scale = contiguous(weight);
  at::Tensor sum = at::empty_like(h_rows), y = scale.defined() ? at::empty_like(h_rows) : at::Tensor();
  const std::int64_t width = h_rows.size(1);
  const float *from = data(h_rows), *added = data(update_rows);
  float* to = sum.mutable_data_ptr<float>();
  float* normed = y.defined() ? y.mutable_data_ptr<float>() : nullptr;
  at::parallel_for(0, h_rows.size(0), grain(width), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t at = begin * width;
    kernels().residual_norm(end - begin, width, from + at, added + at, data(update_scale), data(scale),
                            options.zero_centered ? 1.0f : 0.0f, static_cast<float>(options.eps), to + at,
                            normed == nullptr ? nullptr : normed + at);
  });
  return {sum, y};
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps,
                            bool zero_centered) {
    at::Tensor inverse_rms;
    at::Tensor y = rms_norm_rows(x, weight, {.eps = eps, .zero_centered = zero_centered}, &inverse_rms);
    context->save_for_backward({x, weight, inverse_rms});
    context->saved_data["zero_centered"] = zero_centered;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const bool zero_centered = context->saved_data["zero_centered"].toBool();
    if (const cuda::Table* gpu = cuda::kernels_for(saved[0])) {
      const auto [dx, dw] = gpu->rms_norm_backward(saved[0], saved[1], saved[2], grads[0], zero_centered);
      return {dx, dw, at::Tensor(), at::Tensor()};
    }
    const at::Tensor x = saved[0].contiguous(), weight = saved[1].contiguous(), y_grad = grads[0].contiguous();
    const std::int64_t rows = x.size(0), width = x.size(1);
    at::Tensor x_grad = at::empty_like(x);
    // A fixed number of partial sums, so that the weight's gradient does not depend on the number of threads.
    constexpr std::int64_t kParts = 16;
    at::Tensor partial = at::zeros({kParts, width}, x.options());
    const std::int64_t rows_a_part = (rows + kParts - 1) / kParts;
    const float offset = zero_centered ? 1.0f : 0.0f;
    const float* xp = x.const_data_ptr<float>();
    const float* wp = weight.const_data_ptr<float>();
    const float* ip = saved[2].const_data_ptr<float>();
    const float* gp = y_grad.const_data_ptr<float>();
    float* xg = x_grad.mutable_data_ptr<float>();
    float* wg = partial.mutable_data_ptr<float>();
    at::parallel_for(0, kParts, rows < 64 ? kParts : 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        const std::int64_t first = std::min(rows, part * rows_a_part), last = std::min(rows, first + rows_a_part);
        kernels().rms_norm_backward(last - first, width, xp + first * width, wp, offset, ip + first, gp + first * width,
                                    xg + first * width, wg + part * width);
      }
    });
    return {x_grad, partial.sum(0), at::Tensor(), at::Tensor()};
  }
};

at::Tensor rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cosines, const at::Tensor& sines,
                  float sign) {
  if (const cuda::Table* gpu = cuda::kernels_for(x)) return gpu->rotary(x, positions, cosines, sines, sign);
  const std::int64_t rows = x.size(0), heads = x.size(1), head_dim = x.size(2);
  const at::Tensor input = x.stride(2) == 1 && x.stride(1) == head_dim ? x : x.contiguous();
  const at::Tensor at_rows = positions.contiguous(), cos_rows = cosines.contiguous(), sin_rows = sines.contiguous();
  at::Tensor y = at::empty({rows, heads, head_dim}, x.options());
  const std::int64_t* position = at_rows.const_data_ptr<std::int64_t>();
  const float* from = input.const_data_ptr<float>();
  const float* c = cos_rows.const_data_ptr<float>();
  const float* s = sin_rows.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  const std::int64_t width = heads * head_dim;
  at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
    kernels().rotary(end - begin, heads, head_dim, from + begin * input.stride(0), input.stride(0), position + begin, c,
                     s, sign, to + begin * width, width);
  });
  return y;
}

struct Rotary : torch::autograd::Function<Rotary> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& positions,
                            const at::Tensor& cosines, const at::Tensor& sines) {
    context->save_for_backward({positions, cosines, sines});
    return rotate(x, positions, cosines, sines, 1.0f);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    return {rotate(grads[0], saved[0], saved[1], saved[2], -1.0f), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

GateKind kernel_kind(Gate kind) { return kind == Gate::kGeluTanh ? GateKind::kGeluTanh : GateKind::kSilu; }

// On the CPU, into y [rows, width] contiguous; gate's and up's rows are as far apart as each other's.
void gate_into(const at::Tensor& y, const at::Tensor& gate, const at::Tensor& up, Gate kind) {
  const std::int64_t rows = gate.size(0), width = gate.size(1), stride = gate.stride(0);
  const float* gp = gate.const_data_ptr<float>();
  const float* upp = up.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
    kernels().gate(kernel_kind(kind), end - begin, width, gp + begin * stride, upp + begin * stride, stride,
                   to + begin * width);
  });
}

bool have_same_layout(const at::Tensor& gate, const at::Tensor& up) {
  return gate.stride(1) == 1 && up.stride(1) == 1 && gate.stride(0) == up.stride(0);
}

at::Tensor gate_rows(const at::Tensor& gate, const at::Tensor& up, Gate kind) {
  if (const cuda::Table* gpu = cuda::kernels_for(gate)) return gpu->gated_activation(gate, up, kind);
  const bool as_they_are = have_same_layout(gate, up);
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  gate_into(y, as_they_are ? gate : gate.contiguous(), as_they_are ? up : up.contiguous(), kind);
  return y;
}

// On the CPU, of contiguous tensors; gate_grad may be y_grad.
void gate_backward_into(const at::Tensor& gate_grad, const at::Tensor& up_grad, const at::Tensor& gate,
                        const at::Tensor& up, const at::Tensor& y_grad, Gate kind) {
  const float* g = gate.const_data_ptr<float>();
  const float* u = up.const_data_ptr<float>();
  const float* dy = y_grad.const_data_ptr<float>();
  float* dg = gate_grad.mutable_data_ptr<float>();
  float* du = up_grad.mutable_data_ptr<float>();
  at::parallel_for(0, gate.numel(), 16384, [&](std::int64_t begin, std::int64_t end) {
    kernels().gate_backward(kernel_kind(kind), end - begin, g + begin, u + begin, dy + begin, dg + begin, du + begin);
  });
}

// {of gate, of up}; the first may lie where y_grad did if `consumes`, on the CPU.
std::array<at::Tensor, 2> gate_rows_backward(const at::Tensor& gate_in, const at::Tensor& up_in,
                                             const at::Tensor& y_grad_in, Gate kind, bool consumes) {
  if (const cuda::Table* gpu = cuda::kernels_for(gate_in)) {
    return gpu->gated_activation_backward(gate_in, up_in, y_grad_in, kind, consumes);
  }
  const at::Tensor gate = gate_in.contiguous(), up = up_in.contiguous(), y_grad = y_grad_in.contiguous();
  at::Tensor gate_grad = consumes ? y_grad : at::empty_like(gate), up_grad = at::empty_like(up);
  gate_backward_into(gate_grad, up_grad, gate, up, y_grad, kind);
  return {gate_grad, up_grad};
}

struct GatedActivation : torch::autograd::Function<GatedActivation> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up, std::int64_t kind) {
    context->save_for_backward({gate, up});
    context->saved_data["kind"] = kind;
    return gate_rows(gate, up, static_cast<Gate>(kind));
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const auto [gate_grad, up_grad] =
        gate_rows_backward(saved[0], saved[1], grads[0], static_cast<Gate>(context->saved_data["kind"].toInt()), false);
    return {gate_grad, up_grad, at::Tensor()};
  }
};

at::Tensor gated_linear_rows(const at::Tensor& gate_in, const at::Tensor& up_in, const at::Tensor& weight,
                             const at::Tensor& bias, Gate kind) {
  const bool as_they_are = have_same_layout(gate_in, up_in);
  const at::Tensor gate = as_they_are ? gate_in : gate_in.contiguous(), up = as_they_are ? up_in : up_in.contiguous();
  const PackedWeight packed = PackedWeight::pack({&weight, 1}, {&bias, 1});
  const std::int64_t n = gate.size(0);
  at::Tensor y = at::empty({n, weight.size(0)}, gate.options());
  at::Tensor products = at::empty({std::min(n, kGatedRows), gate.size(1)}, gate.options());
  for (std::int64_t begin = 0; begin < n; begin += kGatedRows) {
    const std::int64_t rows = std::min(kGatedRows, n - begin);
    const at::Tensor some = products.narrow(0, 0, rows);
    gate_into(some, gate.narrow(0, begin, rows), up.narrow(0, begin, rows), kind);
    packed.multiply_into(y.narrow(0, begin, rows), some);
  }
  return y;
}

// {of gate, of up, of weight}, each undefined where it is not wanted.
std::array<at::Tensor, 3> gated_linear_rows_backward(const at::Tensor& gate, const at::Tensor& up,
                                                     const at::Tensor& weight, const at::Tensor& y_grad, Gate kind,
                                                     bool inputs_wanted, bool weight_wanted) {
  const at::Tensor turned = weight.t();
  const std::int64_t n = gate.size(0);
  std::array<at::Tensor, 3> result;
  auto& [gate_grad, up_grad, weight_grad] = result;
  PackedWeight packed;
  if (inputs_wanted) {
    gate_grad = at::empty(gate.sizes(), gate.options());
    up_grad = at::empty(up.sizes(), up.options());
    packed = PackedWeight::pack({&turned, 1});
  }
  if (weight_wanted) weight_grad = at::empty(weight.sizes(), gate.options());
  at::Tensor products = at::empty({std::min(n, kGatedRows), gate.size(1)}, gate.options());
  for (std::int64_t begin = 0; begin < n; begin += kGatedRows) {
    const std::int64_t rows = std::min(kGatedRows, n - begin);
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, rows); };
    const at::Tensor some = products.narrow(0, 0, rows);
    const at::Tensor gate_part = part(gate).contiguous(), up_part = part(up).contiguous();
    if (weight_wanted) {
      gate_into(some, gate_part, up_part, kind);
      const at::Tensor columns = some.t();
      PackedWeight::pack({&columns, 1}).multiply_into(weight_grad, part(y_grad).t(), begin > 0);
    }
    if (inputs_wanted) {
      packed.multiply_into(some, part(y_grad));
      gate_backward_into(part(gate_grad), part(up_grad), gate_part, up_part, some, kind);
    }
  }
  if (weight_wanted && n == 0) weight_grad.zero_();
  return result;
}

// Keeps gate and up only: their product, which the weight's gradient needs, is cheap to compute again.
struct GatedLinear : torch::autograd::Function<GatedLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias, std::int64_t kind) {
    context->save_for_backward({gate, up, weight});
    context->saved_data["kind"] = kind;
    context->saved_data["has_bias"] = bias.has_value();
    const at::Tensor added = bias ? *bias : at::Tensor();
    if (on_cpu(gate)) return gated_linear_rows(gate, up, weight, added, static_cast<Gate>(kind));
    return linear(gate_rows(gate, up, static_cast<Gate>(kind)), weight, added);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], &weight = saved[2], &y_grad = grads[0];
    const Gate kind = static_cast<Gate>(context->saved_data["kind"].toInt());
    const bool inputs_wanted = context->needs_input_grad(0) || context->needs_input_grad(1);
    const bool weight_wanted = context->needs_input_grad(2);
    variable_list result(5);
    const bool has_bias = context->saved_data["has_bias"].toBool();  // else it is no input
    if (has_bias && context->needs_input_grad(3)) result[3] = y_grad.sum(0);
    if (on_cpu(gate)) {
      auto [gate_grad, up_grad, weight_grad] =
          gated_linear_rows_backward(gate, up, weight, y_grad, kind, inputs_wanted, weight_wanted);
      result[0] = gate_grad;
      result[1] = up_grad;
      result[2] = weight_grad;
      return result;
    }
    if (weight_wanted) result[2] = product(y_grad.t(), gate_rows(gate, up, kind));
    if (inputs_wanted) {
      const auto [gate_grad, up_grad] = gate_rows_backward(gate, up, product(y_grad, weight), kind, true);
      result[0] = gate_grad;
      result[1] = up_grad;
    }
    return result;
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, const RmsNormOptions& options) {
  if (x.dim() != 2 || weight.dim() != 1 || weight.size(0) != x.size(1)) {
    throw InputError(fmt::format("rms_norm: x {}, weight {}, expected [n, H] and [H]", describe(x), describe(weight)));
  }
  if (!has_kernel(x) || !alike(x, weight)) return reference::rms_norm(x, weight, options);
  if (differentiable({x, weight})) return RmsNorm::apply(x, weight, options.eps, options.zero_centered);
  return rms_norm_rows(x, weight, options, nullptr);
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cosines,
                  const at::Tensor& sines) {
  if (x.dim() != 3 || x.size(2) % 2 != 0 || positions.dim() != 1 || positions.size(0) != x.size(0) ||
      positions.scalar_type() != at::kLong || cosines.dim() != 2 || cosines.size(1) != x.size(2) / 2 ||
      !cosines.sizes().equals(sines.sizes()) || cosines.scalar_type() != at::kFloat ||
      sines.scalar_type() != at::kFloat) {
    throw InputError(
        fmt::format("rotary: x {}, positions {}, cosines {}, sines {}, expected [T, heads, D], [T] int64 and twice [P, "
                    "D / 2] float32",
                    describe(x), describe(positions), describe(cosines), describe(sines)));
  }
  check_range("rotary", "position", positions, cosines.size(0));
  if (!has_kernel(x)) return reference::rotary(x, positions, cosines, sines);
  if (differentiable({x})) return Rotary::apply(x, positions, cosines, sines);
  return rotate(x, positions, cosines, sines, 1.0f);
}

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Gate kind) {
  if (gate.dim() != 2 || !gate.sizes().equals(up.sizes())) {
    throw InputError(
        fmt::format("gated_activation: gate {}, up {}, expected twice [n, I]", describe(gate), describe(up)));
  }
  if (!has_kernel(gate) || !alike(gate, up) || kind == Gate::kGelu) return reference::gated_activation(gate, up, kind);
  if (differentiable({gate, up})) return GatedActivation::apply(gate, up, static_cast<std::int64_t>(kind));
  return gate_rows(gate, up, kind);
}

at::Tensor gated_linear(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& weight, const at::Tensor& bias,
                        Gate kind) {
  const bool fits = gate.dim() == 2 && gate.sizes().equals(up.sizes()) && weight.dim() == 2 &&
                    weight.size(1) == gate.size(1) &&
                    (!bias.defined() || (bias.dim() == 1 && bias.size(0) == weight.size(0)));
  if (!fits) {
    throw InputError(
        fmt::format("gated_linear: gate {}, up {}, weight {}, bias {}, expected twice [n, I], [m, I] and "
                    "[m] or none",
                    describe(gate), describe(up), describe(weight), describe(bias)));
  }
  if (!differentiable({gate, up, weight, bias}) || !has_kernel(gate) || !alike(gate, up) || kind == Gate::kGelu) {
    return linear(gated_activation(gate, up, kind), weight, bias);
  }
  return GatedLinear::apply(gate, up, weight, bias.defined() ? std::optional(bias) : std::nullopt,
                            static_cast<std::int64_t>(kind));
}

std::array<at::Tensor, 2> residual_norm(const at::Tensor& h, const at::Tensor& update, const at::Tensor& update_weight,
                                        const at::Tensor& weight, const RmsNormOptions& options) {
  if (!at::GradMode::is_enabled() && alike(h, update) && h.sizes().equals(update.sizes())) {
    if (const cuda::Table* gpu = cuda::kernels_for(h))
      return gpu->residual_norm(h, update, update_weight, weight, options);
    if (on_cpu(h) && h.dim() == 2 && is_scale_of(h, update_weight) && is_scale_of(h, weight)) {
      return residual_norm_rows(h, update, update_weight, weight, options);
    }
  }
  const at::Tensor sum = h + (update_weight.defined() ? rms_norm(update, update_weight, options) : update);
  return {sum, weight.defined() ? rms_norm(sum, weight, options) : at::Tensor()};
}

void softcap_(at::Tensor& x, double cap) {
  if (!on_cpu(x) || !x.is_contiguous()) {
    x.div_(cap).tanh_().mul_(cap);
    return;
  }
  float* data = x.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), 16384, [&](std::int64_t begin, std::int64_t end) {
    kernels().softcap(end - begin, data + begin, static_cast<float>(cap));
  });
}

void add_widened_(at::Tensor& sum, const at::Tensor& x) {
  const cuda::Table* gpu = sum.scalar_type() == at::kFloat && sum.is_contiguous() ? cuda::kernels_for(x) : nullptr;
  if (gpu == nullptr || x.scalar_type() == at::kFloat) {
    sum.add_(x);
    return;
  }
  gpu->add_widened(sum, x);  // LibTorch's sum of two dtypes runs at a fraction of the memory's speed
}

at::Tensor softcapped(const at::Tensor& x, double cap) {
  if (x.scalar_type() == at::kDouble || (cap == 0.0 && x.scalar_type() == at::kFloat)) {
    return cap > 0.0 ? (x / cap).tanh_().mul_(cap) : x;
  }
  if (const cuda::Table* gpu = cuda::kernels_for(x)) return gpu->softcapped(x, cap);
  at::Tensor wide = x.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  if (cap > 0.0) softcap_(wide, cap);
  return wide;
}

}  // namespace sao::ops
