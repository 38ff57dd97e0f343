// The observer (piqi/observer.h) that makes a CPU or GPU as slow as the simulated board's.
#include "piqi/observer.h"

#include "pacer.hpp"

#define PIQI_EXPORT extern "C" __attribute__((visibility("default")))

PIQI_EXPORT int piqi_observe_begin(const PiqiMoment* moment) {
  // Handing over takes no time but behind the last layer.
  if (moment->activity == PIQI_FINISH && moment->last_layer + 1 != moment->layer_count) return 0;
  return pacer::begin(static_cast<pacer::Kind>(moment->activity), moment->processor,
                      static_cast<uint32_t>(moment->first_layer), static_cast<uint32_t>(moment->last_layer),
                      moment->network);
}

PIQI_EXPORT int piqi_observe_end(const PiqiMoment*) {
  return pacer::end();
}
