// SPDX-License-Identifier: Apache-2.0
// Checkpoints with one defect each: loading ends with one sentence that names what is at fault.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/model/causal_lm.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::golden;

constexpr const char* kFile = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kFirstShard = "model-00001-of-00002.safetensors";
constexpr const char* kSecondShard = "model-00002-of-00002.safetensors";
constexpr const char* kTensor = "model.layers.0.self_attn.q_proj.weight";

void write(const fs::path& file, const std::string& bytes) { std::ofstream(file, std::ios::binary) << bytes; }

/// A safetensors file in its parts.
struct Parts {
  json header;
  std::string data;

  explicit Parts(const fs::path& file) {
    const std::string bytes = read_file(file);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    header = json::parse(bytes.substr(sizeof length, length));
    data = bytes.substr(sizeof length + length);
  }

  static std::string file(const std::string& text, const std::string& data) {
    const std::uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + data;
  }
  std::string file() const { return file(header.dump(), data); }
  std::uint64_t begin(const std::string& tensor) const { return header[tensor]["data_offsets"][0]; }
};

using Damage = std::function<void(const fs::path& folder)>;

/// Damages to the parts of a safetensors file.
Damage weights(const std::function<void(Parts&)>& change, const char* file = kFile) {
  return [=](const fs::path& folder) {
    Parts parts(folder / file);
    change(parts);
    write(folder / file, parts.file());
  };
}
/// To its bytes.
Damage bytes(const std::function<std::string(std::string)>& change, const char* file = kFile) {
  return [=](const fs::path& folder) { write(folder / file, change(read_file(folder / file))); };
}
/// To fields of the tensor's entry in the header.
Damage entry(const json& fields) {
  return weights([=](Parts& parts) { parts.header[kTensor].update(fields); });
}
/// To a JSON file.
Damage document(const char* file, const std::function<void(json&)>& change) {
  return [=](const fs::path& folder) {
    json value = json::parse(read_file(folder / file));
    change(value);
    write(folder / file, value.dump());
  };
}
Damage config(const std::string& field, const json& value) {
  return document("config.json", [=](json& c) { c[field] = value; });
}
Damage header(const std::string& text) {
  return [=](const fs::path& folder) { write(folder / kFile, Parts::file(text, "")); };
}
Damage length(std::uint64_t claimed) {
  return bytes([=](std::string file) {
    std::memcpy(file.data(), &claimed, sizeof claimed);
    return file;
  });
}
/// The bytes of a float in place `index` of the tensor.
Damage value(float number, std::size_t index) {
  return weights([=](Parts& parts) {
    std::memcpy(parts.data.data() + parts.begin(kTensor) + sizeof(float) * index, &number, sizeof number);
  });
}
std::string brackets(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

struct Defect {
  std::string name;
  std::vector<std::string> named;  ///< what the message must hold
  Damage damage;
};

std::vector<Defect> weight_defects() {
  std::vector<Defect> defects;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{200}, std::size_t{50000}}) {
    defects.push_back(
        {"cut to " + std::to_string(size), {kFile}, bytes([=](const std::string& b) { return b.substr(0, size); })});
  }
  const std::vector<Defect> more = {
      {"last byte cut", {kFile, "cut off"}, bytes([](std::string b) { return b.substr(0, b.size() - 1); })},
      {"bytes behind", {kFile, "behind the last tensor"}, bytes([](std::string b) { return b + "1234"; })},
      {"zeros", {kFile}, bytes([](std::string b) { return std::string(b.size(), '\0'); })},
      {"length 0", {kFile, "header"}, length(0)},
      {"length huge", {kFile, "4611686018427387904"}, length(std::uint64_t{1} << 62)},
      {"length negative", {kFile, "header"}, length(std::numeric_limits<std::uint64_t>::max())},
      {"length beyond the file", {kFile, "10000000"}, length(10'000'000)},
      {"header is no JSON", {kFile, "header", "not valid JSON"}, header("{\"a\":}")},
      {"header is a list", {kFile, "header"}, header("[1]")},
      {"header is deep", {kFile, "nested"}, header("{\"a\":" + brackets(100'000) + "}")},
      {"header is no UTF-8", {kFile, "UTF-8"}, header("{\"\xff\": 1}")},
      {"header goes on", {kFile, "header"}, header("{} {}")},
      {"tensor twice", {kFile, "\"a\" twice"}, header("{\"a\":{},\"a\":{}}")},
      {"dtype unknown", {kFile, kTensor, "F33"}, entry({{"dtype", "F33"}})},
      {"dtype a number", {kFile, kTensor, "dtype"}, entry({{"dtype", 3}})},
      {"dtype of integers", {kFile, kTensor, "I32"}, entry({{"dtype", "I32"}})},
      {"dtype of another size", {kFile, kTensor, "F16"}, entry({{"dtype", "F16"}})},
      {"shape negative", {kFile, kTensor, "-32"}, entry({{"shape", {-32, -32}}})},
      {"shape overflows", {kFile, kTensor}, entry({{"shape", {std::int64_t{1} << 62, 4}}})},
      {"shape of other sizes", {kFile, kTensor, "[16, 64]", "[32, 32]"}, entry({{"shape", {16, 64}}})},
      {"shape flat", {kFile, kTensor, "[1024]", "[32, 32]"}, entry({{"shape", {1024}}})},
      {"shape with zero", {kFile, kTensor}, entry({{"shape", {0, 32}}})},
      {"shape a text", {kFile, kTensor, "shape"}, entry({{"shape", "32"}})},
      {"offsets reversed", {kFile, kTensor, "data_offsets"}, entry({{"data_offsets", {4096, 0}}})},
      {"offsets negative", {kFile, kTensor, "data_offsets"}, entry({{"data_offsets", {-4, 4092}}})},
      {"offsets beyond 2^63",
       {kFile, kTensor, "data_offsets"},
       entry({{"data_offsets", {1ULL << 63, (1ULL << 63) + 8}}})},
      {"offsets outside", {kFile, kTensor}, weights([](Parts& p) {
         const std::size_t end = p.data.size();
         p.header[kTensor]["data_offsets"] = {end, end + 4096};
       })},
      {"offsets overlap", {kFile, "overlap"}, weights([](Parts& p) {
         const std::uint64_t begin = p.begin(kTensor);
         p.header[kTensor]["data_offsets"] = {begin - 4, begin + 4092};
       })},
      {"offsets leave a hole", {kFile, "holes"}, weights([](Parts& p) {
         const std::uint64_t border = p.begin(kTensor);
         for (auto& [name, info] : p.header.items()) {
           if (name == "__metadata__" || info["data_offsets"][0] < border) continue;
           for (json& offset : info["data_offsets"]) offset = offset.get<std::uint64_t>() + 8;
         }
         p.data.insert(border, 8, '\0');
       })},
      {"tensor missing", {"missing", kTensor}, weights([](Parts& p) {
         p.header["another"] = p.header[kTensor];
         p.header.erase(kTensor);
       })},
      {"tensor too many", {kFile, "model.extra.weight"}, weights([](Parts& p) {
         const std::size_t end = p.data.size();
         p.header["model.extra.weight"] = {{"dtype", "F32"}, {"shape", {2}}, {"data_offsets", {end, end + 8}}};
         p.data.append(8, '\0');
       })},
      {"NaN", {kFile, kTensor, "nan at [1, 3]"}, value(std::numeric_limits<float>::quiet_NaN(), 35)},
      {"infinity", {kFile, kTensor, "-inf at [31, 31]"}, value(-std::numeric_limits<float>::infinity(), 1023)},
      {"a folder in its place",
       {kFile},
       [](const fs::path& f) { fs::remove(f / kFile), fs::create_directory(f / kFile); }},
      {"a link to itself",
       {kFile},
       [](const fs::path& f) { fs::remove(f / kFile), fs::create_symlink(kFile, f / kFile); }},
      {"a pipe",
       {kFile, "not a regular file"},
       [](const fs::path& f) {
         fs::remove(f / kFile);
         ASSERT_EQ(mkfifo((f / kFile).c_str(), 0600), 0);
       }},
      {"no weights", {kFile}, [](const fs::path& f) { fs::remove(f / kFile); }}};
  defects.insert(defects.end(), more.begin(), more.end());
  return defects;
}

std::vector<Defect> config_defects() {
  const char* const kConfig = "config.json";
  std::vector<Defect> defects = {
      {"missing file", {kConfig}, [](const fs::path& f) { fs::remove(f / "config.json"); }},
      {"empty", {kConfig}, bytes([](const std::string&) { return ""; }, kConfig)},
      {"cut", {kConfig, "not valid JSON"}, bytes([](const std::string& b) { return b.substr(0, 300); }, kConfig)},
      {"a list", {kConfig}, bytes([](const std::string&) { return "[1]"; }, kConfig)},
      {"deep", {kConfig, "nested"}, bytes([](const std::string&) { return brackets(100'000); }, kConfig)},
      {"deep in a field",
       {kConfig, "nested"},
       bytes([](const std::string&) { return "{\"x\":" + brackets(100'000) + "}"; }, kConfig)},
      {"field twice",
       {kConfig, "hidden_size", "twice"},
       bytes([](const std::string& b) { return b.substr(0, b.rfind('}')) + ",\"hidden_size\":32}"; }, kConfig)},
      {"no UTF-8",
       {kConfig, "UTF-8"},
       bytes([](const std::string& b) { return b.substr(0, b.rfind('}')) + ",\"x\":\"\xff\"}"; }, kConfig)},
      {"another architecture", {kConfig, "model_type", "mamba"}, config("model_type", "mamba")},
      {"odd head_dim", {kConfig, "head_dim", "7"}, config("head_dim", 7)},
      {"heads that do not divide", {kConfig, "num_key_value_heads", "3"}, config("num_key_value_heads", 3)},
      {"unknown rope type", {kConfig, "rope_type", "magic"}, config("rope_parameters", {{"rope_type", "magic"}})},
      {"rope without a factor", {kConfig, "factor"}, config("rope_parameters", {{"rope_type", "llama3"}})},
      {"rope a text", {kConfig, "rope_parameters"}, config("rope_parameters", "llama3")},
      {"unknown activation", {kConfig, "hidden_act", "swish"}, config("hidden_act", "swish")},
      {"eos beyond the vocabulary", {kConfig, "eos_token_id", "96"}, config("eos_token_id", 96)},
      {"sizes whose product overflows",
       {kConfig, "hidden_size", "parameters"},
       document(kConfig,
                [](json& c) {
                  for (const char* field : {"hidden_size", "intermediate_size", "vocab_size", "head_dim",
                                            "num_attention_heads", "num_key_value_heads"}) {
                    c[field] = std::int64_t{1} << 31;
                  }
                })},
      {"smaller vocab_size", {"model.embed_tokens.weight", "[96, 32]", "[90, 32]"}, config("vocab_size", 90)},
      {"larger vocab_size", {"model.embed_tokens.weight", "[96, 32]", "[100, 32]"}, config("vocab_size", 100)},
      {"more layers", {"model.layers.2.", "missing"}, config("num_hidden_layers", 3)},
      {"fewer layers", {"model.layers.1."}, config("num_hidden_layers", 1)}};
  for (const char* field : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                            "num_attention_heads", "max_position_embeddings"}) {
    for (const json& wrong : {json(nullptr), json("32"), json(-4), json(0), json(1'000'000'000'000'000'000), json(3.5),
                              json({1}), json(true)}) {
      defects.push_back({std::string(field) + " " + wrong.dump(), {kConfig, field}, config(field, wrong)});
    }
    defects.push_back(
        {std::string("no ") + field, {kConfig, field}, document(kConfig, [=](json& c) { c.erase(field); })});
  }
  return defects;
}

std::vector<Defect> shard_defects() {
  const auto map = [](const std::string& tensor, const json& file) {
    return document(kIndex, [=](json& index) { index["weight_map"][tensor] = file; });
  };
  const auto text = [](const std::string& all) { return bytes([=](const std::string&) { return all; }, kIndex); };
  const json index = json::parse(read_file(golden("model") / "llama-sharded" / kIndex));
  std::string first;  // a tensor of the first shard
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (file == kFirstShard) first = tensor;
  }
  return {{"shard missing", {kSecondShard}, [](const fs::path& f) { fs::remove(f / kSecondShard); }},
          {"shard empty", {kSecondShard}, bytes([](const std::string&) { return ""; }, kSecondShard)},
          {"shard cut",
           {kSecondShard, "cut off"},
           bytes([](const std::string& b) { return b.substr(0, b.size() - 3); }, kSecondShard)},
          {"file not there", {kIndex, "model-00009.safetensors"}, map(first, "model-00009.safetensors")},
          {"path upwards", {kIndex, first, "../"}, map(first, std::string("../") + kFirstShard)},
          {"path from the root", {kIndex, first, "/etc/passwd"}, map(first, "/etc/passwd")},
          {"wrong shard", {kIndex, first, kSecondShard, kFirstShard}, map(first, kSecondShard)},
          {"no text", {kIndex, first}, map(first, 3)},
          {"tensor of no shard", {kIndex, "model.ghost.weight"}, map("model.ghost.weight", kFirstShard)},
          {"tensor left out",
           {kIndex, first, kFirstShard},
           document(kIndex, [=](json& i) { i["weight_map"].erase(first); })},
          {"no map", {kIndex, "weight_map"}, document(kIndex, [](json& i) { i.erase("weight_map"); })},
          {"map a list", {kIndex, "weight_map"}, document(kIndex, [](json& i) { i["weight_map"] = {1}; })},
          {"map empty", {kIndex, "weight_map"}, document(kIndex, [](json& i) { i["weight_map"] = json::object(); })},
          {"wrong total_size",
           {kIndex, "total_size", "7"},
           document(kIndex, [](json& i) { i["metadata"]["total_size"] = 7; })},
          {"index no JSON", {kIndex, "not valid JSON"}, text("{\"weight_map\": {")},
          {"index deep", {kIndex, "nested"}, text("{\"weight_map\":" + brackets(100'000) + "}")},
          {"index missing", {kIndex}, [](const fs::path& f) { fs::remove(f / kIndex); }}};
}

void expect_refused(const std::string& model, const std::vector<Defect>& defects) {
  int refused = 0;
  std::string worst = "none";
  for (const Defect& defect : defects) {
    const testing::TemporaryFolder folder;
    const fs::path copy = folder / "model";
    fs::copy(golden("model") / model, copy, fs::copy_options::recursive);
    defect.damage(copy);
    std::string message;
    try {
      CausalLM::load(copy);
      ADD_FAILURE() << defect.name << ": it loaded";
    } catch (const InputError& error) {
      message = error.what();
    }
    EXPECT_THAT(message, ::testing::Not(::testing::HasSubstr("\n"))) << defect.name;
    EXPECT_LT(message.size(), 2000U) << defect.name;
    bool named = !message.empty();
    for (const std::string& name : defect.named) {
      EXPECT_THAT(message, ::testing::HasSubstr(name)) << defect.name;
      named = named && message.find(name) != std::string::npos;
    }
    if (named) ++refused;
    if (!named) worst = defect.name;
  }
  const auto count = static_cast<std::int64_t>(defects.size());
  testing::report_parity({.area = "broken input",
                          .subject = model,
                          .what = "defects refused, not refused or not named",
                          .compared = count,
                          .worst = static_cast<double>(count - refused),
                          .tolerance = 0.0,
                          .worst_case = worst});
}

TEST(BrokenCheckpoint, WeightsAreNamed) { expect_refused("llama3", weight_defects()); }

TEST(BrokenCheckpoint, ConfigFieldsAreNamed) { expect_refused("llama3", config_defects()); }

TEST(BrokenCheckpoint, ShardsAndTheirIndexAreNamed) { expect_refused("llama-sharded", shard_defects()); }

TEST(BrokenCheckpoint, TheGoodOnesLoad) {
  for (const char* model : {"llama3", "llama-sharded"}) EXPECT_NO_THROW(CausalLM::load(golden("model") / model));
  const testing::TemporaryFolder folder;
  const fs::path copy = folder / "model";
  fs::copy(golden("model") / "llama3", copy, fs::copy_options::recursive);
  bytes([](const std::string& b) { return "\xEF\xBB\xBF" + b; }, "config.json")(copy);
  EXPECT_NO_THROW(CausalLM::load(copy)) << "a byte order mark";
  weights([](Parts& parts) {  // a good layout that is not aligned
    for (auto& [name, info] : parts.header.items()) {
      if (name == "__metadata__") continue;
      for (json& offset : info["data_offsets"]) offset = offset.get<std::uint64_t>() + 1;
    }
    parts.header["rotary_emb.inv_freq"] = {{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {0, 1}}};
    parts.data.insert(0, 1, 'x');
  })(copy);
  EXPECT_TRUE(CausalLM::load(copy).output_weight().equal(CausalLM::load(golden("model") / "llama3").output_weight()));
}

}  // namespace
}  // namespace sao
