// What runs on a simulated board: works out how long an activity takes there, and takes as long.
#pragma once

#include <cstdint>

namespace pacer {

enum class Kind : int32_t { Bind, Step, Finish };

/// Whether there is a board: the variable PIQI_PACER names its memory (board_memory.hpp).
bool present();
/// Tells the board what begins in this thread. `processor` '\0': the board's NPU. 0, or an errno.
int begin(Kind kind, char processor, uint32_t first_layer, uint32_t last_layer, const char* network = "");
/// Returns when it would have ended. 0, or an errno.
int end();

}  // namespace pacer
