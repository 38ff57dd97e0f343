// The client's side of a simulated board: asks it how long an activity takes, and takes as long.
#pragma once

#include <cstdint>

namespace pacer {

enum class Kind : int32_t { Bind, Step, Finish, Ended };

/// What is sent, all of it in one message. `processor` '\0': the board's NPU; `network`: ends with zeros.
struct Request {
  Kind kind = Kind::Ended;
  int32_t processor = 0;
  uint32_t first_layer = 0, last_layer = 0;
  int64_t at_ns = 0;  // of the steady clock
  char network[32] = {};
};

/// What comes back, but for Kind::Ended; not before the end of a hang.
struct Answer {
  int64_t duration_ns;
};

/// Whether there is a board: the variable PIQI_PACER names its socket.
bool present();
/// Tells the board what begins in this thread. 0, or an errno.
int begin(Kind kind, char processor, uint32_t first_layer, uint32_t last_layer, const char* network = "");
/// Returns when it would have ended. 0, or an errno.
int end();

}  // namespace pacer
