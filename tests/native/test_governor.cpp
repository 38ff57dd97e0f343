// The sysfs governor on trees of our own. Files of a tree keep what is written behind the first line, as the
// kernel's do not: only the first line counts. What is deleted answers to those that had it open as the
// kernel does: see pwrite().
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

#include "piqi/error.hpp"
#include "piqi/governor.hpp"

namespace {

namespace fs = std::filesystem;

const std::vector<uint64_t> opps_khz = {408000, 600000, 816000, 1008000};

/// A temporary folder that stands for "/".
class Tree {
 public:
  Tree() {
    std::string name = (fs::temp_directory_path() / "piqi-sysfs-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    root_ = name;
    fs::permissions(root_, fs::perms::others_exec | fs::perms::others_read, fs::perm_options::add);
  }
  ~Tree() { fs::remove_all(root_); }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  std::string root() const { return root_.string(); }
  fs::path path(const std::string& name) const { return root_ / name; }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(path(name).parent_path());
    std::ofstream(path(name)) << text << "\n";
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name));
    std::string line;
    std::getline(file, line);
    return line;
  }

  void add_cpufreq(const std::string& policy, const std::string& governor, const std::string& speed) const {
    write(policy + "/scaling_governor", governor);
    write(policy + "/scaling_setspeed", speed);
    write(policy + "/scaling_min_freq", "408000");
    write(policy + "/scaling_max_freq", "816000");
  }
  /// `cur_freq` follows what is asked for, as long as nothing limits it.
  void add_devfreq(const std::string& device, const std::string& governor, const std::string& speed) const {
    write(device + "/governor", governor);
    write(device + "/userspace/set_freq", speed);
    fs::create_symlink("userspace/set_freq", path(device + "/cur_freq"));
  }

 private:
  fs::path root_;
};

/// What a write to a file of a tree is refused with, whatever the file; 0: not at all.
std::atomic<int> refusal{0};

std::shared_ptr<piqi::Governor> govern(const Tree& tree, const std::string& folders) {
  return piqi::make_sysfs_governor({{"L", folders, opps_khz}}, tree.root());
}

bool mentions(const std::shared_ptr<piqi::Governor>& governor, const std::string& text) {
  const auto warnings = governor->warnings();
  return warnings.size() == 1 && warnings[0].find(text) != std::string::npos;
}

}  // namespace

/// Stands before libc's for this program: a sysfs file whose device is gone answers ENODEV
/// (kernfs_get_active()).
extern "C" ssize_t pwrite(int file, const void* data, size_t size, off_t offset) {
  struct stat status {};
  const bool gone = fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 0;
  if (gone || refusal != 0) {
    errno = gone ? ENODEV : refusal.load();
    return -1;
  }
  return syscall(SYS_pwrite64, file, data, size, offset);
}

TEST_CASE("governor: cpufreq is set in kHz and put back") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "<unsupported>");
  {
    auto governor = govern(tree, "policy0");
    CHECK(governor->controls(0));
    CHECK(tree.read("policy0/scaling_governor") == "userspace");
    CHECK(governor->request(0, 2));
    CHECK(tree.read("policy0/scaling_setspeed") == "816000");
    CHECK(governor->request(0, 0));
    CHECK(tree.read("policy0/scaling_setspeed") == "408000");
    CHECK(governor->warnings().empty());
  }
  CHECK(tree.read("policy0/scaling_governor") == "schedutil");
  CHECK(tree.read("policy0/scaling_min_freq") == "408000");
  CHECK(tree.read("policy0/scaling_max_freq") == "816000");
}

TEST_CASE("governor: devfreq is set in Hz and put back") {
  Tree tree;
  tree.add_devfreq("gpu", "simple_ondemand", "undefined");
  {
    auto governor = govern(tree, "gpu");
    CHECK(tree.read("gpu/governor") == "userspace");
    CHECK(governor->request(0, 1));
    CHECK(tree.read("gpu/userspace/set_freq") == "600000000");
    CHECK(governor->warnings().empty());
  }
  CHECK(tree.read("gpu/governor") == "simple_ondemand");
}

TEST_CASE("governor: a request for the index in force writes nothing") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  CHECK(governor->request(0, 1));
  tree.write("policy0/scaling_setspeed", "untouched");
  CHECK_FALSE(governor->request(0, 1));
  CHECK(tree.read("policy0/scaling_setspeed") == "untouched");
}

TEST_CASE("governor: where `userspace` was found, its speed is put back") {
  Tree tree;
  tree.add_cpufreq("policy0", "userspace", "600000");
  tree.add_devfreq("gpu", "userspace", "816000000");
  tree.add_devfreq("never_asked", "userspace", "undefined");
  fs::remove(tree.path("never_asked/cur_freq"));
  tree.write("never_asked/cur_freq", "408000000");
  auto governor = govern(tree, "policy0 gpu never_asked");
  CHECK(governor->request(0, 3));
  CHECK(tree.read("policy0/scaling_setspeed") == "1008000");
  CHECK(tree.read("gpu/userspace/set_freq") == "1008000000");
  governor->restore();
  CHECK(tree.read("policy0/scaling_governor") == "userspace");
  CHECK(tree.read("policy0/scaling_setspeed") == "600000");
  CHECK(tree.read("gpu/userspace/set_freq") == "816000000");
  CHECK(tree.read("never_asked/userspace/set_freq") == "408000000");
}

TEST_CASE("governor: restore is idempotent and ends control") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  governor->restore();
  CHECK(tree.read("policy0/scaling_governor") == "schedutil");
  tree.write("policy0/scaling_governor", "powersave");
  governor->restore();
  CHECK(tree.read("policy0/scaling_governor") == "powersave");
  CHECK_FALSE(governor->controls(0));
  CHECK_FALSE(governor->request(0, 1));
  CHECK(tree.read("policy0/scaling_setspeed") == "408000");
}

TEST_CASE("governor: restores at exit() though its owner never destroys it, in its own process only") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  std::cout.flush();  // or the child prints it again
  const pid_t child = fork();
  if (child == 0) {
    static std::shared_ptr<piqi::Governor>* const leaked = new auto(govern(tree, "policy0"));
    (*leaked)->request(0, 1);
    const pid_t grandchild = fork();
    if (grandchild == 0) std::exit(0);
    int status = 0;
    waitpid(grandchild, &status, 0);
    if (tree.read("policy0/scaling_governor") != "userspace") _exit(1);
    std::exit(0);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(tree.read("policy0/scaling_setspeed") == "600000");
  CHECK(tree.read("policy0/scaling_governor") == "schedutil");
}

TEST_CASE("governor: what is missing is one warning with its path and cause") {
  Tree tree;
  SUBCASE("no such folder") {
    auto governor = govern(tree, "policy9");
    CHECK_FALSE(governor->controls(0));
    CHECK_FALSE(governor->request(0, 1));
    CHECK(mentions(governor, "L: " + tree.root() + "/policy9/governor: open: No such file or directory"));
  }
  SUBCASE("no setspeed: the governor found is put back") {
    tree.write("policy0/scaling_governor", "performance");
    auto governor = govern(tree, "policy0");
    CHECK_FALSE(governor->controls(0));
    CHECK(mentions(governor, "policy0/scaling_setspeed: open: No such file or directory"));
    CHECK(tree.read("policy0/scaling_governor") == "performance");
  }
  SUBCASE("a folder in place of a file") {
    fs::create_directories(tree.path("policy0/scaling_governor"));
    CHECK(mentions(govern(tree, "policy0"), "policy0/scaling_governor: open: Is a directory"));
  }
  SUBCASE("a kernel that refuses the governor") {
    fs::create_directories(tree.path("policy0"));
    fs::create_symlink("/dev/full", tree.path("policy0/scaling_governor"));
    CHECK(mentions(govern(tree, "policy0"), "policy0/scaling_governor: write 'userspace': No space left"));
  }
  SUBCASE("a kernel that ignores the governor") {
    fs::create_directories(tree.path("policy0"));
    fs::create_symlink("/dev/null", tree.path("policy0/scaling_governor"));
    CHECK(mentions(govern(tree, "policy0"), "policy0/scaling_governor: is '' after writing 'userspace'"));
  }
  SUBCASE("a kernel that refuses the first speed: the governor found is put back") {
    tree.write("policy0/scaling_governor", "performance");
    fs::create_symlink("/dev/full", tree.path("policy0/scaling_setspeed"));
    auto governor = govern(tree, "policy0");
    CHECK(governor->controls(0));
    CHECK_FALSE(governor->request(0, 1));
    CHECK_FALSE(governor->controls(0));
    CHECK(mentions(governor, "policy0/scaling_setspeed: write: No space left on device"));
    CHECK(tree.read("policy0/scaling_governor") == "performance");
  }
}

TEST_CASE("governor: no permission is one warning, and nothing is changed") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  for (const char* name : {"policy0/scaling_governor", "policy0/scaling_setspeed"})
    fs::permissions(tree.path(name), fs::perms::owner_read | fs::perms::others_read);
  const bool root = geteuid() == 0;  // to whom permissions do not apply
  if (root) REQUIRE(seteuid(65534) == 0);
  auto governor = govern(tree, "policy0");
  if (root) REQUIRE(seteuid(0) == 0);
  CHECK_FALSE(governor->controls(0));
  CHECK_FALSE(governor->request(0, 1));
  CHECK(mentions(governor, "policy0/scaling_governor: open: Permission denied"));
  CHECK(tree.read("policy0/scaling_governor") == "schedutil");
}

TEST_CASE("governor: a write that worked before and fails is an error, and the next one may work again") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  CHECK(governor->request(0, 1));

  // The kernel refuses writes to files beyond this size: any, for a moment.
  rlimit found{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &found) == 0);
  const auto found_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit none{0, found.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &none) == 0);
  std::string message;
  try {
    governor->request(0, 2);
  } catch (const piqi::DeviceError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &found);
  std::signal(SIGXFSZ, found_handler);

  CHECK(message == "L: " + tree.root() + "/policy0/scaling_setspeed: write: File too large");
  CHECK(governor->controls(0));
  CHECK(governor->request(0, 1));  // what is in force is unknown now, so the same index is written again
  CHECK(tree.read("policy0/scaling_setspeed") == "600000");
}

TEST_CASE("governor: a processor that goes is done without, and taken again when it comes back") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  CHECK(governor->request(0, 1));
  CHECK(governor->in_force(0) == 1);

  fs::remove_all(tree.path("policy0"));
  CHECK_FALSE(governor->request(0, 2));
  CHECK_FALSE(governor->controls(0));
  CHECK(governor->in_force(0) == piqi::Governor::unknown);
  for (int i = 0; i < 1000; ++i) CHECK_FALSE(governor->request(0, 2));
  CHECK(mentions(governor, "L: " + tree.root() +
                               "/policy0/scaling_governor: open: No such file or directory (lost 1 time)"));

  tree.add_cpufreq("policy0", "performance", "408000");  // as the kernel brings it back
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!governor->request(0, 2) && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(governor->controls(0));
  CHECK(tree.read("policy0/scaling_governor") == "userspace");
  CHECK(tree.read("policy0/scaling_setspeed") == "816000");
  CHECK(mentions(governor, "(lost 1 time, taken again)"));
  governor.reset();
  CHECK(tree.read("policy0/scaling_governor") == "schedutil");  // what was found at first
}

TEST_CASE("governor: a processor that is gone at the end is left to the kernel") {
  Tree tree;
  tree.add_devfreq("gpu", "simple_ondemand", "undefined");
  auto governor = govern(tree, "gpu");
  CHECK(governor->request(0, 1));
  fs::remove_all(tree.path("gpu"));
  CHECK_FALSE(governor->request(0, 2));
  governor->restore();
  CHECK_FALSE(governor->request(0, 1));
  CHECK(!fs::exists(tree.path("gpu")));
}

TEST_CASE("governor: an offline CPU's policy that stays refuses and is asked again, but not at every layer") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  CHECK(governor->request(0, 1));
  refusal = EBUSY;
  for (int i = 0; i < 1000; ++i) CHECK_FALSE(governor->request(0, 2));
  refusal = 0;
  REQUIRE(governor->warnings().size() == 1);
  CHECK(governor->warnings()[0].find("Device or resource busy (lost ") != std::string::npos);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!governor->request(0, 2) && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(tree.read("policy0/scaling_setspeed") == "816000");
}

TEST_CASE("governor: another program's governor is taken over again, and so is its speed") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  const auto asked = std::chrono::steady_clock::now();
  CHECK(governor->request(0, 1));
  SUBCASE("its governor") {
    tree.write("policy0/scaling_governor", "performance");
  }
  SUBCASE("its speed") {
    tree.write("policy0/scaling_setspeed", "1008000");
  }
  const bool at_once = governor->request(0, 1);
  if (std::chrono::steady_clock::now() - asked < std::chrono::seconds(1))
    CHECK_FALSE(at_once);  // in force: nothing is looked at
  if (!at_once) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1050));
    CHECK(governor->request(0, 1));  // once a second it is
  }
  CHECK(tree.read("policy0/scaling_governor") == "userspace");
  CHECK(tree.read("policy0/scaling_setspeed") == "600000");
  CHECK(governor->warnings().size() == 1);
  governor.reset();
  CHECK(tree.read("policy0/scaling_governor") == "schedutil");
}

TEST_CASE("governor: tells what is in force") {
  Tree tree;
  tree.add_cpufreq("policy4", "schedutil", "408000");
  tree.add_cpufreq("policy6", "schedutil", "408000");
  auto governor = piqi::make_sysfs_governor({{"B", "policy4 policy6", opps_khz}, {"L", "policy6", opps_khz}},
                                            tree.root());
  CHECK(governor->in_force(0) == piqi::Governor::unknown);
  governor->request(0, 2);
  CHECK(governor->in_force(0) == 2);
  CHECK(governor->in_force(1) == 2);
  governor->request(1, 0);
  CHECK(governor->in_force(0) == piqi::Governor::unknown);  // its clusters differ now
  governor->restore();
  CHECK(governor->in_force(1) == piqi::Governor::unknown);
}

TEST_CASE("governor: a speed that is not reached is counted, and stays controlled") {
  Tree tree;
  tree.add_devfreq("gpu", "simple_ondemand", "undefined");
  fs::remove(tree.path("gpu/cur_freq"));
  tree.write("gpu/cur_freq", "594000000");  // 1 % below index 1: what a clock divider makes of it
  auto governor = govern(tree, "gpu");
  CHECK(governor->request(0, 1));
  CHECK(governor->warnings().empty());
  CHECK(governor->request(0, 2));
  CHECK(mentions(governor, "asked for 816000 kHz, runs at 594000 kHz (1 time)"));
  CHECK(governor->request(0, 3));
  CHECK(mentions(governor, "asked for 1008000 kHz, runs at 594000 kHz (2 times)"));
  CHECK(governor->controls(0));
}

TEST_CASE("governor: a processor of two clusters sets both or neither") {
  Tree tree;
  tree.add_cpufreq("policy4", "schedutil", "408000");
  SUBCASE("both") {
    tree.add_cpufreq("policy6", "ondemand", "408000");
    auto governor = govern(tree, "policy4 policy6");
    CHECK(governor->request(0, 3));
    CHECK(tree.read("policy4/scaling_setspeed") == "1008000");
    CHECK(tree.read("policy6/scaling_setspeed") == "1008000");
    governor->restore();
    CHECK(tree.read("policy4/scaling_governor") == "schedutil");
    CHECK(tree.read("policy6/scaling_governor") == "ondemand");
  }
  SUBCASE("neither") {
    auto governor = govern(tree, "policy4 policy6");
    CHECK_FALSE(governor->controls(0));
    CHECK_FALSE(governor->request(0, 3));
    CHECK(tree.read("policy4/scaling_governor") == "schedutil");
    CHECK(tree.read("policy4/scaling_setspeed") == "408000");
  }
}

TEST_CASE("governor: two processors on one cluster see each other's requests") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor =
      piqi::make_sysfs_governor({{"L", "policy0", opps_khz}, {"B", "policy0", opps_khz}}, tree.root());
  CHECK(governor->request(0, 1));
  CHECK(governor->request(1, 2));
  CHECK(governor->request(0, 1));
  CHECK(tree.read("policy0/scaling_setspeed") == "600000");
  governor.reset();
  CHECK(tree.read("policy0/scaling_governor") == "schedutil");
}

TEST_CASE("governor: indices outside the tables are errors") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  CHECK_THROWS_WITH_AS(governor->request(0, 4), "L: frequency index 4 is outside its table of 4",
                       piqi::DeviceError);
  CHECK_THROWS_WITH_AS(governor->request(1, 0), "frequency domain 1 of 1", piqi::DeviceError);
}

TEST_CASE("governor: requests from several threads leave the last one in force") {
  Tree tree;
  tree.add_cpufreq("policy0", "schedutil", "408000");
  auto governor = govern(tree, "policy0");
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 200; ++i) governor->request(0, (i + t) % opps_khz.size());
    });
  for (std::thread& thread : threads) thread.join();
  governor->request(0, 1);
  CHECK(std::stoull(tree.read("policy0/scaling_setspeed")) == opps_khz[1]);
}

TEST_CASE("governor: the null governor controls nothing") {
  auto governor = piqi::make_null_governor({{"L", "policy0", opps_khz}});
  CHECK_FALSE(governor->controls(0));
  CHECK_FALSE(governor->request(0, 1));
  governor->restore();
  CHECK(governor->warnings().empty());
}
