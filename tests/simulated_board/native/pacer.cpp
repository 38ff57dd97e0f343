#include "pacer.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "timeline.hpp"

namespace pacer {
namespace {

constexpr int64_t second = 1'000'000'000;
constexpr int64_t spin_ns = 200'000;         // before the end: what a sleeping thread may wake too late
constexpr int64_t hand_over_ns = 2'000'000;  // at most, between two activities that follow each other
constexpr int64_t hang_poll_ns = 1'000'000;
constexpr int client_priority = 10, caller_priority = 12;  // above the board's

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * second + now.tv_nsec;
}

void sleep_until(int64_t at_ns) {
  const timespec at{at_ns / second, at_ns % second};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
  }
}

/// The board's lock: opened by the kernel if its holder is killed.
class Lock {
 public:
  explicit Lock(int file) : file_(file) {
    while (flock(file_, LOCK_EX) < 0 && errno == EINTR) {
    }
  }
  ~Lock() { flock(file_, LOCK_UN); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  const int file_;
};

/// A board has its CPUs for itself: so that others' work here delays nothing, where that is allowed.
bool prioritise(pid_t thread, int level) {
  const sched_param priority{level};
  return sched_setscheduler(thread, (level ? SCHED_FIFO : SCHED_OTHER) | SCHED_RESET_ON_FORK, &priority) == 0;
}

/// The main thread, which takes frames from the others, goes before them while there are any: what handing
/// over takes is part of no activity.
class Caller {
 public:
  ~Caller() {
    const std::lock_guard lock(mutex);
    if (counted_ && --threads == 0 && prioritised) prioritised = !pacer::prioritise(getpid(), 0);
  }
  void prioritise() {
    const std::lock_guard lock(mutex);
    counted_ = true;
    if (threads++ == 0 && (sched_getscheduler(getpid()) & ~SCHED_RESET_ON_FORK) == SCHED_OTHER)
      prioritised = pacer::prioritise(getpid(), caller_priority);
  }

 private:
  static inline std::mutex mutex;
  static inline int threads = 0;
  static inline bool prioritised = false;
  bool counted_ = false;
};

/// A thread's view of the board, and what the thread is at.
class Client {
 public:
  ~Client() {
    if (activity_ != none) ended(now_ns());
    disconnect();
  }

  int begin(Kind kind, char letter, size_t first, size_t last, const char* network_name) {
    const int64_t at_ns = now_ns();
    if (!board_)
      if (const int error = connect()) return error;
    if (activity_ != none) ended(at_ns);  // failed in between
    const Network& network = board_->networks[std::strcmp(network_name, board_->networks[1].name) == 0];
    const size_t place = place_of(letter);
    if (place == max_processors || last >= static_cast<size_t>(network.layers) || first > last) return EINVAL;
    int64_t asked[max_processors];
    read_files(asked);
    const Lock lock(file_);
    Process& process = this_process(at_ns);
    // What lies between is part of what follows: handing over, writing frequencies, marking. An NPU's run
    // does not begin before it is called: it says itself how long it took.
    const bool runs = kind == Kind::Step && static_cast<int64_t>(place) == board_->npu;
    const int64_t before_ns = runs                 ? at_ns
                              : kind != Kind::Bind ? ended_ns_
                              : first > 0          ? process.ended_ns[first - 1]
                                                   : at_ns;
    const int64_t begin_ns = before_ns <= at_ns && at_ns - before_ns < hand_over_ns ? before_ns : at_ns;
    ask(*board_, begin_ns, asked);
    const std::vector<Phase> phases = phases_of(kind, network, place, first, last, process);
    for (const Phase& phase : phases)
      if (std::isnan(*phase.table)) return EINVAL;
    const std::vector<Piece> pieces = timeline(*board_, phases, begin_ns);
    process.source[last] = static_cast<int64_t>(place);
    activity_ = ++board_->activities;
    int64_t head = board_->head;
    if (kind == Kind::Step) write(head, {Began, activity_, pid_, at_ns, at_ns, 0});
    for (const Piece& piece : pieces)
      write(head, {Stretch, activity_, pid_, piece.begin_ns, piece.end_ns, piece.power_mw});
    publish(head);
    last_layer_ = last;
    end_ns_ = pieces.empty() ? begin_ns : pieces.back().end_ns;
    hangs_ = runs && board_->npu_hangs != 0;
    return 0;
  }

  /// Waits for the end of what began last.
  int end() {
    if (activity_ == none) return 0;
    const volatile int64_t& npu_hangs = board_->npu_hangs;
    while (hangs_ && npu_hangs != 0 && kill(static_cast<pid_t>(board_->board_pid), 0) == 0)
      sleep_until(now_ns() + hang_poll_ns);
    if (end_ns_ - now_ns() > spin_ns) sleep_until(end_ns_ - spin_ns);
    // Told before the end, so that telling takes no time of its own.
    const int64_t end_ns = std::max(now_ns(), end_ns_);
    ended(end_ns);
    while (now_ns() < end_ns) {
    }
    return 0;
  }

 private:
  int connect() {
    file_ = open(std::getenv("PIQI_PACER"), O_RDWR | O_CLOEXEC);
    struct stat status {};
    if (file_ < 0 || fstat(file_, &status) < 0) return failed(errno);
    size_bytes_ = static_cast<size_t>(status.st_size);
    if (size_bytes_ < sizeof(BoardMemory)) return failed(EPROTO);
    void* const memory =
        mmap(nullptr, size_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file_, 0);
    if (memory == MAP_FAILED) return failed(errno);
    board_ = static_cast<BoardMemory*>(memory);
    std::fill_n(governors_, max_processors, -1);
    std::fill_n(speeds_, max_processors, -1);
    if (board_->size_bytes != sizeof(BoardMemory)) return failed(EPROTO);
    for (size_t i = 0; i < max_processors; ++i) {
      if (board_->processors[i].opps == 0) continue;
      governors_[i] = open(board_->processors[i].governor, O_RDONLY | O_CLOEXEC);
      speeds_[i] = open(board_->processors[i].speed, O_RDONLY | O_CLOEXEC);
    }
    pid_ = getpid();
    prioritise(0, client_priority);
    caller_.prioritise();
    prctl(PR_SET_TIMERSLACK, 1);
    return 0;
  }

  int failed(int error) {
    disconnect();
    return error;
  }

  void disconnect() {
    if (board_) {
      for (const int* files : {governors_, speeds_})
        for (size_t i = 0; i < max_processors; ++i)
          if (files[i] >= 0) close(files[i]);
      munmap(board_, size_bytes_);
    }
    if (file_ >= 0) close(file_);
    board_ = nullptr;
    file_ = -1;
  }

  /// The indices that files ask for; the highest while another governor decides.
  void read_files(int64_t* asked) const {
    for (size_t i = 0; i < max_processors; ++i) {
      const Processor& processor = board_->processors[i];
      asked[i] = processor.opps - 1;
      char governor[16] = "", speed[32] = "";
      if (processor.opps == 0 || pread(governors_[i], governor, sizeof governor - 1, 0) < 0 ||
          pread(speeds_[i], speed, sizeof speed - 1, 0) < 0 || std::strncmp(governor, "userspace", 9) != 0)
        continue;
      const int64_t* const found =
          std::find(processor.freqs, processor.freqs + processor.opps, std::atoll(speed));
      if (found != processor.freqs + processor.opps) asked[i] = found - processor.freqs;
    }
  }

  size_t place_of(char letter) const {
    if (letter == '\0') return board_->npu == none ? max_processors : static_cast<size_t>(board_->npu);
    for (size_t i = 0; i < static_cast<size_t>(board_->processor_count); ++i)
      if (board_->processors[i].letter == letter) return i;
    return max_processors;
  }

  /// Its entry, or the one that was not used for longest.
  Process& this_process(int64_t now) {
    Process* oldest = board_->processes;
    for (Process& process : board_->processes) {
      if (process.pid == pid_) {
        process.used_ns = now;
        return process;
      }
      if (process.used_ns < oldest->used_ns) oldest = &process;
    }
    *oldest = {pid_, now, {}, {}};
    std::fill_n(oldest->source, max_layers, none);
    return *oldest;
  }

  std::vector<Phase> phases_of(Kind kind, const Network& network, size_t place, size_t first, size_t last,
                               const Process& process) const {
    const bool npu = static_cast<int64_t>(place) == board_->npu;
    const auto phase = [&](size_t row, size_t layer, double factor = 1) {
      return Phase{board_->table(network, row, place, layer), factor};
    };
    std::vector<Phase> phases;
    if (kind == Kind::Bind) {
      const int64_t source = first == 0 ? none : process.source[first - 1];
      const size_t from = source == none ? place : static_cast<size_t>(source);
      phases.push_back(first == 0 ? phase(Input, 0) : phase(Transfers + from, first - 1));
      if (npu) phases.push_back(phase(Load, first));
    } else if (kind == Kind::Step) {  // on an NPU a run of them, the shorter each the more they are
      const double shrink = npu ? board_->npu_run_shrink : 0;
      const double factor = 1 - shrink * static_cast<double>(last - first);
      for (size_t layer = first; layer <= last; ++layer) phases.push_back(phase(Run, layer, factor));
    } else {
      if (npu) phases.push_back(phase(Unload, last));
      if (last + 1 == static_cast<size_t>(network.layers)) phases.push_back(phase(Output, last));
    }
    return phases;
  }

  void ended(int64_t at_ns) {
    const Lock lock(file_);
    int64_t head = board_->head;
    write(head, {Ended, activity_, pid_, at_ns, at_ns, 0});
    publish(head);
    this_process(at_ns).ended_ns[last_layer_] = at_ns;
    ended_ns_ = at_ns;
    activity_ = none;
  }

  void write(int64_t& head, const Record& record) {
    board_->ring[static_cast<size_t>(head++) % ring_size] = record;
  }
  void publish(int64_t head) { __atomic_store_n(&board_->head, head, __ATOMIC_RELEASE); }

  int file_ = -1;
  size_t size_bytes_ = 0;
  BoardMemory* board_ = nullptr;
  int governors_[max_processors], speeds_[max_processors];
  int64_t pid_ = 0;
  int64_t activity_ = none;  // that has begun
  size_t last_layer_ = 0;
  int64_t end_ns_ = 0, ended_ns_ = 0;  // of it; of the one before
  bool hangs_ = false;
  Caller caller_;
};

thread_local Client client;

}  // namespace

bool present() {
  return std::getenv("PIQI_PACER") != nullptr;
}

int begin(Kind kind, char processor, uint32_t first_layer, uint32_t last_layer, const char* network) {
  return client.begin(kind, processor, first_layer, last_layer, network);
}

int end() {
  return client.end();
}

}  // namespace pacer
