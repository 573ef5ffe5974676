// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "sao/base/error.h"
#include "sao/data/records.h"
#include "support/paths.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

template <class Failure, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Failure& error) {
    return error.what();
  }
  return "no exception";
}

TEST(RunFolder, NewFoldersAreMadeAndFilledOnesRefused) {
  const testing::TemporaryFolder folder;
  { const RunFolder run(folder / "a/b"); }
  { const RunFolder run(folder / "a/b"); }  // the lock file alone is nothing
  std::ofstream(folder / "a/b/x") << "x";
  EXPECT_THAT(message_of<InputError>([&] { RunFolder run(folder / "a/b"); }),
              AllOf(HasSubstr("a/b: not empty"), HasSubstr("--resume")));
  EXPECT_THAT(message_of<InputError>([&] { RunFolder run(folder / "a/b", {.resume = true}); }),
              HasSubstr("holds files but no manifest.json"));
  EXPECT_THAT(message_of<InputError>([&] { RunFolder run(folder / "a/b/x"); }), HasSubstr("not a folder"));
}

TEST(RunFolder, ResumeStartsWhereThereIsNothingYet) {
  const testing::TemporaryFolder folder;
  { const RunFolder run(folder / "new", {.resume = true}); }
  EXPECT_TRUE(fs::is_directory(folder / "new"));
  EXPECT_NO_THROW(RunFolder(folder / "new", {.resume = true}));
}

TEST(RunFolder, AKillBeforeTheManifestLeavesANewFolder) {
  const testing::TemporaryFolder folder;
  for (const bool resume : {true, false}) {
    fs::create_directories(folder / "run");
    std::ofstream(folder / "run/.lock");
    std::ofstream(folder / "run/.manifest.json.sao-partial-12-3") << "{\"set";
    RunFolder run(folder / "run", {.resume = resume});
    run.fix_manifest("{}");
    EXPECT_EQ(std::distance(fs::directory_iterator(folder / "run"), {}), 2) << "the lock and the manifest";
    fs::remove_all(folder / "run");
  }
}

TEST(RunFolder, CheckMakesNothing) {
  const testing::TemporaryFolder folder;
  EXPECT_NO_THROW(RunFolder::check(folder / "a/b"));
  EXPECT_TRUE(fs::is_empty(folder.path()));
  std::ofstream(folder / "file") << "x";
  EXPECT_THAT(message_of<InputError>([&] { RunFolder::check(folder.path()); }), HasSubstr("not empty"));
  EXPECT_THAT(message_of<InputError>([&] { RunFolder::check(folder.path(), {.resume = true}); }),
              HasSubstr("no manifest.json"));
  EXPECT_THAT(message_of<ResourceError>([&] { RunFolder::check(folder / "file/run"); }),
              AllOf(HasSubstr("cannot make"), HasSubstr("file is no folder")));
  EXPECT_THAT(message_of<ResourceError>([&] { RunFolder run(folder / "file/run"); }), HasSubstr("file is no folder"));
}

TEST(RunFolder, OneProcessAtATime) {
  const testing::TemporaryFolder folder;
  {
    const RunFolder run(folder / "run");
    EXPECT_THAT(message_of<ResourceError>([&] { RunFolder other(folder / "run"); }), HasSubstr("another process"));
  }
  EXPECT_NO_THROW(RunFolder(folder / "run"));
}

TEST(RunFolder, LeftoversOfAKilledProcessGo) {
  const testing::TemporaryFolder folder;
  {
    RunFolder run(folder / "run");
    run.fix_manifest("{}");
    std::ofstream(run.round(1) / ".pairs.jsonl.sao-partial-1-1") << "half";
    fs::create_directory(run.round(1) / ".model.sao-partial-1-2");
  }
  const RunFolder run(folder / "run", {.resume = true});
  EXPECT_TRUE(fs::is_empty(run.round(1)));
}

TEST(RunFolder, ManifestStaysAndNamesEveryDifference) {
  const testing::TemporaryFolder folder;
  RunFolder run(folder / "run");
  const std::string first = R"({"settings": {"rate": 5e-7, "seed": 1, "engine": {"batch": 1}}})";
  run.fix_manifest(first);
  run.fix_manifest(first);
  EXPECT_THAT(
      message_of<InputError>(
          [&] { run.fix_manifest(R"({"settings": {"rate": 8e-7, "seed": 2, "engine": {"batch": 1}}})"); }),
      AllOf(HasSubstr("settings.rate: 5e-07 in the run, 8e-07 now"), HasSubstr("settings.seed: 1 in the run, 2 now")));
  EXPECT_EQ(read_file(run.path() / "manifest.json"), first);
}

TEST(RecordFile, ContinuesBehindTheLastWholeLine) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.jsonl") << "{\"persona\":\"a\"}\n{\"persona\":\"b\"}\n{\"pers";
  RecordFile<Persona> file(folder / "x.jsonl");
  ASSERT_EQ(file.records().size(), 2u);
  file.append({.text = "c"});
  EXPECT_EQ(file.records().back().text, "c");
  EXPECT_EQ(read_file(folder / "x.jsonl"), "{\"persona\":\"a\"}\n{\"persona\":\"b\"}\n{\"persona\":\"c\"}\n");
}

TEST(RecordFile, KeepsRecordsAsTheyWillBeRead) {
  const testing::TemporaryFolder folder;
  Persona kept;
  {
    RecordFile<Persona> file(folder / "x.jsonl");
    file.append({.text = "a\xff\xfe"});
    kept = file.records().back();
  }
  EXPECT_EQ(kept.text, "a\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(RecordFile<Persona>(folder / "x.jsonl").records().back(), kept);
}

TEST(RecordFile, NamesALineThatIsNoRecord) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.jsonl") << "{\"persona\":\"a\"}\n{\"person\":\"b\"}\n";
  EXPECT_THAT(message_of<InputError>([&] { RecordFile<Persona> file(folder / "x.jsonl"); }),
              HasSubstr("x.jsonl:2: no field \"persona\""));
}

}  // namespace
}  // namespace sao
