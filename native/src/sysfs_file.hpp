// A file of sysfs that is kept open.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace piqi {

/// An open sysfs file. Every access is at offset 0, as sysfs wants it, and none allocates.
class SysfsFile {
 public:
  SysfsFile() = default;
  SysfsFile(const std::string& path, int flags) : file_(open(path.c_str(), flags | O_CLOEXEC)) {}
  ~SysfsFile() { reset(); }
  SysfsFile(SysfsFile&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  SysfsFile& operator=(SysfsFile&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }

  bool is_open() const { return file_ >= 0; }
  void reset() {
    if (is_open()) close(std::exchange(file_, -1));
  }

  /// False, with errno, if the kernel refuses.
  bool write(const char* text) const {
    char line[64];
    const int length = std::snprintf(line, sizeof(line), "%s\n", text);
    return pwrite(file_, line, static_cast<size_t>(length), 0) == length;
  }
  bool write(uint64_t value) const {
    char digits[24];
    std::snprintf(digits, sizeof(digits), "%llu", static_cast<unsigned long long>(value));
    return write(digits);
  }

  /// The first line, in `line`; false, with errno, if the kernel refuses.
  template <size_t N>
  bool read(char (&line)[N]) const {
    const ssize_t length = pread(file_, line, N - 1, 0);
    if (length < 0) return false;
    line[length] = '\0';
    line[std::strcspn(line, "\n")] = '\0';
    return true;
  }
  /// The first line as a number: "<unsupported>", "undefined" and a refusal are none.
  std::optional<uint64_t> read_number() const {
    char line[64];
    if (!is_open() || !read(line)) return std::nullopt;
    char* end = nullptr;
    const uint64_t value = std::strtoull(line, &end, 10);
    return end != line && *end == '\0' ? std::optional<uint64_t>(value) : std::nullopt;
  }

 private:
  int file_ = -1;
};

}  // namespace piqi
