// SPDX-License-Identifier: Apache-2.0
// DPO with your own training loop and any LibTorch optimizer: libsao gives the pairs, the log-probabilities and the
// loss. usage: 04_custom_loop MODEL_FOLDER PAIRS.jsonl
#include <sao/sao.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim.h>

#include <cstdio>

void train_dpo(const sao::CausalLM& policy, const std::vector<sao::TokenPair>& pairs, std::size_t batch_size) {
  const auto reference = policy.clone_frozen();
  policy.set_requires_grad(true);
  std::vector<at::Tensor> parameters;
  for (const auto& [name, tensor] : policy.trainable_parameters()) parameters.push_back(tensor);
  torch::optim::AdamW optimizer(parameters, torch::optim::AdamWOptions(5e-5).weight_decay(0.0));

  for (std::size_t begin = 0; begin < pairs.size(); begin += batch_size) {
    const auto batch = std::span(pairs).subspan(begin, std::min(batch_size, pairs.size() - begin));
    auto logps = sao::pair_logps(policy, batch);  // chosen, rejected: [batch] sums, their lengths
    {
      const torch::NoGradGuard no_grad;
      const auto frozen = sao::pair_logps(reference, batch);
      logps.reference_chosen = frozen.chosen;
      logps.reference_rejected = frozen.rejected;
    }
    const auto out = sao::preference_loss(sao::DPO{.beta = 0.1}, logps);
    optimizer.zero_grad();
    out.loss.mean().backward();  // [batch] -> scalar
    torch::nn::utils::clip_grad_norm_(parameters, 1.0);
    optimizer.step();
    std::printf("pairs %zu  loss %.4f\n", begin + batch.size(), out.loss.mean().item<double>());
  }
}

int main(int argc, char** argv) try {
  if (argc != 3) throw sao::InputError("usage: 04_custom_loop MODEL_FOLDER PAIRS.jsonl");
  const auto rows = sao::read_jsonl<sao::Preference>(argv[2]);
  const auto text = sao::ChatTokenizer::load(argv[1]);
  train_dpo(sao::CausalLM::load(argv[1]), sao::tokenize_pairs(rows, text), 8);
} catch (const sao::Error& error) {
  std::fprintf(stderr, "04_custom_loop: %s\n", error.what());
  return 1;
}
