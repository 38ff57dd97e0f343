// Working memory of the library's functions, taken from our arenas for the time of a run.
#pragma once

#include <memory>

#include "piqi/arena_pool.hpp"

namespace arm_compute {
class IMemoryManager;
}

namespace piqi::armcl {

/// For the functions of one operator. Nothing is held between runs.
std::shared_ptr<arm_compute::IMemoryManager> make_memory_manager(std::shared_ptr<ArenaPool> arenas);

}  // namespace piqi::armcl
