// cpufreq (Documentation/admin-guide/pm/cpufreq.rst) and devfreq
// (Documentation/ABI/testing/sysfs-class-devfreq) with the `userspace` governor.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <sstream>
#include <utility>

#include "piqi/error.hpp"
#include "piqi/governor.hpp"

namespace piqi {
namespace {

constexpr char userspace[] = "userspace";

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

/// One folder of sysfs: takes it over, sets its frequency, gives it back. Several domains may share it.
class Control {
 public:
  Control(std::string processor, std::string folder)
      : processor_(std::move(processor)), folder_(std::move(folder)) {
    const bool is_cpu = access((folder_ + "/scaling_governor").c_str(), F_OK) == 0;
    governor_path_ = folder_ + (is_cpu ? "/scaling_governor" : "/governor");
    speed_path_ = folder_ + (is_cpu ? "/scaling_setspeed" : "/userspace/set_freq");
    hz_per_unit_ = is_cpu ? 1000 : 1;
    taken_ = take(is_cpu);
    if (!taken_) give_back();
  }
  ~Control() { restore(); }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  const std::string& folder() const { return folder_; }

  bool taken() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return taken_;
  }

  bool set(uint64_t freq_khz) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!taken_ || freq_khz == freq_khz_) return false;
    if (!speed_.write(freq_khz * 1000 / hz_per_unit_)) {
      const std::string problem = describe(speed_path_, "write");
      freq_khz_ = 0;
      if (worked_) throw DeviceError(problem);
      problem_ = problem;
      taken_ = false;
      give_back();
      return false;
    }
    worked_ = true;
    freq_khz_ = freq_khz;
    read_back();
    return true;
  }

  void restore() noexcept {
    std::lock_guard<std::mutex> lock(mutex_);
    taken_ = false;
    give_back();
  }

  /// Empty if all is well.
  std::string warning() const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!problem_.empty()) return problem_;
    if (mismatches_ == 0) return "";
    std::ostringstream text;
    text << processor_ << ": " << speed_path_ << ": asked for " << asked_khz_ << " kHz, runs at " << got_khz_
         << " kHz (" << mismatches_ << (mismatches_ == 1 ? " time)" : " times)");
    return text.str();
  }

 private:
  bool take(bool is_cpu) {
    governor_ = SysfsFile(governor_path_, O_RDWR);
    if (!governor_.is_open()) return note(governor_path_, "open");
    if (!governor_.read(found_governor_)) return note(governor_path_, "read");
    // What the hardware runs at. cpufreq's setspeed reads as that; devfreq's set_freq reads as what was
    // asked, and as nothing before anything was asked.
    if (!is_cpu) actual_ = SysfsFile(folder_ + "/cur_freq", O_RDONLY);
    if (std::strcmp(found_governor_, userspace) == 0) {
      speed_ = SysfsFile(speed_path_, O_RDWR);
      found_speed_ = speed_.read_number();
      if (!found_speed_) found_speed_ = actual_.read_number();
    }
    held_ = true;
    if (!governor_.write(userspace)) return note(governor_path_, "write 'userspace'");
    char now[sizeof(found_governor_)];
    if (!governor_.read(now)) return note(governor_path_, "read");
    if (std::strcmp(now, userspace) != 0) {
      problem_ = processor_ + ": " + governor_path_ + ": is '" + now + "' after writing 'userspace'";
      return false;
    }
    // devfreq has set_freq only while its governor is `userspace`.
    if (!speed_.is_open()) speed_ = SysfsFile(speed_path_, O_RDWR);
    if (!speed_.is_open()) return note(speed_path_, "open");
    return true;
  }

  void read_back() {
    const std::optional<uint64_t> speed = (actual_.is_open() ? actual_ : speed_).read_number();
    if (!speed) return;
    const uint64_t got_khz = *speed * hz_per_unit_ / 1000;
    // Clock dividers do not hit every OPP exactly: what is within 2 % of it is that OPP.
    const uint64_t difference = got_khz > freq_khz_ ? got_khz - freq_khz_ : freq_khz_ - got_khz;
    if (difference * 50 <= freq_khz_) return;
    ++mismatches_;
    asked_khz_ = freq_khz_;
    got_khz_ = got_khz;
  }

  void give_back() noexcept {
    if (held_ && getpid() == owner_) {  // a forked child that exits leaves the board to its parent
      // Nothing can be done about a refusal here.
      if (found_speed_ && speed_.is_open())
        (void)speed_.write(*found_speed_);
      else
        (void)governor_.write(found_governor_);
    }
    held_ = false;
    governor_.reset();
    speed_.reset();
    actual_.reset();
  }

  std::string describe(const std::string& path, const char* what) const {
    const int error = errno;
    return processor_ + ": " + path + ": " + what + ": " + std::strerror(error);
  }
  bool note(const std::string& path, const char* what) {
    problem_ = describe(path, what);
    return false;
  }

  const std::string processor_;
  const std::string folder_;
  const pid_t owner_ = getpid();
  std::string governor_path_;
  std::string speed_path_;
  uint64_t hz_per_unit_ = 1;

  mutable std::mutex mutex_;
  SysfsFile governor_;
  SysfsFile speed_;
  SysfsFile actual_;
  char found_governor_[32] = "";
  std::optional<uint64_t> found_speed_;
  bool held_ = false;   // something may have been written that has to be put back
  bool taken_ = false;  // set() works
  bool worked_ = false;
  uint64_t freq_khz_ = 0;  // last asked for; 0: unknown
  std::string problem_;
  uint64_t mismatches_ = 0, asked_khz_ = 0, got_khz_ = 0;
};

/// Governors that are alive when the program calls exit(): their owners may never be destroyed (an
/// interpreter does not destroy everything), and the board must not stay at the last frequency.
class AtExit {
 public:
  static AtExit& instance() {
    static AtExit* const object = new AtExit;  // never destroyed: outlives every static that owns a governor
    return *object;
  }
  void add(Governor* governor) {
    std::lock_guard<std::mutex> lock(mutex_);
    governors_.push_back(governor);
  }
  void remove(Governor* governor) {
    std::lock_guard<std::mutex> lock(mutex_);
    governors_.erase(std::remove(governors_.begin(), governors_.end(), governor), governors_.end());
  }

 private:
  AtExit() {
    std::atexit([] {
      AtExit& self = instance();
      std::lock_guard<std::mutex> lock(self.mutex_);
      for (Governor* governor : self.governors_) governor->restore();
    });
  }

  std::mutex mutex_;
  std::vector<Governor*> governors_;
};

class SysfsGovernor final : public Governor {
 public:
  SysfsGovernor(std::vector<FrequencyDomain> domains, const std::string& root)
      : domains_(std::move(domains)) {
    for (const FrequencyDomain& domain : domains_) {
      std::vector<std::shared_ptr<Control>> controls;
      std::istringstream paths(domain.path);
      for (std::string path; paths >> path;) controls.push_back(control(domain.processor, root + "/" + path));
      controls_of_.push_back(std::move(controls));
      // All clusters of a processor or none: the others must not stay as they are for good.
      if (!this->controls(controls_of_.size() - 1))
        for (const auto& control : controls_of_.back()) control->restore();
    }
    AtExit::instance().add(this);
  }

  ~SysfsGovernor() override {
    restore();
    AtExit::instance().remove(this);
  }

  bool request(size_t domain, size_t index) override {
    if (domain >= domains_.size())
      throw DeviceError("frequency domain " + std::to_string(domain) + " of " +
                        std::to_string(domains_.size()));
    if (!controls(domain)) return false;
    const std::vector<uint64_t>& freqs_khz = domains_[domain].freqs_khz;
    if (index >= freqs_khz.size())
      throw DeviceError(domains_[domain].processor + ": frequency index " + std::to_string(index) +
                        " is outside its table of " + std::to_string(freqs_khz.size()));
    bool written = false;
    for (const auto& control : controls_of_[domain]) written |= control->set(freqs_khz[index]);
    return written;
  }

  bool controls(size_t domain) const override {
    const auto& controls = controls_of_.at(domain);
    return !controls.empty() &&
           std::all_of(controls.begin(), controls.end(), [](const auto& c) { return c->taken(); });
  }

  void restore() noexcept override {
    for (const auto& control : all_) control->restore();
  }

  std::vector<std::string> warnings() const override {
    std::vector<std::string> texts;
    for (const auto& control : all_) {
      std::string text = control->warning();
      if (!text.empty()) texts.push_back(std::move(text));
    }
    return texts;
  }

 private:
  std::shared_ptr<Control> control(const std::string& processor, const std::string& folder) {
    const auto same = [&](const auto& control) { return control->folder() == folder; };
    const auto found = std::find_if(all_.begin(), all_.end(), same);
    if (found != all_.end()) return *found;
    all_.push_back(std::make_shared<Control>(processor, folder));
    return all_.back();
  }

  const std::vector<FrequencyDomain> domains_;
  std::vector<std::shared_ptr<Control>> all_;
  std::vector<std::vector<std::shared_ptr<Control>>> controls_of_;
};

}  // namespace

std::shared_ptr<Governor> make_sysfs_governor(std::vector<FrequencyDomain> domains, const std::string& root) {
  return std::make_shared<SysfsGovernor>(std::move(domains), root);
}

}  // namespace piqi
