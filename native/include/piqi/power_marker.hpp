// Tells a power meter where a layer begins.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace piqi {

/// Interface. mark() is called as each layer begins, from the thread that runs it; it never allocates.
class PowerMarker {
 public:
  virtual ~PowerMarker() = default;
  virtual void mark(size_t layer) = 0;
};

std::shared_ptr<PowerMarker> make_null_marker();

/// A line of a GPIO character device ("/dev/gpiochip1") that toggles at each mark, through the kernel's uAPI
/// v2 (GPIO_V2_GET_LINE_IOCTL). Throws DeviceError naming the device and the line.
std::shared_ptr<PowerMarker> make_gpio_marker(const std::string& device, unsigned line);

}  // namespace piqi
