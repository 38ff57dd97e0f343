// From a camera's frame to a network's input: colour, size and range, as the planner's Pillow does it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "piqi/error.hpp"

namespace piqi {

/// A frame, or the input it is meant for, whose sizes contradict each other or what is allowed.
class FrameError : public Error {
 public:
  using Error::Error;
};

enum class PixelFormat { Rgb8, Bgr8, Grey8 };
/// How bytes become floats: Signed [-1, 1], Unit [0, 1], Raw [0, 255].
enum class Preprocessing { Signed, Unit, Raw };
/// What to do with another size: Crop the centre after resizing the shorter side, Stretch, Letterbox (resize
/// the longer side, pad with grey), or Exact: an error.
enum class Fit { Crop, Stretch, Letterbox, Exact };
/// The order of the input's channels.
enum class Colour { Rgb, Bgr, Grey };

// From the words of protocol and bundle ("rgb8", "signed", "crop", "rgb"). They throw FrameError.
PixelFormat pixel_format(const std::string& name);
Preprocessing preprocessing(const std::string& name);
Fit fit(const std::string& name);
Colour colour(const std::string& name);

/// Rows of pixels in memory that somebody else owns (and may write to meanwhile: then pixels are mixed, no
/// more).
struct FrameView {
  const uint8_t* data = nullptr;
  size_t size_bytes = 0;
  size_t width = 0;   // pixels
  size_t height = 0;  // pixels
  size_t stride = 0;  // bytes from a row to the next
  PixelFormat format = PixelFormat::Rgb8;
};

/// What a network takes: float32 [height, width, 3, or 1 for Grey].
struct FrameInput {
  size_t width = 0;
  size_t height = 0;
  Preprocessing preprocessing = Preprocessing::Signed;
  Fit fit = Fit::Crop;
  Colour colour = Colour::Rgb;

  size_t channels() const { return colour == Colour::Grey ? 1 : 3; }
};

/// One axis of Pillow's antialiased bilinear filter (src/libImaging/Resample.c), in fixed point.
class ResampleAxis {
 public:
  static constexpr int fraction_bits = 22;

  /// The `count` positions from `first` on of an axis of `source` pixels resized to `resized`.
  void prepare(size_t source, size_t resized, size_t first, size_t count);

  size_t count() const { return begins_.size(); }
  size_t begin(size_t i) const { return begins_[i]; }
  size_t end(size_t i) const { return begins_[i] + starts_[i + 1] - starts_[i]; }
  const int32_t* weights(size_t i) const { return weights_.data() + starts_[i]; }
  size_t max_taps() const { return max_taps_; }

 private:
  std::array<size_t, 4> prepared_{};
  std::vector<size_t> begins_;  // first source pixel of each position
  std::vector<size_t> starts_;  // where its weights start; one more than positions
  std::vector<int32_t> weights_;
  std::vector<double> exact_;
  size_t max_taps_ = 0;
};

/// Converts frames, one at a time; keeps what depends only on their sizes and allocates nothing for the next
/// frame of the same sizes. Equal to Pillow's convert, resize (BILINEAR), crop and paste bit for bit.
class FrameConverter {
 public:
  static constexpr size_t max_side = 32768;

  /// Writes input.height * input.width * input.channels() floats. Throws FrameError naming the field.
  void convert(const FrameView& frame, const FrameInput& input, float* destination);

 private:
  const uint8_t* source_row(const FrameView& frame, size_t channels, size_t y);
  void resample_row(const uint8_t* source, size_t channels, uint8_t* target) const;
  void blend_rows(size_t row);

  ResampleAxis across_, down_;
  std::vector<uint8_t> grey_;  // a source row after its conversion
  std::vector<uint8_t> ring_;  // the last rows: of the source, or resampled across
  std::vector<int32_t> sums_;  // one row while it is blended of those
  std::vector<uint8_t> blended_;
  std::vector<uint8_t> pixels_;  // the same resampled across, where that comes last
};

}  // namespace piqi
