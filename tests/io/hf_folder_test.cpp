// SPDX-License-Identifier: Apache-2.0
#include "sao/io/hf_folder.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "support/paths.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string complaint(const fs::path& folder) {
  try {
    CheckpointReader::open(folder);
  } catch (const InputError& error) {
    return error.what();
  }
  return "none";
}

NamedTensors three_tensors() {
  return {{"z", at::full({4}, 1.0F)}, {"a", at::full({4}, 2.0F)}, {"m", at::full({2}, 3.0F)}};
}

TEST(HfFolder, OneFileGoesBothWays) {
  const testing::TemporaryFolder folder;
  write_checkpoint(folder.path(), three_tensors());
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"model.safetensors"});
  const auto reader = CheckpointReader::open(folder.path());
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"a", "m", "z"}));
  EXPECT_TRUE(reader.tensor("z").equal(at::full({4}, 1.0F)));
  EXPECT_EQ(reader.info("m").shape, std::vector<std::int64_t>{2});
  EXPECT_EQ(reader.file_of("m"), folder / "model.safetensors");
  EXPECT_FALSE(reader.contains("none"));
  EXPECT_THROW(reader.tensor("none"), InputError);
}

TEST(HfFolder, ShardsGoBothWays) {
  const testing::TemporaryFolder folder;
  write_checkpoint(folder.path(), three_tensors(), 24);  // z alone, then a and m
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                      "model.safetensors.index.json"}));
  const auto reader = CheckpointReader::open(folder.path());
  for (const auto& [name, tensor] : three_tensors()) EXPECT_TRUE(reader.tensor(name).equal(tensor)) << name;
  EXPECT_EQ(reader.file_of("m").filename(), "model-00002-of-00002.safetensors");
  EXPECT_EQ(read_file(folder / "model.safetensors.index.json"),
            "{\n  \"metadata\": {\n    \"total_size\": 40\n  },\n  \"weight_map\": {\n"
            "    \"a\": \"model-00002-of-00002.safetensors\",\n    \"m\": \"model-00002-of-00002.safetensors\",\n"
            "    \"z\": \"model-00001-of-00002.safetensors\"\n  }\n}\n");
}

TEST(HfFolder, WritingOverACheckpointIsRefused) {
  for (const std::uint64_t shard_bytes : {16, 1000}) {
    const testing::TemporaryFolder folder;
    write_checkpoint(folder.path(), three_tensors(), shard_bytes);
    const std::vector<std::string> before = names_in(folder.path());
    EXPECT_THROW(write_checkpoint(folder.path(), {{"a", at::full({4}, 9.0F)}}), InputError);
    EXPECT_THROW(write_checkpoint(folder.path(), {{"a", at::full({4}, 9.0F)}}, 8), InputError);
    EXPECT_EQ(names_in(folder.path()), before);
    EXPECT_TRUE(CheckpointReader::open(folder.path()).tensor("a").equal(at::full({4}, 2.0F)));
  }
}

TEST(HfFolder, ReadsTheShardedParityModel) {
  SAO_NEED_PARITY("sharded-gemma2");
  const auto reader = CheckpointReader::open(testing::parity("sharded-gemma2"));
  EXPECT_EQ(reader.tensor("model.embed_tokens.weight").sizes(), (std::vector<std::int64_t>{1024, 40}));
  EXPECT_EQ(reader.info("model.norm.weight").dtype, "BF16");
  for (const std::string& name : reader.names()) EXPECT_TRUE(reader.tensor(name).defined()) << name;
}

TEST(HfFolder, FoldersWithoutWeightsSaySo) {
  const testing::TemporaryFolder folder;
  EXPECT_THAT(complaint(folder / "none"), HasSubstr("no such folder"));
  EXPECT_THAT(complaint(folder / std::string(300, 'x')), HasSubstr("no such folder"));
  fs::create_symlink("loop", folder / "loop");
  EXPECT_THAT(complaint(folder / "loop"), HasSubstr("no such folder"));
  EXPECT_THAT(complaint(folder.path()), AllOf(HasSubstr("no weights"), HasSubstr("model.safetensors")));
  std::ofstream(folder / "pytorch_model.bin") << "x";
  EXPECT_THAT(complaint(folder.path()), HasSubstr("convert pytorch_model.bin"));
}

TEST(HfFolder, BrokenIndexesAreNamed) {
  const testing::TemporaryFolder folder;
  write_safetensors(folder / "s.safetensors", {{"a", at::ones({2})}});
  const auto with_index = [&](const std::string& text) {
    std::ofstream(folder / "model.safetensors.index.json") << text;
    return complaint(folder.path());
  };
  EXPECT_EQ(with_index(R"({"weight_map": {"a": "s.safetensors"}})"), "none");
  EXPECT_THAT(with_index("{"), HasSubstr("index.json: not valid JSON"));
  EXPECT_THAT(with_index("{}"), HasSubstr("no field \"weight_map\""));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": 3}})"), HasSubstr("field \"a\" is 3, expected a string"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": "t.safetensors"}})"),
              AllOf(HasSubstr("shard \"t.safetensors\""), HasSubstr("not in the folder")));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": ")" + std::string(300, 'x') + R"("}})"),
              HasSubstr("not in the folder"));
  EXPECT_THAT(with_index(R"({"weight_map": {"b": "s.safetensors"}})"),
              HasSubstr("tensor \"b\" is not in \"s.safetensors\""));
  EXPECT_THAT(with_index(R"({"weight_map": {}})"), HasSubstr("field \"weight_map\" is an object, expected"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": "s.safetensors", "a": "s.safetensors"}})"),
              HasSubstr("field \"a\" twice"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": "../s.safetensors"}})"),
              HasSubstr("expected a file of the same folder"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": "/etc/passwd"}})"), HasSubstr("expected a file of the same folder"));
  const auto size_complaint = [&](const std::string& total_size) -> std::string {
    std::ofstream(folder / "model.safetensors.index.json")
        << R"({"metadata": {"total_size": )" << total_size << R"(}, "weight_map": {"a": "s.safetensors"}})";
    try {
      CheckpointReader::open(folder.path()).check_total_size();
    } catch (const InputError& error) {
      return error.what();
    }
    return "none";
  };
  EXPECT_EQ(size_complaint("8"), "none");
  EXPECT_EQ(size_complaint("8.0"), "none") << "as transformers once wrote it";
  EXPECT_EQ(size_complaint("null"), "none");
  EXPECT_THAT(size_complaint("9"), HasSubstr("metadata: field \"total_size\" is 9, expected 8"));
}

TEST(HfFolder, ShardsThatDisagreeWithTheIndexAreNamed) {
  const testing::TemporaryFolder folder;
  write_safetensors(folder / "s.safetensors", {{"a", at::ones({2})}, {"b", at::ones({3})}});
  write_safetensors(folder / "t.safetensors", {{"c", at::ones({2})}});
  const auto with_map = [&](const std::string& map) {
    std::ofstream(folder / "model.safetensors.index.json") << R"({"weight_map": {)" << map << "}}";
    return complaint(folder.path());
  };
  EXPECT_EQ(with_map(R"("a": "s.safetensors", "b": "s.safetensors", "c": "t.safetensors")"), "none");
  EXPECT_THAT(with_map(R"("a": "s.safetensors", "b": "t.safetensors", "c": "t.safetensors")"),
              HasSubstr("tensor \"b\" is not in \"t.safetensors\" (it is in \"s.safetensors\"), expected it there"));
  EXPECT_THAT(with_map(R"("a": "s.safetensors", "c": "t.safetensors")"),
              HasSubstr("tensor \"b\" of \"s.safetensors\" is not in the weight_map"));
  write_safetensors(folder / "t.safetensors", {{"c", at::ones({2})}, {"b", at::ones({3})}});
  EXPECT_THAT(with_map(R"("a": "s.safetensors", "b": "s.safetensors", "c": "t.safetensors")"),
              HasSubstr("tensor \"b\" is in \"s.safetensors\" and in \"t.safetensors\", expected it in one shard"));
}

TEST(HfFolder, TokenizerFilesAreCopied) {
  const testing::TemporaryFolder from;
  const testing::TemporaryFolder to;
  std::ofstream(from / "tokenizer.json") << "t";
  std::ofstream(from / "sao_templates.json") << "s";
  std::ofstream(from / "config.json") << "c";
  std::ofstream(to / "tokenizer.json") << "old";
  copy_tokenizer_files(from.path(), to.path());
  EXPECT_EQ(names_in(to.path()), (std::vector<std::string>{"sao_templates.json", "tokenizer.json"}));
  EXPECT_EQ(read_file(to / "tokenizer.json"), "t");
  std::filesystem::create_directory(from / "additional_chat_templates");
  std::ofstream(from / "additional_chat_templates/rag.jinja") << "r";
  copy_tokenizer_files(from.path(), to.path());
  EXPECT_EQ(read_file(to / "additional_chat_templates/rag.jinja"), "r");
  EXPECT_NO_THROW(copy_tokenizer_files(from.path(), to.path()));
  EXPECT_NO_THROW(copy_tokenizer_files(from.path(), from.path()));
  EXPECT_EQ(read_file(from / "tokenizer.json"), "t");
  EXPECT_THROW(copy_tokenizer_files(from.path(), to / "none"), ResourceError);
}

}  // namespace
}  // namespace sao
