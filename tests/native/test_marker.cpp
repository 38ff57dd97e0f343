// The GPIO marker against the kernel's ABI. Where a simulated chip exists (modprobe gpio-sim), PIQI_GPIO_CHIP
// names it and its line 0 is driven for real; everywhere, ioctl() below answers as the kernel does for one
// path.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "piqi/error.hpp"
#include "piqi/power_marker.hpp"

namespace {

constexpr unsigned line_count = 8;

/// A chip of 8 lines behind an ordinary file: what the ioctls of one process see of it.
class Chip {
 public:
  Chip() {
    const int file = mkstemp(path_);
    REQUIRE(file >= 0);
    close(file);
    struct stat status {};
    REQUIRE(stat(path_, &status) == 0);
    inode_ = status.st_ino;
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends_) == 0);
    current = this;
  }
  ~Chip() {
    current = nullptr;
    unlink(path_);
    close(ends_[0]);
    if (!taken_) close(ends_[1]);
  }
  Chip(const Chip&) = delete;
  Chip& operator=(const Chip&) = delete;

  const char* path() const { return path_; }
  const gpio_v2_line_request& request() const { return request_; }
  const gpiohandle_request& older_request() const { return older_request_; }
  /// 1: what kernels from 4.8 to 5.9 answer; 2: all.
  int version = 2;
  /// The levels that were set since the last call, oldest first.
  std::string levels() const {
    std::string text;
    for (char level; recv(ends_[0], &level, 1, 0) == 1;) text += level;
    return text;
  }

  /// drivers/gpio/gpiolib-cdev.c, linereq_create().
  int take_line(gpio_v2_line_request& request) {
    if (version < 2) return EINVAL;
    if (request.num_lines != 1) return EINVAL;
    if (request.offsets[0] >= line_count) return EINVAL;
    if ((request.config.flags & GPIO_V2_LINE_FLAG_OUTPUT) == 0) return EINVAL;
    if (taken_) return EBUSY;
    taken_ = true;
    request.fd = ends_[1];
    request_ = request;
    return 0;
  }
  /// linehandle_create().
  int take_line(gpiohandle_request& request) {
    if (request.lines != 1 || request.lineoffsets[0] >= line_count) return EINVAL;
    if (request.flags != GPIOHANDLE_REQUEST_OUTPUT) return EINVAL;
    if (taken_) return EBUSY;
    taken_ = true;
    request.fd = ends_[1];
    older_request_ = request;
    request_.fd = request.fd;
    return 0;
  }
  /// linereq_set_values().
  int set_values(int file, const gpio_v2_line_values& values) const {
    if (values.mask != 1) return EINVAL;
    return set(file, (values.bits & 1) != 0);
  }
  /// linehandle_ioctl().
  int set_values(int file, const gpiohandle_data& data) const { return set(file, data.values[0] != 0); }
  int set(int file, bool high) const {
    const char level = high ? '1' : '0';
    return send(file, &level, 1, MSG_NOSIGNAL) == 1 ? 0 : ENODEV;  // ENODEV: the chip is gone
  }
  bool is_chip(int file) const {
    struct stat status {};
    return fstat(file, &status) == 0 && status.st_ino == inode_;
  }
  bool is_line(int file) const { return taken_ && file == request_.fd; }
  void unplug() { shutdown(ends_[0], SHUT_RDWR); }

  static Chip* current;

 private:
  char path_[32] = "/tmp/piqi-gpiochip-XXXXXX";
  ino_t inode_ = 0;
  int ends_[2] = {-1, -1};
  bool taken_ = false;
  gpio_v2_line_request request_{};
  gpiohandle_request older_request_{};
};

Chip* Chip::current = nullptr;

}  // namespace

/// Stands before libc's for this program: GPIO requests for the chip above are answered here, all else by the
/// kernel.
extern "C" int ioctl(int file, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  Chip* const chip = Chip::current;
  int error = -1;
  if (chip != nullptr && request == GPIO_V2_GET_LINE_IOCTL && chip->is_chip(file))
    error = chip->take_line(*static_cast<gpio_v2_line_request*>(argument));
  else if (chip != nullptr && request == GPIO_V2_LINE_SET_VALUES_IOCTL && chip->is_line(file))
    error = chip->set_values(file, *static_cast<gpio_v2_line_values*>(argument));
  else if (chip != nullptr && request == GPIO_GET_LINEHANDLE_IOCTL && chip->is_chip(file))
    error = chip->take_line(*static_cast<gpiohandle_request*>(argument));
  else if (chip != nullptr && request == GPIOHANDLE_SET_LINE_VALUES_IOCTL && chip->is_line(file))
    error = chip->set_values(file, *static_cast<gpiohandle_data*>(argument));
  if (error < 0) return static_cast<int>(syscall(SYS_ioctl, file, request, argument));
  errno = error;
  return error == 0 ? 0 : -1;
}

TEST_CASE("marker: asks for one output, by name, and toggles it") {
  Chip chip;
  auto marker = piqi::make_gpio_marker(chip.path(), 5);
  CHECK(chip.request().offsets[0] == 5);
  CHECK(chip.request().num_lines == 1);
  CHECK(chip.request().config.flags == GPIO_V2_LINE_FLAG_OUTPUT);
  CHECK(chip.request().config.num_attrs == 0);
  CHECK(std::string(chip.request().consumer) == "piqi");
  CHECK(chip.levels().empty());
  for (size_t layer = 0; layer < 5; ++layer) marker->mark(layer);
  CHECK(chip.levels() == "10101");
}

TEST_CASE("marker: gives the line back") {
  Chip chip;
  const int line = [&] {
    auto marker = piqi::make_gpio_marker(chip.path(), 0);
    return chip.request().fd;
  }();
  CHECK(fcntl(line, F_GETFD) == -1);
  CHECK(errno == EBADF);
}

TEST_CASE("marker: marks of several threads alternate") {
  Chip chip;
  auto marker = piqi::make_gpio_marker(chip.path(), 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      for (size_t layer = 0; layer < 50; ++layer) marker->mark(layer);
    });
  for (std::thread& thread : threads) thread.join();
  std::string expected;
  for (int i = 0; i < 50; ++i) expected += "10";
  CHECK(chip.levels() == expected);
}

TEST_CASE("marker: errors name the device, the line and the cause") {
  const auto message = [](const std::string& device, unsigned line) -> std::string {
    try {
      piqi::make_gpio_marker(device, line);
    } catch (const piqi::DeviceError& error) {
      return error.what();
    }
    return "no error";
  };
  CHECK(message("/nowhere/gpiochip0", 3) == "/nowhere/gpiochip0 line 3: open: No such file or directory");
  CHECK(message("/dev/null", 3) ==
        "/dev/null line 3: request as output: Inappropriate ioctl for device");  // the kernel's own answer
  Chip chip;
  const std::string name = chip.path();
  CHECK(message(name, 8) == name + " line 8: request as output: Invalid argument");
  auto marker = piqi::make_gpio_marker(name, 2);
  CHECK(message(name, 2) == name + " line 2: request as output: Device or resource busy");
  chip.unplug();
  CHECK_THROWS_WITH_AS(marker->mark(0), (name + " line 2: set: No such device").c_str(), piqi::DeviceError);
}

TEST_CASE("marker: kernels without uAPI v2 are asked by v1") {
  Chip chip;
  chip.version = 1;
  auto marker = piqi::make_gpio_marker(chip.path(), 5);
  CHECK(chip.older_request().lineoffsets[0] == 5);
  CHECK(chip.older_request().default_values[0] == 0);
  CHECK(std::string(chip.older_request().consumer_label) == "piqi");
  for (size_t layer = 0; layer < 5; ++layer) marker->mark(layer);
  CHECK(chip.levels() == "10101");
  const std::string name = chip.path();
  CHECK_THROWS_WITH_AS(piqi::make_gpio_marker(name, 2),
                       (name + " line 2: request as output: Device or resource busy").c_str(),
                       piqi::DeviceError);
}

namespace {

/// A temporary folder.
class Folder {
 public:
  Folder() { REQUIRE(mkdtemp(path_) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + ("/" + name); }

 private:
  char path_[32] = "/tmp/piqi-gpio-XXXXXX";
};

std::string content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("marker: the value of a line of the older sysfs starts low and toggles") {
  Folder folder;
  const std::string path = folder / "value";
  std::ofstream(path) << "1";
  auto marker = piqi::make_sysfs_gpio_marker(path);
  CHECK(content(path) == "0");
  marker->mark(0);
  CHECK(content(path) == "1");
  marker->mark(1);
  CHECK(content(path) == "0");
}

TEST_CASE("marker: a FIFO gets a byte a mark, and one that nobody reads neither blocks nor kills") {
  Folder folder;
  const std::string path = folder / "value";
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  auto marker = piqi::make_sysfs_gpio_marker(path);
  const int reader = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(reader >= 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      for (size_t layer = 0; layer < 50; ++layer) marker->mark(layer);
    });
  for (std::thread& thread : threads) thread.join();
  char bytes[256];
  const ssize_t count = read(reader, bytes, sizeof(bytes));
  std::string expected;
  for (int i = 0; i < 50; ++i) expected += "10";
  CHECK(std::string(bytes, static_cast<size_t>(count)) == expected);
  close(reader);
  CHECK_THROWS_WITH_AS(
      [&] {
        for (size_t i = 0; i < (1 << 21); ++i) marker->mark(i);
      }(),
      (path + ": set: Resource temporarily unavailable").c_str(), piqi::DeviceError);
}

TEST_CASE("marker: a line that was not exported, or is no output, says how") {
  const auto message = [](const std::string& path) -> std::string {
    try {
      piqi::make_sysfs_gpio_marker(path);
    } catch (const piqi::DeviceError& error) {
      return error.what();
    }
    return "no error";
  };
  CHECK(message("/nowhere/gpio/gpio39/value") ==
        "/nowhere/gpio/gpio39/value: open: No such file or directory (a line is made an output by: echo 39 > "
        "/nowhere/gpio/export; echo out > /nowhere/gpio/gpio39/direction)");
  Folder folder;
  std::filesystem::create_symlink("/dev/full", folder / "value");
  CHECK(
      message(folder / "value").find(": set: No space left on device (a line is made an output by: echo ") !=
      std::string::npos);
}

TEST_CASE("marker: drives a real line" * doctest::skip(std::getenv("PIQI_GPIO_CHIP") == nullptr)) {
  auto marker = piqi::make_gpio_marker(std::getenv("PIQI_GPIO_CHIP"), 0);
  for (size_t layer = 0; layer < 4; ++layer) marker->mark(layer);
  CHECK_THROWS_AS(piqi::make_gpio_marker(std::getenv("PIQI_GPIO_CHIP"), 0), piqi::DeviceError);
}

TEST_CASE("marker: the null marker does nothing") {
  piqi::make_null_marker()->mark(0);
}
