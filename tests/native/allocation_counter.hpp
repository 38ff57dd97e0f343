// Counts heap allocations of every thread: malloc and its kin, hence operator new and C libraries too.
#pragma once

#include <cstddef>

/// Allocations so far in this process; always 0 under a sanitizer, which brings an allocator of its own.
size_t allocation_count();

/// False where allocations cannot be counted.
bool counts_allocations();
