// GPIO through the kernel's character device (Documentation/userspace-api/gpio/chardev.rst), without
// libgpiod.
#include <fcntl.h>
#include <linux/gpio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "piqi/error.hpp"
#include "piqi/power_marker.hpp"

namespace piqi {
namespace {

class GpioMarker final : public PowerMarker {
 public:
  GpioMarker(const std::string& device, unsigned line) : name_(device + " line " + std::to_string(line)) {
    const int chip = open(device.c_str(), O_RDWR | O_CLOEXEC);
    if (chip < 0) fail("open");
    gpio_v2_line_request request{};
    request.offsets[0] = line;
    request.num_lines = 1;
    request.config.flags = GPIO_V2_LINE_FLAG_OUTPUT;  // an output without a given value starts low
    std::strncpy(request.consumer, "piqi", sizeof(request.consumer) - 1);
    const int result = ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request);
    const int error = errno;
    close(chip);
    errno = error;
    if (result < 0) fail("request as output");
    line_ = request.fd;
  }

  ~GpioMarker() override { close(line_); }
  GpioMarker(const GpioMarker&) = delete;
  GpioMarker& operator=(const GpioMarker&) = delete;

  void mark(size_t) override {
    std::lock_guard<std::mutex> lock(mutex_);  // pipeline mode marks from several threads
    gpio_v2_line_values values{};
    values.mask = 1;
    values.bits = high_ ? 0 : 1;
    if (ioctl(line_, GPIO_V2_LINE_SET_VALUES_IOCTL, &values) < 0) fail("set");
    high_ = !high_;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw DeviceError(name_ + ": " + what + ": " + std::strerror(errno));
  }

  const std::string name_;
  std::mutex mutex_;
  int line_ = -1;
  bool high_ = false;
};

}  // namespace

std::shared_ptr<PowerMarker> make_gpio_marker(const std::string& device, unsigned line) {
  return std::make_shared<GpioMarker>(device, line);
}

}  // namespace piqi
