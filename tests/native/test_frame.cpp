// What does not need Pillow beside it (tests/runtime/test_frame.py compares): sizes, placement, allocations.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "allocation_counter.hpp"
#include "piqi/frame.hpp"

using namespace piqi;

namespace {

struct Picture {
  Picture(size_t width, size_t height, size_t channels, size_t padding = 0)
      : stride(width * channels + padding), bytes(stride * height) {
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37 + i / 251);
    view = {bytes.data(), bytes.size(), width,
            height,       stride,       channels == 1 ? PixelFormat::Grey8 : PixelFormat::Rgb8};
  }
  size_t stride;
  std::vector<uint8_t> bytes;
  FrameView view;
};

std::vector<float> converted(const FrameView& view, const FrameInput& input) {
  FrameConverter converter;
  std::vector<float> floats(input.width * input.height * input.channels(), -99.0F);
  converter.convert(view, input, floats.data());
  return floats;
}

std::string refusal(const FrameView& view, const FrameInput& input) {
  FrameConverter converter;
  std::vector<float> floats(4096);
  try {
    converter.convert(view, input, floats.data());
  } catch (const FrameError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a frame of the input's size is only converted") {
  const Picture picture(5, 4, 3, 2);
  const auto raw = converted(picture.view, {5, 4, Preprocessing::Raw, Fit::Exact, Colour::Rgb});
  const auto bgr = converted(picture.view, {5, 4, Preprocessing::Unit, Fit::Crop, Colour::Bgr});
  const auto signed_floats =
      converted(picture.view, {5, 4, Preprocessing::Signed, Fit::Stretch, Colour::Rgb});
  for (size_t y = 0; y < 4; ++y)
    for (size_t i = 0; i < 15; ++i) {
      const float byte = picture.bytes[y * picture.stride + i];
      CHECK(raw[15 * y + i] == byte);
      CHECK(bgr[15 * y + i / 3 * 3 + 2 - i % 3] == byte / 255.0F);
      CHECK(signed_floats[15 * y + i] == byte / 127.5F - 1.0F);
    }
}

TEST_CASE("one colour stays that colour, whatever the sizes") {
  for (Fit fit : {Fit::Crop, Fit::Stretch})
    for (size_t side : {1, 2, 7, 33, 200})
      for (size_t channels : {1, 3}) {
        Picture picture(side, 19, channels);
        for (uint8_t value : {0, 1, 128, 254, 255}) {
          picture.bytes.assign(picture.bytes.size(), value);
          for (float x : converted(picture.view, {13, 17, Preprocessing::Raw, fit, Colour::Rgb}))
            REQUIRE(x == value);
        }
      }
}

TEST_CASE("letterbox pads with grey on both sides") {
  Picture picture(40, 20, 1);
  picture.bytes.assign(picture.bytes.size(), 7);
  const auto floats = converted(picture.view, {10, 10, Preprocessing::Raw, Fit::Letterbox, Colour::Grey});
  for (size_t y = 0; y < 10; ++y)
    for (size_t x = 0; x < 10; ++x) CHECK(floats[10 * y + x] == (y < 2 || y >= 7 ? 128.0F : 7.0F));
}

TEST_CASE("nothing is read beyond the last pixel") {
  for (Fit fit : {Fit::Crop, Fit::Stretch, Fit::Letterbox})
    for (PixelFormat format : {PixelFormat::Rgb8, PixelFormat::Bgr8, PixelFormat::Grey8})
      for (Colour colour : {Colour::Rgb, Colour::Bgr, Colour::Grey}) {
        const size_t row = 31 * (format == PixelFormat::Grey8 ? 1 : 3);
        // Exactly as many bytes as the last row needs: a sanitizer sees the first beyond.
        const std::vector<uint8_t> bytes(6 * (row + 5) + row, 9);
        const FrameView view{bytes.data(), bytes.size(), 31, 7, row + 5, format};
        CHECK(converted(view, {16, 16, Preprocessing::Raw, fit, colour})
                  .at(16 * 8 * (colour == Colour::Grey ? 1 : 3)) == 9.0F);
        FrameView shorter = view;
        --shorter.size_bytes;
        CHECK(refusal(shorter, {16, 16, Preprocessing::Raw, fit, colour}).find("need more than") !=
              std::string::npos);
      }
}

TEST_CASE("sizes that contradict each other are refused by name") {
  const Picture picture(8, 8, 3);
  const FrameInput input{4, 4, Preprocessing::Raw, Fit::Crop, Colour::Rgb};
  const auto with = [&](size_t FrameView::*field, size_t value) {
    FrameView view = picture.view;
    view.*field = value;
    return refusal(view, input);
  };
  CHECK(refusal(picture.view, input).empty());
  CHECK(with(&FrameView::width, 0) == "frame: width must be from 1 to 32768, got 0");
  CHECK(with(&FrameView::height, 40000) == "frame: height must be from 1 to 32768, got 40000");
  CHECK(with(&FrameView::stride, 23) == "frame: stride must be at least a row's 24 bytes, got 23");
  CHECK(with(&FrameView::stride, SIZE_MAX).find("need more than the 192 bytes") != std::string::npos);
  CHECK(with(&FrameView::stride, SIZE_MAX / 7 + 2).find("need more than") != std::string::npos);
  CHECK(refusal(picture.view, {4, 4, Preprocessing::Raw, Fit::Exact, Colour::Rgb}) ==
        "frame: expected 4x4 pixels (fit exact), got 8x8");
  CHECK(refusal(picture.view, {0, 4, Preprocessing::Raw, Fit::Crop, Colour::Rgb}) ==
        "frame: input width must be from 1 to 32768, got 0");
  CHECK_THROWS_WITH_AS(pixel_format("yuyv"), "frame: format must be one of rgb8, bgr8, grey8, got 'yuyv'",
                       FrameError);
}

TEST_CASE("extreme shapes need little memory and end") {
  const Picture picture(32768, 1, 1);
  CHECK(converted(picture.view, {3, 2, Preprocessing::Raw, Fit::Stretch, Colour::Grey}).size() == 6);
  const Picture tall(1, 32768, 1);
  CHECK(converted(tall.view, {224, 224, Preprocessing::Raw, Fit::Crop, Colour::Rgb}).size() == 150528);
  CHECK(converted(tall.view, {5, 5, Preprocessing::Raw, Fit::Letterbox, Colour::Rgb}).size() == 75);
}

TEST_CASE("the next frame of the same sizes allocates nothing") {
  if (!counts_allocations()) return;
  const Picture picture(64, 48, 3);
  const FrameInput input{32, 32, Preprocessing::Signed, Fit::Crop, Colour::Rgb};
  std::vector<float> floats(32 * 32 * 3);
  FrameConverter converter;
  converter.convert(picture.view, input, floats.data());
  const size_t before = allocation_count();
  for (int i = 0; i < 10; ++i) converter.convert(picture.view, input, floats.data());
  CHECK(allocation_count() == before);
}
