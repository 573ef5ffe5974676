// SPDX-License-Identifier: Apache-2.0
// What libsao saves, transformers reads: the same tensors, a config it accepts, the same logits. Needs a python3 on the
// PATH that can import transformers.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "sao/base/seed.h"
#include "sao/io/files.h"
#include "sao/io/safetensors.h"
#include "sao/model/causal_lm.h"
#include "support/model_fixture.h"
#include "support/parity_report.h"
#include "support/process.h"

namespace sao {
namespace {

using Json = nlohmann::json;

void save_with_logits(const CausalLM& model, const std::filesystem::path& folder) {
  model.save(folder);
  TokenIds ids;
  for (TokenId i = 0; i < 30; ++i) ids.push_back((i * 7 + 3) % static_cast<TokenId>(model.config().vocab_size));
  const at::NoGradGuard no_grad;
  const PackedTokens tokens = pack(std::vector<TokenIds>{ids});
  write_safetensors(folder / "sao.safetensors",
                    {{"ids", tokens.ids}, {"logits", model.logits(model.hidden(tokens)).contiguous()}});
}

TEST(SavedModels, TransformersReadsThem) {
  const testing::Outcome python = testing::run_program("/usr/bin/env", {"python3", "-c", "import torch, transformers"});
  if (python.status != 0) GTEST_SKIP() << "no python3 on the PATH that can import torch and transformers";

  const testing::TemporaryFolder where;
  std::vector<std::string> arguments{"python3", (testing::golden("model") / "check_saved.py").string()};
  for (const testing::ModelFixture& fixture : testing::golden_models()) {
    const CausalLM model = CausalLM::load(fixture.folder);
    save_with_logits(model, where / fixture.name);
    write_file_atomically(where / fixture.name / "original.txt", fixture.folder.string());
    // The same sizes, with a config and weights that libsao makes itself.
    const std::string made = fixture.name + " made by libsao";
    save_with_logits(CausalLM::random(model.config(), Seed{7}, {}, 0.2), where / made);
    arguments.push_back(where / fixture.name);
    arguments.push_back(where / made);
  }
  const testing::Outcome checked = testing::run_program("/usr/bin/env", arguments);
  ASSERT_EQ(checked.status, 0) << checked.err;

  std::istringstream lines(checked.out);
  std::size_t folders = 0;
  for (std::string line; std::getline(lines, line); ++folders) {
    const Json found = Json::parse(line);
    const std::string name = found["name"];
    EXPECT_EQ(found["problems"], Json::object()) << name;
    EXPECT_EQ(found["differ"], Json::array()) << name;
    EXPECT_GT(found["tensors"], 10) << name;
    EXPECT_LE(found["worst"].get<double>(), 1e-4 * testing::tolerance_scale()) << name;
    if (found.contains("config")) {
      EXPECT_EQ(found["config"], Json::array()) << name;
      EXPECT_EQ(found["worst_of_original"], 0.0) << name;
    }
    testing::report_parity({.area = "model",
                            .subject = name,
                            .what = "saved and read by transformers: tensors",
                            .compared = found["tensors"],
                            .worst = static_cast<double>(found["differ"].size())});
    testing::report_parity({.area = "model",
                            .subject = name,
                            .what = "saved and read by transformers: logits",
                            .compared = found["logits"],
                            .worst = found["worst"],
                            .tolerance = 1e-4});
  }
  EXPECT_EQ(folders, 2 * testing::golden_models().size());
}

}  // namespace
}  // namespace sao
