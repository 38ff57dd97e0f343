// A GPIO line that toggles: through the kernel's character device
// (Documentation/userspace-api/gpio/chardev.rst, chardev_v1.rst), without libgpiod, or through the older
// sysfs (Documentation/userspace-api/gpio/sysfs.rst), which is all that kernels before 4.8 have.
#include <fcntl.h>
#include <linux/gpio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "piqi/error.hpp"
#include "piqi/power_marker.hpp"

namespace piqi {
namespace {

class TogglingMarker : public PowerMarker {
 public:
  explicit TogglingMarker(std::string name) : name_(std::move(name)) {}
  ~TogglingMarker() override {
    if (file_ >= 0) close(file_);
  }
  TogglingMarker(const TogglingMarker&) = delete;
  TogglingMarker& operator=(const TogglingMarker&) = delete;

  void mark(size_t) final {
    std::lock_guard<std::mutex> lock(mutex_);  // pipeline mode marks from several threads
    if (!set(!high_)) fail("set");
    high_ = !high_;
  }

 protected:
  /// False, with errno, if the kernel refuses.
  virtual bool set(bool high) = 0;
  [[noreturn]] void fail(const char* what, const std::string& hint = "") const {
    throw DeviceError(name_ + ": " + what + ": " + std::strerror(errno) + hint);
  }

  int file_ = -1;  // the line

 private:
  const std::string name_;
  std::mutex mutex_;
  bool high_ = false;
};

class GpioMarker final : public TogglingMarker {
 public:
  GpioMarker(const std::string& device, unsigned line)
      : TogglingMarker(device + " line " + std::to_string(line)) {
    const int chip = open(device.c_str(), O_RDWR | O_CLOEXEC);
    if (chip < 0) fail("open");
    file_ = request(chip, line);
    const int error = errno;
    close(chip);
    errno = error;
    if (file_ < 0) fail("request as output");
  }

 private:
  int request(int chip, unsigned line) {
    gpio_v2_line_request request{};
    request.offsets[0] = line;
    request.num_lines = 1;
    request.config.flags = GPIO_V2_LINE_FLAG_OUTPUT;  // an output without a given value starts low
    std::strncpy(request.consumer, "piqi", sizeof(request.consumer) - 1);
    if (ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request) == 0) return request.fd;
    if (errno != EINVAL && errno != ENOTTY) return -1;

    // What kernels before 5.10 answer to uAPI v2, and others to a line that is not there.
    const int error = errno;
    gpiohandle_request older{};
    older.lineoffsets[0] = line;
    older.lines = 1;
    older.flags = GPIOHANDLE_REQUEST_OUTPUT;
    std::strncpy(older.consumer_label, "piqi", sizeof(older.consumer_label) - 1);
    if (ioctl(chip, GPIO_GET_LINEHANDLE_IOCTL, &older) == 0) {
      version_ = 1;
      return older.fd;
    }
    if (errno == ENOTTY) errno = error;
    return -1;
  }

  bool set(bool high) override {
    if (version_ == 1) {
      gpiohandle_data data{};
      data.values[0] = high;
      return ioctl(file_, GPIOHANDLE_SET_LINE_VALUES_IOCTL, &data) == 0;
    }
    gpio_v2_line_values values{};
    values.mask = 1;
    values.bits = high;
    return ioctl(file_, GPIO_V2_LINE_SET_VALUES_IOCTL, &values) == 0;
  }

  int version_ = 2;
};

class SysfsGpioMarker final : public TogglingMarker {
 public:
  explicit SysfsGpioMarker(const std::string& path) : TogglingMarker(path) {
    struct stat status {};
    is_fifo_ = stat(path.c_str(), &status) == 0 && S_ISFIFO(status.st_mode);
    // A FIFO that nobody reads neither blocks us nor kills us: its own reader is here, and it can be full.
    file_ = open(path.c_str(), (is_fifo_ ? O_RDWR | O_NONBLOCK : O_WRONLY) | O_CLOEXEC);
    if (file_ < 0) fail("open", how_to_export(path));
    if (!is_fifo_ && !set(false)) fail("set", how_to_export(path));  // an input refuses
  }

 private:
  static std::string how_to_export(const std::string& path) {
    const size_t end = path.rfind('/');
    const std::string folder = path.substr(0, end == std::string::npos ? 0 : end);
    const size_t digits = folder.find_last_not_of("0123456789") + 1;
    const std::string number = digits < folder.size() ? folder.substr(digits) : "N";
    const std::string parent = folder.substr(0, folder.rfind('/') + 1);
    return " (a line is made an output by: echo " + number + " > " + parent + "export; echo out > " + folder +
           "/direction)";
  }

  bool set(bool high) override {
    const char level = high ? '1' : '0';
    return (is_fifo_ ? write(file_, &level, 1) : pwrite(file_, &level, 1, 0)) == 1;
  }

  bool is_fifo_ = false;
};

}  // namespace

std::shared_ptr<PowerMarker> make_gpio_marker(const std::string& device, unsigned line) {
  return std::make_shared<GpioMarker>(device, line);
}

std::shared_ptr<PowerMarker> make_sysfs_gpio_marker(const std::string& path) {
  return std::make_shared<SysfsGpioMarker>(path);
}

}  // namespace piqi
