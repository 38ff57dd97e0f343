// The ring of times.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "piqi/recorder.hpp"

namespace piqi_test {

using piqi::Recorder;
using Rows = std::vector<int64_t>;

namespace {

void add(Recorder& recorder, int64_t value) {
  const int64_t row[2] = {value, -value};
  recorder.add(row);
}

}  // namespace

TEST_CASE("rows come back oldest first, and the oldest make room") {
  Recorder recorder(2, 3);
  CHECK(recorder.rows().empty());
  add(recorder, 1);
  add(recorder, 2);
  CHECK(recorder.rows() == Rows{1, -1, 2, -2});
  add(recorder, 3);
  CHECK(recorder.rows() == Rows{1, -1, 2, -2, 3, -3});
  for (int64_t i = 4; i < 9; ++i) add(recorder, i);
  CHECK(recorder.rows() == Rows{6, -6, 7, -7, 8, -8});
  recorder.clear();
  CHECK(recorder.rows().empty());
  add(recorder, 9);
  CHECK(recorder.rows() == Rows{9, -9});
}

TEST_CASE("a recorder of no rows records nothing") {
  Recorder recorder(2, 0);
  add(recorder, 1);
  CHECK(recorder.rows().empty());
}

TEST_CASE("rows are whole, whoever writes and reads at the same time") {
  Recorder recorder(2, 8);
  std::vector<std::thread> writers;
  std::atomic<int> writing{2};
  for (int64_t w = 1; w < 3; ++w)
    writers.emplace_back([&recorder, &writing, w] {
      for (int64_t i = 0; i < 5000; ++i) add(recorder, 10000 * w + i);
      --writing;
    });
  int torn = 0;
  while (writing > 0) {
    const Rows rows = recorder.rows();
    for (size_t r = 0; r < rows.size(); r += 2) torn += rows[r] != -rows[r + 1];
  }
  CHECK(torn == 0);
  for (std::thread& writer : writers) writer.join();
  CHECK(recorder.rows().size() == 16);
}

}  // namespace piqi_test
