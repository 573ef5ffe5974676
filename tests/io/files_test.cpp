// SPDX-License-Identifier: Apache-2.0
#include "sao/io/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <thread>

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

// Half a replacement on a file system that cannot swap names: the old folder has left, the new one has not come.
TEST(Files, RemoveUnfinishedBringsAReplacedFolderBack) {
  const testing::TemporaryFolder folder;
  for (const char* name : {"lost", "there"}) {
    fs::create_directories(folder / (std::string("sub/.") + name + ".sao-replaced-99-3"));
    put(folder / (std::string("sub/.") + name + ".sao-replaced-99-3/x"), "old");
    fs::create_directories(folder / (std::string("sub/.") + name + ".sao-partial-99-2"));
  }
  fs::create_directories(folder / "sub/there");
  put(folder / "sub/there/x", "new");
  remove_unfinished(folder.path());
  EXPECT_EQ(names_in(folder / "sub"), (std::vector<std::string>{"lost", "there"}));
  EXPECT_EQ(read_file(folder / "sub/lost/x"), "old");
  EXPECT_EQ(read_file(folder / "sub/there/x"), "new");
}

TEST(Files, AReplacedFolderIsNeverMissing) {
  const testing::TemporaryFolder folder;
  fs::create_directories(folder / "a");
  fs::create_directories(folder / "b");
  if (::renameat2(AT_FDCWD, (folder / "a").c_str(), AT_FDCWD, (folder / "b").c_str(), RENAME_EXCHANGE) != 0) {
    GTEST_SKIP() << "this file system cannot swap names";
  }
  const auto write = [&] {
    write_folder_atomically(folder / "model", [](const fs::path& temporary) { put(temporary / "x", "1"); });
  };
  write();
  std::atomic<bool> done = false;
  int missing = 0;
  std::thread reader([&] {
    while (!done) missing += ::access((folder / "model/x").c_str(), F_OK) != 0;
  });
  for (int i = 0; i < 100; ++i) write();
  done = true;
  reader.join();
  EXPECT_EQ(missing, 0);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"a", "b", "model"}));
}

// In a container every process may have the same number: what one left when it was killed must not stop the next.
TEST(Files, LeftoversOfTheSameProcessNumberAreSteppedOver) {
  const testing::TemporaryFolder folder;
  std::string name;
  write_folder_atomically(folder / "model", [&](const fs::path& temporary) { name = temporary.filename(); });
  const std::size_t dash = name.rfind('-');
  const int number = std::stoi(name.substr(dash + 1));
  for (int next = number + 1; next < number + 8; ++next) {
    put(folder / (name.substr(0, dash + 1) + std::to_string(next)), "left");
    put(folder / (".x" + name.substr(std::string(".model").size(), dash + 1 - 6) + std::to_string(next)), "left");
  }
  EXPECT_NO_THROW(write_file_atomically(folder / "x", "text"));
  EXPECT_NO_THROW(
      write_folder_atomically(folder / "model", [](const fs::path& temporary) { put(temporary / "a", "1"); }));
  EXPECT_EQ(read_file(folder / "x"), "text");
  EXPECT_EQ(read_file(folder / "model/a"), "1");
}

// std::filesystem's own exceptions must not come through.
TEST(Files, PathsThatCannotBeLookedAtAreInputOrResourceErrors) {
  const testing::TemporaryFolder folder;
  fs::create_symlink("loop", folder / "loop");
  const std::string too_long(300, 'x');
  for (const fs::path& bad : {folder / "loop/x", folder / too_long}) {
    EXPECT_THROW(read_file(bad), InputError);
    EXPECT_THROW(write_file_atomically(bad, "text"), ResourceError);
    EXPECT_THROW(write_folder_atomically(bad, [](const fs::path&) {}), ResourceError);
    EXPECT_THROW(AppendFile{bad}, ResourceError);
    EXPECT_NO_THROW(remove_unfinished(bad));
  }
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
