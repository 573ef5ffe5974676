// SPDX-License-Identifier: Apache-2.0
// The model against transformers: logits, hidden states, log-probs of random checkpoints (see the fixtures' README for
// how they were made and why their tolerance is 1e-4).
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "sao/io/safetensors.h"
#include "sao/model/causal_lm.h"
#include "support/close.h"
#include "support/paths.h"

namespace sao {
namespace {

class Parity : public ::testing::TestWithParam<const char*> {};

struct Batch {
  std::vector<TokenIds> rows;
  std::vector<std::int64_t> offsets;  // first real token of each row
};

Batch unpad(const at::Tensor& ids, const at::Tensor& mask) {
  Batch batch;
  for (std::int64_t r = 0; r < ids.size(0); ++r) {
    TokenIds row;
    for (std::int64_t t = 0; t < ids.size(1); ++t) {
      if (mask[r][t].item<std::int64_t>() == 0) continue;
      if (row.empty()) batch.offsets.push_back(t);
      row.push_back(static_cast<TokenId>(ids[r][t].item<std::int64_t>()));
    }
    batch.rows.push_back(row);
  }
  return batch;
}

TEST_P(Parity, HiddenStatesLogitsAndLogProbsAgree) {
  SAO_NEED_PARITY(GetParam());
  const std::filesystem::path folder = testing::parity(GetParam());
  const CausalLM model = CausalLM::load(folder);
  const SafetensorsFile expected = SafetensorsFile::open(folder / "expected.safetensors");
  for (const std::string side : {"right", "left"}) {
    const Batch batch = unpad(expected.tensor(side + ".input_ids"), expected.tensor(side + ".attention_mask"));
    const PackedTokens packed = pack(batch.rows);
    for (const bool grad : {true, false}) {  // both paths: ATen's products and the inference kernel
      const at::AutoGradMode mode(grad);
      const at::Tensor hidden = model.hidden(packed);
      const std::vector<at::Tensor> states = model.hidden_states(packed);
      const at::Tensor logits = model.logits(hidden);
      for (std::size_t r = 0; r < batch.rows.size(); ++r) {
        const std::int64_t begin = packed.starts[static_cast<std::int64_t>(r)].item<std::int64_t>();
        const std::int64_t length = static_cast<std::int64_t>(batch.rows[r].size());
        const auto row = [&](const char* name) {
          return expected.tensor(side + "." + name)[static_cast<std::int64_t>(r)].narrow(0, batch.offsets[r], length);
        };
        EXPECT_TRUE(testing::close(hidden.narrow(0, begin, length), row("last_hidden"), 1e-4));
        if (side == "right") {  // the fixtures hold the lower states of this side only
          EXPECT_TRUE(testing::close(states[0].narrow(0, begin, length), row("hidden_0"), 1e-4));
          EXPECT_TRUE(testing::close(states[1].narrow(0, begin, length), row("hidden_1"), 1e-4));
        }
        const at::Tensor logps = at::log_softmax(logits.narrow(0, begin, length - 1), -1)
                                     .gather(1, packed.ids.narrow(0, begin + 1, length - 1).unsqueeze(1))
                                     .squeeze(1);
        const at::Tensor expected_logps =
            expected.tensor(side + ".per_token_logps")[static_cast<std::int64_t>(r)].narrow(0, batch.offsets[r],
                                                                                            length - 1);
        EXPECT_TRUE(testing::close(logps, expected_logps, 1e-4));
      }
      const at::Tensor selected = expected.tensor(side + ".selected");
      for (std::int64_t i = 0; i < selected.size(0); ++i) {
        const std::int64_t r = selected[i][0].item<std::int64_t>();
        const std::int64_t t = selected[i][1].item<std::int64_t>() - batch.offsets[static_cast<std::size_t>(r)];
        EXPECT_TRUE(testing::close(logits[packed.starts[r].item<std::int64_t>() + t],
                                   expected.tensor(side + ".logits")[i], 1e-4));
      }
    }
  }
}

TEST_P(Parity, ConfigOfTransformers4ReadsTheSame) {
  SAO_NEED_PARITY(GetParam());
  const std::filesystem::path folder = testing::parity(GetParam());
  const ModelConfig now = ModelConfig::read(folder);
  const auto text = [&] {
    std::FILE* file = std::fopen((folder / "config.v4.json").c_str(), "rb");
    std::string bytes(1 << 16, '\0');
    bytes.resize(std::fread(bytes.data(), 1, bytes.size(), file));
    std::fclose(file);
    return bytes;
  }();
  const ModelConfig before = ModelConfig::parse(text, "config.v4.json");
  EXPECT_EQ(now.to_json("", "float32"), before.to_json("", "float32"));
}

INSTANTIATE_TEST_SUITE_P(Models, Parity,
                         ::testing::Values("gemma2-tiny", "sharded-gemma2", "llama3-tiny", "llama-tied"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace sao
