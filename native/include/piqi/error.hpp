// Exception types of the library. Each carries one message that names the object, the expectation and the
// value.
#pragma once

#include <stdexcept>
#include <string>

namespace piqi {

/// Base of every exception this library throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A graph that contradicts itself: unknown tensor, wrong shape, wrong rank, cycle.
class GraphError : public Error {
 public:
  using Error::Error;
};

/// An operator (with these types or parameters) that the chosen backend cannot run.
class UnsupportedError : public GraphError {
 public:
  using GraphError::GraphError;
};

/// A run configuration that does not fit the graph or the board.
class PlanError : public Error {
 public:
  using Error::Error;
};

/// An NPU partition that is missing or does not fit its sub-graph.
class PartitionError : public Error {
 public:
  using Error::Error;
};

/// A processor or vendor library that failed.
class BackendError : public Error {
 public:
  using Error::Error;
};

/// Something that did not finish in the time it was given.
class TimeoutError : public BackendError {
 public:
  using BackendError::BackendError;
};

/// A channel or executor that was used after it was closed.
class ClosedError : public Error {
 public:
  using Error::Error;
};

/// A frequency that could not be set, or a marker that could not be driven.
class DeviceError : public Error {
 public:
  using Error::Error;
};

}  // namespace piqi
