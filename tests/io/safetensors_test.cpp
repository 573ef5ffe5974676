// SPDX-License-Identifier: Apache-2.0
#include "sao/io/safetensors.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <limits>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "support/paths.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string file_bytes(std::string header, std::size_t data_bytes, std::uint64_t claimed_length) {
  std::string bytes(reinterpret_cast<const char*>(&claimed_length), sizeof(claimed_length));
  return bytes + header + std::string(data_bytes, '\1');
}

std::string file_bytes(const std::string& header, std::size_t data_bytes) {
  return file_bytes(header, data_bytes, header.size());
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

/// What opening a file of these bytes complains about.
std::string complaint(const std::string& bytes) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder / "x.safetensors";
  std::ofstream(path, std::ios::binary) << bytes;
  try {
    SafetensorsFile::open(path);
  } catch (const InputError& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
    return message.substr(path.string().size() + 2);
  }
  return "none";
}

TEST(Safetensors, ReadsEveryDtypeOfTheReference) {
  const auto file = SafetensorsFile::open(testing::golden("safetensors") / "dtypes.safetensors");
  const at::Tensor values = at::tensor({0.0, 1.0, -2.5, 3.25, 100.0, -0.125}, at::kDouble).view({2, 3});
  const at::Tensor integers = at::tensor({0, 1, -2, 100}, at::kLong);
  EXPECT_EQ(file.names().size(), 11u);
  for (const auto& [name, type] : std::vector<std::pair<std::string, at::ScalarType>>{
           {"f64", at::kDouble}, {"f32", at::kFloat}, {"bf16", at::kBFloat16}, {"f16", at::kHalf}}) {
    EXPECT_TRUE(file.tensor(name).equal(values.to(type))) << name;
  }
  for (const auto& [name, type] : std::vector<std::pair<std::string, at::ScalarType>>{
           {"i64", at::kLong}, {"i32", at::kInt}, {"i16", at::kShort}, {"i8", at::kChar}}) {
    EXPECT_TRUE(file.tensor(name).equal(integers.to(type))) << name;
  }
  EXPECT_TRUE(file.tensor("bool").equal(at::tensor({1, 0, 1}).to(at::kBool)));
  EXPECT_EQ(file.tensor("scalar_u8").dim(), 0);
  EXPECT_EQ(file.tensor("scalar_u8").item<int>(), 7);
  EXPECT_EQ(file.tensor("empty_f32").sizes(), (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.info("bf16").dtype, "BF16");
}

TEST(Safetensors, WritesTheBytesOfTheReference) {
  const testing::TemporaryFolder folder;
  const fs::path golden = testing::golden("safetensors") / "dtypes.safetensors";
  const auto file = SafetensorsFile::open(golden);
  NamedTensors tensors;
  for (const std::string& name : file.names()) tensors.emplace_back(name, file.tensor(name));
  write_safetensors(folder / "x.safetensors", tensors);
  EXPECT_EQ(read_file(folder / "x.safetensors"), read_file(golden));
}

TEST(Safetensors, ReadsTheParityModels) {
  SAO_NEED_PARITY("gemma2-tiny");
  const auto single = SafetensorsFile::open(testing::parity("gemma2-tiny") / "model.safetensors");
  EXPECT_EQ(single.info("model.embed_tokens.weight").shape, (std::vector<std::int64_t>{1024, 48}));
  for (const std::string& name : single.names()) EXPECT_TRUE(single.tensor(name).isfinite().all().item<bool>()) << name;

  const auto shard = SafetensorsFile::open(testing::parity("sharded-gemma2") / "model-00001-of-00003.safetensors");
  ASSERT_FALSE(shard.names().empty());
  for (const std::string& name : shard.names()) {
    EXPECT_EQ(shard.tensor(name).scalar_type(), at::kBFloat16) << name;
    EXPECT_TRUE(shard.tensor(name).isfinite().all().item<bool>()) << name;
  }
}

TEST(Safetensors, TensorsOutliveTheFileObject) {
  const testing::TemporaryFolder folder;
  write_safetensors(folder / "x.safetensors", {{"a", at::arange(1000, at::kFloat)}});
  at::Tensor tensor;
  {
    const auto file = SafetensorsFile::open(folder / "x.safetensors");
    tensor = file.tensor("a");
    EXPECT_EQ(tensor.data_ptr(), file.tensor("a").data_ptr()) << "a view, not a copy";
  }
  fs::remove(folder / "x.safetensors");
  EXPECT_TRUE(tensor.equal(at::arange(1000, at::kFloat)));
}

TEST(Safetensors, WhatIsForgottenIsReadAgain) {
  const testing::TemporaryFolder where;
  const at::Tensor large = at::arange(100000, at::kFloat), small = at::arange(3, at::kFloat);
  write_safetensors(where / "f", {{"large", large}, {"small", small}});
  const SafetensorsFile file = SafetensorsFile::open(where / "f");
  const at::Tensor view = file.tensor("large");
  EXPECT_TRUE(at::equal(view, large));
  file.forget("large");
  file.forget("small");
  EXPECT_TRUE(at::equal(view, large));
  EXPECT_TRUE(at::equal(file.tensor("small"), small));
  EXPECT_THROW(file.forget("none"), InputError);
}

TEST(Safetensors, MixedDtypesStayAlignedAndUsable) {
  const testing::TemporaryFolder folder;
  write_safetensors(folder / "x.safetensors", {{"b", at::ones({3}, at::kBool)},
                                               {"h", at::ones({3}, at::kHalf)},
                                               {"d", at::ones({3}, at::kDouble)},
                                               {"f", at::ones({3}, at::kFloat)},
                                               {"transposed", at::arange(6, at::kFloat).view({2, 3}).t()}});
  const auto file = SafetensorsFile::open(folder / "x.safetensors");
  EXPECT_EQ(file.names(), (std::vector<std::string>{"d", "f", "transposed", "h", "b"}));
  EXPECT_TRUE(file.tensor("transposed").equal(at::arange(6, at::kFloat).view({2, 3}).t()));
  EXPECT_TRUE(file.tensor("b").all().item<bool>());
}

TEST(Safetensors, MisalignedTensorsAreCopied) {
  const testing::TemporaryFolder folder;
  const std::string header = "{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F32", "[2]", "[1,9]") + "}";
  std::string bytes = file_bytes(header, 1);
  const float values[] = {1.5F, -2.0F};
  bytes.append(reinterpret_cast<const char*>(values), sizeof(values));
  std::ofstream(folder / "x.safetensors", std::ios::binary) << bytes;
  const at::Tensor tensor = SafetensorsFile::open(folder / "x.safetensors").tensor("b");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 4, 0u);
  EXPECT_TRUE(tensor.equal(at::tensor({1.5F, -2.0F})));
}

TEST(Safetensors, GoodFilesOfOddKindsOpen) {
  EXPECT_EQ(complaint(file_bytes("{}", 0)), "none");
  EXPECT_EQ(complaint(file_bytes("{}      ", 0)), "none");
  EXPECT_EQ(complaint(file_bytes("{" + entry("a", "F32", "[]", "[0,4]") + "}", 4)), "none");
  EXPECT_EQ(complaint(file_bytes(
                "{" + entry("a", "F32", "[0,9]", "[0,0]") + "," + entry("b", "U8", "[2]", "[0,2]") + "}", 2)),
            "none");
  EXPECT_EQ(complaint(file_bytes("{" + entry("a", "F4", "[4]", "[0,2]") + "}", 2)), "none");
  EXPECT_EQ(complaint(file_bytes(R"({"__metadata__":{"a":"b"}})", 0)), "none");
}

TEST(Safetensors, DtypesWithoutATensorAreNamedWhenAskedFor) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.safetensors", std::ios::binary)
      << file_bytes("{" + entry("a", "F4", "[4]", "[0,2]") + "}", 2);
  const auto file = SafetensorsFile::open(folder / "x.safetensors");
  EXPECT_THROW(file.tensor("a"), InputError);
  EXPECT_THROW(file.tensor("none"), InputError);
  EXPECT_THROW(file.info("none"), InputError);
}

TEST(Safetensors, CutOffAndLyingLengths) {
  const std::string good = file_bytes("{" + entry("a", "F32", "[4]", "[0,16]") + "}", 16);
  ASSERT_EQ(complaint(good), "none");
  // Every possible cut must be noticed.
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(complaint(good.substr(0, length)), "none") << length;
  }
  EXPECT_THAT(complaint(good.substr(0, good.size() - 1)), HasSubstr("tensor \"a\" ends at byte 16 of 15"));
  EXPECT_THAT(complaint(good + "x"), HasSubstr("1 bytes behind the last tensor"));
  EXPECT_THAT(complaint(""), HasSubstr("0 bytes, expected a safetensors file"));
  EXPECT_THAT(complaint(file_bytes("{}", 0, 3)), HasSubstr("a header of 3 bytes in a file of 10"));
  EXPECT_THAT(complaint(file_bytes("{}", 0, 1ULL << 62)), HasSubstr("a header of 4611686018427387904 bytes"));
  EXPECT_THAT(complaint(file_bytes("{}", 0, std::numeric_limits<std::uint64_t>::max())), HasSubstr("expected at most"));
  EXPECT_THAT(complaint(file_bytes("{}", 0, 0)), HasSubstr("does not begin with {"));
  EXPECT_THAT(complaint("PK\3\4 a pickled checkpoint and some more"), HasSubstr("no safetensors file"));
}

TEST(Safetensors, HeadersThatAreNoHeaders) {
  EXPECT_THAT(complaint(file_bytes("{\"a\":", 0)), HasSubstr("header: not valid JSON at line 1"));
  EXPECT_THAT(complaint(file_bytes("[]", 0)), HasSubstr("does not begin with {"));
  EXPECT_THAT(complaint(file_bytes(R"({"a":3})", 0)), HasSubstr("tensor \"a\": 3, expected an object"));
  EXPECT_THAT(complaint(file_bytes(R"({"a":{"shape":[],"data_offsets":[0,4]}})", 4)),
              HasSubstr("tensor \"a\": no field \"dtype\""));
  EXPECT_THAT(complaint(file_bytes(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4)),
              HasSubstr("no field \"shape\""));
  EXPECT_THAT(complaint(file_bytes(R"({"a":{"dtype":"F32","shape":[]}})", 4)), HasSubstr("no field \"data_offsets\""));
  EXPECT_THAT(complaint(file_bytes("{" + entry("a", "F33", "[1]", "[0,4]") + "}", 4)),
              AllOf(HasSubstr("dtype \"F33\""), HasSubstr("BF16")));
  EXPECT_THAT(complaint(file_bytes(R"({"__metadata__":{"a":1}})", 0)), HasSubstr("__metadata__: field \"a\" is 1"));
  EXPECT_THAT(complaint(file_bytes(R"({"__metadata__":[]})", 0)), HasSubstr("__metadata__ is not an object"));
  EXPECT_THAT(
      complaint(file_bytes("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("a", "U8", "[1]", "[1,2]") + "}", 2)),
      HasSubstr("header: field \"a\" twice"));
}

TEST(Safetensors, ShapesAndOffsetsThatDoNotFit) {
  const auto of = [](const std::string& shape, const std::string& offsets) {
    return complaint(file_bytes("{" + entry("a", "F32", shape, offsets) + "}", 16));
  };
  EXPECT_THAT(of("[5]", "[0,16]"), HasSubstr("hold 16 bytes, expected 20 for F32 of shape [5]"));
  EXPECT_THAT(of("[-4]", "[0,16]"), HasSubstr("shape [-4]"));
  EXPECT_THAT(of("[4.0]", "[0,16]"), HasSubstr("expected a list of integers"));
  EXPECT_THAT(of("4", "[0,16]"), HasSubstr("expected a list of integers"));
  EXPECT_THAT(of("[4]", "[16,0]"), HasSubstr("data_offsets [16, 0]"));
  EXPECT_THAT(of("[4]", "[0]"), HasSubstr("data_offsets [0]"));
  EXPECT_THAT(of("[4]", "[-16,0]"), HasSubstr("data_offsets [-16, 0]"));
  EXPECT_THAT(of("[4]", "[0,18446744073709551615]"), HasSubstr("expected a list of integers"));
  // Products that wrap around 64 bits to a size that would fit.
  EXPECT_THAT(of("[4611686018427387904,4]", "[0,16]"), HasSubstr("no size in whole bytes"));
  EXPECT_THAT(of("[4294967296,4294967296]", "[0,16]"), HasSubstr("no size in whole bytes"));
  EXPECT_THAT(of("[0,4611686018427387904,4]", "[0,0]"), HasSubstr("no size in whole bytes"));
  EXPECT_THAT(complaint(file_bytes("{" + entry("a", "F4", "[3]", "[0,2]") + "}", 2)),
              HasSubstr("no size in whole bytes"));
  std::string dimensions = "[1";
  for (int i = 0; i < 100; ++i) dimensions += ",1";
  EXPECT_THAT(of(dimensions + "]", "[0,4]"), HasSubstr("at most 64 sizes"));
}

TEST(Safetensors, OverlapsAndHoles) {
  const auto two = [](const std::string& first, const std::string& second, std::size_t bytes) {
    return complaint(
        file_bytes("{" + entry("a", "U8", "[4]", first) + "," + entry("b", "U8", "[4]", second) + "}", bytes));
  };
  EXPECT_EQ(two("[0,4]", "[4,8]", 8), "none");
  EXPECT_EQ(two("[4,8]", "[0,4]", 8), "none");
  EXPECT_THAT(two("[0,4]", "[2,6]", 6),
              AllOf(HasSubstr("tensor \"b\" begins at byte 2, expected 4"), HasSubstr("overlap")));
  EXPECT_THAT(two("[0,4]", "[0,4]", 4), HasSubstr("overlap"));
  EXPECT_THAT(two("[0,4]", "[5,9]", 9), AllOf(HasSubstr("begins at byte 5, expected 4"), HasSubstr("holes")));
  EXPECT_THAT(two("[1,5]", "[5,9]", 9), HasSubstr("begins at byte 1, expected 0"));
  EXPECT_THAT(two("[0,4]", "[4,8]", 7), HasSubstr("ends at byte 8 of 7"));
}

TEST(Safetensors, BytesThatAreNoTruthValuesAreRefused) {
  const testing::TemporaryFolder folder;
  std::string bytes = file_bytes("{" + entry("a", "BOOL", "[2]", "[0,2]") + "}", 2);
  bytes.back() = '\7';
  std::ofstream(folder / "x.safetensors", std::ios::binary) << bytes;
  EXPECT_THROW(SafetensorsFile::open(folder / "x.safetensors").tensor("a"), InputError);
}

TEST(Safetensors, OtherThingsThanFilesAreNamed) {
  EXPECT_THROW(SafetensorsFile::open("/nowhere/model.safetensors"), InputError);
  EXPECT_THROW(SafetensorsFile::open("/tmp"), InputError);
  EXPECT_THROW(SafetensorsFile::open("/dev/null"), InputError);
}

TEST(Safetensors, WhatTheFormatLacksIsRefusedAndNothingIsWritten) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder / "x.safetensors";
  EXPECT_THROW(write_safetensors(path, {{"a", at::Tensor()}}), InputError);
  EXPECT_THROW(write_safetensors(path, {{"a", at::ones({2}, at::kComplexDouble)}}), InputError);
  EXPECT_THROW(write_safetensors(path, {{"a", at::ones({2})}, {"a", at::ones({2})}}), InputError);
  EXPECT_THROW(write_safetensors(path, {{"__metadata__", at::ones({2})}}), InputError);
  EXPECT_THROW(write_safetensors(path, {{"a", at::ones({2, 2}).to_sparse()}}), InputError);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Safetensors, FullDiskLeavesTheOldFile) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder / "x.safetensors";
  write_safetensors(path, {{"a", at::ones({2})}});
  const std::string before = read_file(path);
  rlimit old = {};
  getrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {10000, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_THROW(write_safetensors(path, {{"a", at::ones({100000})}}), ResourceError);
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(read_file(path), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace sao
