#include "pacer.hpp"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace pacer {
namespace {

constexpr int64_t second = 1'000'000'000;
constexpr int64_t spin_ns = 200'000;  // before the end: what a sleeping thread may wake too late
constexpr int client_priority = 10;   // below the board's

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

/// A connection a thread, so that no answer reaches another one.
class Connection {
 public:
  ~Connection() { reset(); }

  int send(const Request& request) {
    if (const int error = connected()) return error;
    // What failed in between has left its answer here.
    Answer stale;
    if (pending_ && receive(stale)) return EPIPE;
    const bool answered = request.kind != Kind::Ended;
    if (::send(socket_, &request, sizeof request, MSG_NOSIGNAL) != sizeof request) return lost();
    if (answered) began_ns_ = request.at_ns;
    pending_ = answered;
    return 0;
  }

  /// Waits for the end of what began last.
  int wait() {
    if (!pending_) return 0;
    Answer answer{};
    if (const int error = receive(answer)) return error;
    const int64_t end_ns = began_ns_ + answer.duration_ns;
    if (end_ns - now_ns() > spin_ns) sleep_until(end_ns - spin_ns);
    // Told before the end, so that telling takes no time of its own.
    const int64_t woken_ns = now_ns();
    Request ended;
    ended.at_ns = woken_ns > end_ns ? woken_ns : end_ns;
    const int error = send(ended);
    while (now_ns() < end_ns) {
    }
    return error;
  }

 private:
  int connected() {
    if (socket_ >= 0) return 0;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, std::getenv("PIQI_PACER"), sizeof address.sun_path - 1);
    socket_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) return lost();
    // A board has its CPUs for itself: so that others' work here delays nothing, where that is allowed.
    const sched_param priority{client_priority};
    (void)sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority);
    prctl(PR_SET_TIMERSLACK, 1);
    return 0;
  }

  int receive(Answer& answer) {
    pending_ = false;
    ssize_t size = 0;
    do size = recv(socket_, &answer, sizeof answer, 0);
    while (size < 0 && errno == EINTR);
    if (size == sizeof answer) return 0;
    if (size >= 0) errno = ECONNRESET;
    return lost();
  }

  int lost() {
    const int error = errno;
    reset();
    return error;
  }

  void reset() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
    pending_ = false;
  }

  int socket_ = -1;
  bool pending_ = false;
  int64_t began_ns_ = 0;
};

thread_local Connection connection;

}  // namespace

bool present() {
  return std::getenv("PIQI_PACER") != nullptr;
}

int begin(Kind kind, char processor, uint32_t first_layer, uint32_t last_layer, const char* network) {
  Request request;
  request.kind = kind;
  request.processor = processor;
  request.first_layer = first_layer;
  request.last_layer = last_layer;
  request.at_ns = now_ns();
  std::strncpy(request.network, network, sizeof request.network - 1);
  return connection.send(request);
}

int end() {
  return connection.wait();
}

}  // namespace pacer
