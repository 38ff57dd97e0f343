#include "piqi/frame.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace piqi {
namespace {

constexpr uint8_t pad_grey = 128;

template <typename Enum, size_t n>
Enum parse(const char* field, const std::string& name, const std::array<const char*, n>& known) {
  std::string words;
  for (size_t i = 0; i < n; ++i) {
    if (name == known[i]) return static_cast<Enum>(i);
    words += (i ? ", " : "") + std::string(known[i]);
  }
  throw FrameError(std::string("frame: ") + field + " must be one of " + words + ", got '" + name + "'");
}

void check_side(const char* field, size_t value) {
  if (value < 1 || value > FrameConverter::max_side)
    throw FrameError(std::string("frame: ") + field + " must be from 1 to " +
                     std::to_string(FrameConverter::max_side) + ", got " + std::to_string(value));
}

std::string size_text(size_t width, size_t height) {
  return std::to_string(width) + "x" + std::to_string(height);
}

void check(const FrameView& frame, const FrameInput& input) {
  check_side("width", frame.width);
  check_side("height", frame.height);
  check_side("input width", input.width);
  check_side("input height", input.height);
  const size_t row_bytes = frame.width * (frame.format == PixelFormat::Grey8 ? 1 : 3);
  if (frame.stride < row_bytes)
    throw FrameError("frame: stride must be at least a row's " + std::to_string(row_bytes) + " bytes, got " +
                     std::to_string(frame.stride));
  // The last row may end before its stride does. Compared by division: a product could overflow.
  if (frame.size_bytes < row_bytes || (frame.size_bytes - row_bytes) / frame.stride < frame.height - 1)
    throw FrameError("frame: " + std::to_string(frame.height) + " rows at a stride of " +
                     std::to_string(frame.stride) + " bytes need more than the " +
                     std::to_string(frame.size_bytes) + " bytes that are there");
  if (input.fit == Fit::Exact && (frame.width != input.width || frame.height != input.height))
    throw FrameError("frame: expected " + size_text(input.width, input.height) + " pixels (fit exact), got " +
                     size_text(frame.width, frame.height));
}

/// Where the resized frame lies in the input; what piqi_runtime.decode.place computes.
struct Placement {
  size_t width, height;            // of the resized frame
  size_t crop_left, crop_top;      // its pixels left and above of the input
  size_t pad_left, pad_top;        // the input's pixels left and above of it
  size_t used_width, used_height;  // what of it the input shows
};

size_t rounded(double value) {
  return static_cast<size_t>(std::nearbyint(value));
}  // half to even, as Python

Placement place(const FrameView& frame, const FrameInput& input) {
  const auto width = static_cast<double>(frame.width), height = static_cast<double>(frame.height);
  const double across = static_cast<double>(input.width) / width;
  const double down = static_cast<double>(input.height) / height;
  Placement p{input.width, input.height, 0, 0, 0, 0, input.width, input.height};
  if (input.fit == Fit::Crop) {
    const double factor = std::max(across, down);
    p.width = std::max(rounded(width * factor), input.width);
    p.height = std::max(rounded(height * factor), input.height);
    p.crop_left = (p.width - input.width) / 2;
    p.crop_top = (p.height - input.height) / 2;
  } else if (input.fit == Fit::Letterbox) {
    const double factor = std::min(across, down);
    p.width = p.used_width = std::clamp<size_t>(rounded(width * factor), 1, input.width);
    p.height = p.used_height = std::clamp<size_t>(rounded(height * factor), 1, input.height);
    p.pad_left = (input.width - p.width) / 2;
    p.pad_top = (input.height - p.height) / 2;
  }
  return p;
}

using FloatOfByte = std::array<float, 256>;

// The planner's arithmetic, done once for every byte there is.
FloatOfByte floats_of_bytes(Preprocessing preprocessing) {
  FloatOfByte floats;
  for (size_t i = 0; i < floats.size(); ++i) {
    const auto value = static_cast<float>(i);
    floats[i] = preprocessing == Preprocessing::Signed ? value / 127.5F - 1.0F
                : preprocessing == Preprocessing::Unit ? value / 255.0F
                                                       : value;
  }
  return floats;
}

const FloatOfByte& float_of_byte(Preprocessing preprocessing) {
  static const std::array<FloatOfByte, 3> tables{floats_of_bytes(Preprocessing::Signed),
                                                 floats_of_bytes(Preprocessing::Unit),
                                                 floats_of_bytes(Preprocessing::Raw)};
  return tables[static_cast<size_t>(preprocessing)];
}

/// `count` pixels of `channels` bytes to floats; `swap`: red and blue change places.
void write_floats(const uint8_t* pixels, size_t count, size_t channels, size_t input_channels, bool swap,
                  const FloatOfByte& table, float* target) {
  if (channels == 1 && input_channels == 3) {
    for (size_t i = 0; i < count; ++i)
      target[3 * i] = target[3 * i + 1] = target[3 * i + 2] = table[pixels[i]];
  } else if (swap) {
    for (size_t i = 0; i < 3 * count; i += 3) {
      target[i] = table[pixels[i + 2]];
      target[i + 1] = table[pixels[i + 1]];
      target[i + 2] = table[pixels[i]];
    }
  } else {
    for (size_t i = 0; i < channels * count; ++i) target[i] = table[pixels[i]];
  }
}

constexpr int32_t one_half = 1 << (ResampleAxis::fraction_bits - 1);

uint8_t to_byte(int32_t sum) {  // weights are never negative, but may add up to a little more than one
  return static_cast<uint8_t>(std::min(sum >> ResampleAxis::fraction_bits, 255));
}

template <size_t channels>
void resample(const ResampleAxis& axis, const uint8_t* source, uint8_t* target) {
  for (size_t i = 0; i < axis.count(); ++i) {
    int32_t sums[channels];
    std::fill_n(sums, channels, one_half);
    const int32_t* weights = axis.weights(i);
    const size_t taps = axis.end(i) - axis.begin(i);
    const uint8_t* pixel = source + channels * axis.begin(i);
    for (size_t tap = 0; tap < taps; ++tap, pixel += channels)
      for (size_t c = 0; c < channels; ++c) sums[c] += pixel[c] * weights[tap];
    for (size_t c = 0; c < channels; ++c) target[channels * i + c] = to_byte(sums[c]);
  }
}

}  // namespace

PixelFormat pixel_format(const std::string& name) {
  return parse<PixelFormat, 3>("format", name, {"rgb8", "bgr8", "grey8"});
}

Preprocessing preprocessing(const std::string& name) {
  return parse<Preprocessing, 3>("preprocessing", name, {"signed", "unit", "raw"});
}

Fit fit(const std::string& name) {
  return parse<Fit, 4>("fit", name, {"crop", "stretch", "letterbox", "exact"});
}

Colour colour(const std::string& name) {
  return parse<Colour, 3>("colour", name, {"rgb", "bgr", "grey"});
}

void ResampleAxis::prepare(size_t source, size_t resized, size_t first, size_t count) {
  const std::array<size_t, 4> wanted{source, resized, first, count};
  if (prepared_ == wanted) return;
  prepared_ = {};  // until all is there: an allocation may fail
  begins_.resize(count);
  starts_.assign(1, 0);
  starts_.reserve(count + 1);
  weights_.clear();
  max_taps_ = 0;
  // The operations and their order are Pillow's: another order would round differently.
  const double scale = static_cast<double>(source) / static_cast<double>(resized);
  const double support = std::max(scale, 1.0);
  const double per_pixel = 1.0 / support;
  for (size_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(first + i) + 0.5) * scale;
    const auto begin = static_cast<size_t>(std::max(centre - support + 0.5, 0.0));
    const size_t end = std::min(static_cast<size_t>(centre + support + 0.5), source);
    double total = 0;
    exact_.clear();
    for (size_t x = begin; x < end; ++x) {
      const double distance = std::abs((static_cast<double>(x) - centre + 0.5) * per_pixel);
      exact_.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
      total += exact_.back();
    }
    for (double weight : exact_)
      weights_.push_back(static_cast<int32_t>(0.5 + weight / total * (1 << fraction_bits)));
    begins_[i] = begin;
    starts_.push_back(weights_.size());
    max_taps_ = std::max(max_taps_, end - begin);
  }
  prepared_ = wanted;
}

const uint8_t* FrameConverter::source_row(const FrameView& frame, size_t channels, size_t y) {
  const uint8_t* row = frame.data + y * frame.stride;
  if (frame.format == PixelFormat::Grey8 || channels == 3) return row;
  grey_.resize(frame.width);
  const size_t red = frame.format == PixelFormat::Rgb8 ? 0 : 2;
  for (size_t x = 0; x < frame.width; ++x) {  // ITU-R 601-2 luma, as Pillow rounds it
    const uint8_t* pixel = row + 3 * x;
    grey_[x] = static_cast<uint8_t>(
        (pixel[red] * 19595U + pixel[1] * 38470U + pixel[2 - red] * 7471U + 0x8000U) >> 16);
  }
  return grey_.data();
}

void FrameConverter::resample_row(const uint8_t* source, size_t channels, uint8_t* target) const {
  if (channels == 3)
    resample<3>(across_, source, target);
  else
    resample<1>(across_, source, target);
}

void FrameConverter::blend_rows(size_t row) {
  const size_t row_bytes = blended_.size();
  const int32_t* weights = down_.weights(row);
  std::fill(sums_.begin(), sums_.end(), one_half);
  for (size_t y = down_.begin(row); y < down_.end(row); ++y) {
    const int32_t weight = weights[y - down_.begin(row)];
    const uint8_t* source = ring_.data() + y % down_.max_taps() * row_bytes;
    for (size_t i = 0; i < row_bytes; ++i) sums_[i] += source[i] * weight;
  }
  for (size_t i = 0; i < row_bytes; ++i) blended_[i] = to_byte(sums_[i]);
}

void FrameConverter::convert(const FrameView& frame, const FrameInput& input, float* destination) {
  check(frame, input);
  const FloatOfByte& table = float_of_byte(input.preprocessing);
  const bool grey = frame.format == PixelFormat::Grey8 || input.colour == Colour::Grey;
  const size_t channels = grey ? 1 : 3;  // of what is resized: grey before, as Pillow's convert
  const bool swap = !grey && (frame.format == PixelFormat::Bgr8) != (input.colour == Colour::Bgr);
  const size_t row_floats = input.width * input.channels();
  if (frame.width == input.width && frame.height == input.height) {
    for (size_t y = 0; y < frame.height; ++y)
      write_floats(source_row(frame, channels, y), frame.width, channels, input.channels(), swap, table,
                   destination + y * row_floats);
    return;
  }

  const Placement p = place(frame, input);
  across_.prepare(frame.width, p.width, p.crop_left, p.used_width);
  down_.prepare(frame.height, p.height, p.crop_top, p.used_height);
  // Which axis first is Pillow's choice (since 13.0, python-pillow/Pillow#9549); the two round differently.
  const bool down_first = frame.height > p.height && frame.height - p.height + 2 * p.width > 2 * frame.width;
  const size_t ring_bytes = (down_first ? frame.width : p.used_width) * channels;  // a row's
  ring_.resize(down_.max_taps() * ring_bytes);
  sums_.resize(ring_bytes);
  blended_.resize(ring_bytes);
  if (down_first) pixels_.resize(p.used_width * channels);
  if (input.fit == Fit::Letterbox) std::fill_n(destination, input.height * row_floats, table[pad_grey]);
  float* target = destination + p.pad_top * row_floats + p.pad_left * input.channels();
  size_t next = 0;
  for (size_t row = 0; row < p.used_height; ++row, target += row_floats) {
    for (next = std::max(next, down_.begin(row)); next < down_.end(row); ++next) {
      const uint8_t* source = source_row(frame, channels, next);
      uint8_t* kept = ring_.data() + next % down_.max_taps() * ring_bytes;
      if (down_first)
        std::memcpy(kept, source, ring_bytes);
      else
        resample_row(source, channels, kept);
    }
    blend_rows(row);
    if (down_first) resample_row(blended_.data(), channels, pixels_.data());
    write_floats(down_first ? pixels_.data() : blended_.data(), p.used_width, channels, input.channels(),
                 swap, table, target);
  }
}

}  // namespace piqi
