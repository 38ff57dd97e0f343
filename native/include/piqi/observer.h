/* What a library exports to watch a backend at work: for tracing, and for boards that are simulated.
 *
 * Calls come from the threads of the sub-graphs, several at once in pipeline mode. What they take counts as
 * the activity's time, so a library that returns late from piqi_observe_end makes a processor look that slow.
 */
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum PiqiActivity {
  PIQI_BIND,  /* takes the frame's inputs; before the first step, behind its frequency request */
  PIQI_STEP,  /* runs a layer, or a whole NPU node */
  PIQI_FINISH /* hands the outputs over; after the last step */
};

/* `network`: the graph's name, `layer_count`: how many layers it has; `processor`: its letter. Layers of the
 * sub-graph for PIQI_BIND and PIQI_FINISH, of the step for PIQI_STEP. */
struct PiqiMoment {
  int activity;
  const char* network;
  size_t layer_count;
  char processor;
  size_t first_layer;
  size_t last_layer;
};

/* 0, or an errno: the frame then fails with a BackendError. */
int piqi_observe_begin(const struct PiqiMoment* moment);
int piqi_observe_end(const struct PiqiMoment* moment);

#ifdef __cplusplus
}
#endif
