// SPDX-License-Identifier: Apache-2.0
#include "sao/io/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "sao/base/error.h"
#include "support/paths.h"

namespace sao {
namespace {

namespace fs = std::filesystem;

void put(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// No file may grow beyond `bytes` while the object lives: a full disk without one.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, SIG_DFL);
  }

 private:
  rlimit old_ = {};
};

TEST(Files, ReadFileGivesAllBytesAndKeepsTheLimit) {
  const testing::TemporaryFolder folder;
  const std::string bytes("a\0b\r\n", 5);
  put(folder / "x", bytes);
  EXPECT_EQ(read_file(folder / "x"), bytes);
  EXPECT_EQ(read_file(folder / "x", 5), bytes);
  EXPECT_THROW(read_file(folder / "x", 4), InputError);
}

TEST(Files, ReadFileNamesThePathThatIsNotThere) {
  const testing::TemporaryFolder folder;
  try {
    read_file(folder / "absent.txt");
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(),
                ::testing::AllOf(::testing::HasSubstr("absent.txt"), ::testing::HasSubstr("No such file")));
  }
  EXPECT_THROW(read_file(folder.path()), InputError);
}

TEST(Files, WriteReplacesTheWholeFile) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder / "x", "a long first text");
  write_file_atomically(folder / "x", "short");
  EXPECT_EQ(read_file(folder / "x"), "short");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"x"});
}

TEST(Files, WriteThatFailsLeavesTheOldFileAndNothingElse) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder / "x", "old");
  {
    const FileSizeLimit limit(4096);
    EXPECT_THROW(write_file_atomically(folder / "x", std::string(100000, 'n')), ResourceError);
    EXPECT_THROW(write_file_atomically(folder / "y", std::string(100000, 'n')), ResourceError);
  }
  EXPECT_EQ(read_file(folder / "x"), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"x"});
}

TEST(Files, WriteIntoNoFolderOrOverAFolderSaysSo) {
  const testing::TemporaryFolder folder;
  try {
    write_file_atomically(folder / "none/x", "text");
    FAIL() << "no exception";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("none/x"));
  }
  fs::create_directory(folder / "sub");
  EXPECT_THROW(write_file_atomically(folder / "sub", "text"), ResourceError);
}

TEST(Files, WriteGoesThroughPipesInsteadOfReplacingThem) {
  const testing::TemporaryFolder folder;
  const fs::path pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  write_file_atomically(pipe, "text");
  char buffer[16] = {};
  EXPECT_EQ(::read(reader, buffer, sizeof(buffer)), 4);
  EXPECT_STREQ(buffer, "text");
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(pipe));
}

TEST(Files, FolderAppearsWholeAndReplacesAnOldOne) {
  const testing::TemporaryFolder folder;
  write_folder_atomically(folder / "model", [](const fs::path& temporary) { put(temporary / "a", "1"); });
  write_folder_atomically(folder / "model/", [&](const fs::path& temporary) {
    put(temporary / "b", "2");
    EXPECT_TRUE(fs::exists(folder / "model/a"));  // the old one stays until the new one is filled
  });
  EXPECT_EQ(names_in(folder / "model"), std::vector<std::string>{"b"});
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"model"});
}

TEST(Files, FolderThatFailsLeavesNothing) {
  const testing::TemporaryFolder folder;
  const auto fail = [](const fs::path& temporary) {
    put(temporary / "a", "1");
    throw InputError("stop");
  };
  EXPECT_THROW(write_folder_atomically(folder / "model", fail), InputError);
  EXPECT_TRUE(names_in(folder.path()).empty());
  put(folder / "file", "x");
  EXPECT_THROW(write_folder_atomically(folder / "file", [](const fs::path&) {}), ResourceError);
  EXPECT_EQ(read_file(folder / "file"), "x");
}

TEST(Files, RemoveUnfinishedTakesWhatAKilledProcessLeft) {
  const testing::TemporaryFolder folder;
  fs::create_directories(folder / "sub");
  fs::create_directories(folder / "sub/.model.sao-partial-99-0/deep");
  put(folder / "sub/.model.sao-partial-99-0/deep/x", "1");
  put(folder / ".a.json.sao-partial-99-1", "1");
  put(folder / "sub/.hidden", "1");
  put(folder / "sub/sao-partial-", "1");
  remove_unfinished(folder.path());
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"sub"});
  EXPECT_EQ(names_in(folder / "sub"), (std::vector<std::string>{".hidden", "sao-partial-"}));
  EXPECT_NO_THROW(remove_unfinished(folder / "absent"));
}

TEST(Files, FingerprintIsFnv1a64) {
  EXPECT_EQ(fingerprint(""), "cbf29ce484222325");
  EXPECT_EQ(fingerprint("foobar"), "85944171f73967e8");  // the published test vector
  const testing::TemporaryFolder folder;
  const std::string bytes(3'000'000, 'x');
  put(folder / "x", bytes);
  EXPECT_EQ(fingerprint_file(folder / "x"), fingerprint(bytes));
  EXPECT_THROW(fingerprint_file(folder / "absent"), InputError);
}

TEST(AppendFile, GrowsLineByLineAndIsReopened) {
  const testing::TemporaryFolder folder;
  {
    AppendFile file(folder / "x");
    file.append("one");
    EXPECT_EQ(read_file(folder / "x"), "one\n");
    file.append("");
    file.sync();
  }
  AppendFile again(folder / "x");
  again.append("three");
  EXPECT_EQ(read_file(folder / "x"), "one\n\nthree\n");
  EXPECT_THROW(again.append("two\nlines"), InputError);
}

TEST(AppendFile, DropsATornLastLine) {
  const testing::TemporaryFolder folder;
  const std::string big(200'000, 'b');  // longer than the piece that is looked at in one go
  for (const auto& [found, left] : std::vector<std::pair<std::string, std::string>>{{"", ""},
                                                                                    {"torn", ""},
                                                                                    {"one\n", "one\n"},
                                                                                    {"one\ntwo\n{\"torn", "one\ntwo\n"},
                                                                                    {"one\n" + big, "one\n"},
                                                                                    {big, ""},
                                                                                    {big + "\ntorn", big + "\n"}}) {
    put(folder / "x", found);
    AppendFile file(folder / "x");
    EXPECT_EQ(read_file(folder / "x"), left);
    file.append("next");
    EXPECT_EQ(read_file(folder / "x"), left + "next\n");
    fs::remove(folder / "x");
  }
}

TEST(AppendFile, FullDiskTakesTheTornLineBack) {
  const testing::TemporaryFolder folder;
  AppendFile file(folder / "x");
  file.append("one");
  {
    const FileSizeLimit limit(1000);
    EXPECT_THROW(file.append(std::string(5000, 'n')), ResourceError);
  }
  EXPECT_EQ(read_file(folder / "x"), "one\n");
  file.append("two");
  EXPECT_EQ(read_file(folder / "x"), "one\ntwo\n");
}

TEST(AppendFile, NamesThePathThatCannotBeOpened) {
  const testing::TemporaryFolder folder;
  try {
    AppendFile file(folder / "none/x");
    FAIL() << "no exception";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("none/x"));
  }
}

}  // namespace
}  // namespace sao
