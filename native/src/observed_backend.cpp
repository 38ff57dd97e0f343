// A backend that tells a library (piqi/observer.h) what it does.
#include <dlfcn.h>

#include <cstring>
#include <utility>
#include <vector>

#include "piqi/backend.hpp"
#include "piqi/observer.h"

namespace piqi {
namespace {

/// Stays loaded for good: threads that are given up may still be inside.
struct Observer {
  Observer(std::string name, std::string letters)
      : path(std::move(name)),
        processors(std::move(letters)),
        handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!handle) {
      const char* reason = dlerror();
      throw BackendError("observer: " + std::string(reason ? reason : path));
    }
    begin = find("piqi_observe_begin");
    end = find("piqi_observe_end");
  }

  using Function = decltype(&piqi_observe_begin);
  Function find(const char* symbol) const {
    void* const found = dlsym(handle, symbol);
    if (!found) throw BackendError("observer: " + path + ": has no '" + symbol + "'");
    return reinterpret_cast<Function>(found);
  }

  const std::string path, processors;
  void* const handle;
  Function begin = nullptr, end = nullptr;
};

class ObservedSubGraph final : public PreparedSubGraph {
 public:
  ObservedSubGraph(std::unique_ptr<PreparedSubGraph> inner, std::shared_ptr<const Observer> observer,
                   std::shared_ptr<const Graph> graph, const SubGraph& sub_graph)
      : inner_(std::move(inner)), observer_(std::move(observer)), graph_(std::move(graph)) {
    const char processor = observer_->processors.at(sub_graph.processor);
    const auto moment = [&](PiqiActivity activity, size_t first, size_t last) {
      return PiqiMoment{activity, graph_->name().c_str(), graph_->layer_count(), processor, first, last};
    };
    bind_ = moment(PIQI_BIND, sub_graph.first_layer, sub_graph.last_layer);
    finish_ = moment(PIQI_FINISH, sub_graph.first_layer, sub_graph.last_layer);
    for (const Step& step : sub_graph.steps)
      steps_.push_back(moment(PIQI_STEP, step.first_layer, step.last_layer));
  }

  Format input_format(size_t i) const override { return inner_->input_format(i); }
  Format output_format(size_t i) const override { return inner_->output_format(i); }
  std::shared_ptr<uint8_t> input_memory(size_t i) override { return inner_->input_memory(i); }
  std::shared_ptr<uint8_t> output_memory(size_t i) override { return inner_->output_memory(i); }
  void bind(const void* const* inputs, void* const* outputs) override {
    observe(bind_, [&] { inner_->bind(inputs, outputs); });
  }
  void run_step(size_t step, pthreadpool_t pool) override {
    observe(steps_.at(step), [&] { inner_->run_step(step, pool); });
  }
  void finish() override {
    observe(finish_, [&] { inner_->finish(); });
  }
  size_t memory_bytes() const override { return inner_->memory_bytes(); }
  void share_memory(bool shared) override { inner_->share_memory(shared); }
  bool may_hang() const override { return true; }
  void measure_kernels(bool enabled) override { inner_->measure_kernels(enabled); }
  int64_t take_kernel_ns() override { return inner_->take_kernel_ns(); }

 private:
  template <typename Function>
  void observe(const PiqiMoment& moment, Function function) {
    check(moment, "begin", observer_->begin(&moment));
    function();
    check(moment, "end", observer_->end(&moment));
  }

  void check(const PiqiMoment& moment, const char* when, int error) const {
    if (error == 0) return;
    throw BackendError(layer_range(moment.first_layer, moment.last_layer) + " on " + moment.processor +
                       ": observer " + observer_->path + ": " + when + ": " + std::strerror(error));
  }

  const std::unique_ptr<PreparedSubGraph> inner_;
  const std::shared_ptr<const Observer> observer_;
  const std::shared_ptr<const Graph> graph_;
  PiqiMoment bind_, finish_;
  std::vector<PiqiMoment> steps_;
};

class ObservedBackend final : public Backend {
 public:
  ObservedBackend(std::shared_ptr<Backend> inner, std::shared_ptr<const Observer> observer)
      : inner_(std::move(inner)), observer_(std::move(observer)) {}

  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache& cache) override {
    if (sub_graph.processor >= observer_->processors.size())
      throw BackendError("observer: processors '" + observer_->processors + "' are fewer than the board's");
    return std::make_unique<ObservedSubGraph>(inner_->prepare(graph, sub_graph, cache), observer_, graph,
                                              sub_graph);
  }
  bool per_processor() const override { return true; }

 private:
  const std::shared_ptr<Backend> inner_;
  const std::shared_ptr<const Observer> observer_;
};

}  // namespace

std::shared_ptr<Backend> make_observed_backend(std::shared_ptr<Backend> backend, const std::string& library,
                                               const std::string& processors) {
  return std::make_shared<ObservedBackend>(std::move(backend),
                                           std::make_shared<const Observer>(library, processors));
}

}  // namespace piqi
