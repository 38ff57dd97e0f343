#include "python_backend.hpp"

#include <cxxabi.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"

namespace py = pybind11;

namespace piqi::bindings {
namespace {

// Before 3.13, Python ends a thread that asks for the GIL while the interpreter shuts down by unwinding its
// stack, past destructors that need Python. A thread of ours waits for the process to end instead, as it does
// since 3.13. No object of the caller's with a destructor may live inside `function`.
template <typename Function>
auto unless_finalizing(Function function) {
  try {
    return function();
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

class Gil {
 public:
  Gil() {
    unless_finalizing([this] { gil_.emplace(); });
  }

 private:
  std::optional<py::gil_scoped_acquire> gil_;
};

// Calls a method of Python code that may take any time. Throws py::error_already_set.
template <typename... Arguments>
py::object call(const py::object& object, const char* method, const Arguments&... arguments) {
  const py::object function = object.attr(method);
  PyObject* const result = unless_finalizing(
      [&] { return PyObject_CallFunctionObjArgs(function.ptr(), arguments.ptr()..., nullptr); });
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// What Python raised, as the library's own error: it may be rethrown on a thread that does not hold the GIL.
template <typename Function>
auto translated(const std::string& where, Function function) {
  try {
    return function();
  } catch (const std::exception& error) {
    throw BackendError(where + ": " + error.what());
  }
}

class PythonSubGraph final : public PreparedSubGraph {
 public:
  PythonSubGraph(std::shared_ptr<const Graph> graph, const SubGraph& sub_graph, py::object prepared)
      : graph_(std::move(graph)),
        inputs_(sub_graph.receivers),
        outputs_(sub_graph.senders),
        prepared_(std::move(prepared)),
        where_(layer_range(sub_graph)) {}

  ~PythonSubGraph() override {
    if (!Py_IsInitialized()) {
      prepared_.release();
      return;
    }
    const Gil gil;
    try {
      call(prepared_, "close");
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("PreparedSubGraph.close");
    }
    prepared_ = py::object();
  }

  Format input_format(size_t) const override { return {}; }
  Format output_format(size_t) const override { return {}; }
  size_t memory_bytes() const override { return 0; }
  bool may_hang() const override { return true; }

  void bind(const void* const* inputs, void* const* outputs) override {
    input_data_.assign(inputs, inputs + inputs_.size());
    output_data_.assign(outputs, outputs + outputs_.size());
  }

  void run_step(size_t step, pthreadpool_t) override {
    if (step != 0) return;
    const Gil gil;
    translated(where_, [&] {
      py::dict arguments;
      for (size_t i = 0; i < inputs_.size(); ++i) {
        const Tensor& tensor = graph_->tensor(inputs_[i]);
        // A view: the capsule only tells NumPy that somebody else owns the memory. Others read it too.
        py::array view(dtype_of(tensor.type), tensor.shape, input_data_[i],
                       py::capsule(input_data_[i], [](void*) {}));
        view.attr("setflags")(false);
        arguments[tensor.name.c_str()] = std::move(view);
      }
      const auto results = call(prepared_, "run", arguments).cast<py::dict>();
      for (size_t i = 0; i < outputs_.size(); ++i) {
        const Tensor& tensor = graph_->tensor(outputs_[i]);
        if (!results.contains(tensor.name)) throw BackendError("returned no '" + tensor.name + "'");
        const py::array array = as_array(results[tensor.name.c_str()], tensor);
        std::memcpy(output_data_[i], array.data(), tensor.size_bytes());
      }
    });
  }

 private:
  const std::shared_ptr<const Graph> graph_;
  const std::vector<TensorId> inputs_, outputs_;
  py::object prepared_;
  const std::string where_;
  std::vector<const void*> input_data_;
  std::vector<void*> output_data_;
};

class PythonBackend final : public Backend {
 public:
  explicit PythonBackend(py::object backend) : backend_(std::move(backend)) {}

  ~PythonBackend() override {
    if (!Py_IsInitialized()) {
      backend_.release();
      return;
    }
    const py::gil_scoped_acquire gil;
    backend_ = py::object();
  }

  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache&) override {
    for (const auto& ids : {sub_graph.receivers, sub_graph.senders})
      for (TensorId id : ids)
        if (graph->tensor(id).type != DataType::Float32)
          throw UnsupportedError("'" + graph->tensor(id).name + "' is " + to_string(graph->tensor(id).type) +
                                 ", a Python backend takes float32");
    const py::gil_scoped_acquire gil;
    return translated("prepare", [&] {
      const auto names = [&](const std::vector<TensorId>& ids) {
        py::list list;
        for (TensorId id : ids) list.append(graph->tensor(id).name);
        return list;
      };
      return std::make_unique<PythonSubGraph>(
          graph, sub_graph,
          backend_.attr("prepare")(sub_graph, names(sub_graph.receivers), names(sub_graph.senders)));
    });
  }

 private:
  py::object backend_;
};

}  // namespace

std::shared_ptr<Backend> make_python_backend(py::object backend) {
  return std::make_shared<PythonBackend>(std::move(backend));
}

}  // namespace piqi::bindings
