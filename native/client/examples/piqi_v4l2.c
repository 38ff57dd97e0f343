/* Streams a camera to the daemon: V4L2 (memory-mapped buffers; RGB24, BGR24, YUYV or GREY), best class a
 * frame.
 *
 *     cc -std=c99 -I.. piqi_v4l2.c ../piqi.c -o piqi_v4l2
 *     ./piqi_v4l2 [-d /dev/video0] [-g 640x480] [-n FRAMES] [-s SOCKET] [-m MODEL] [-l MAX_LATENCY_MS]
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "piqi.h"

enum { BUFFERS = 4, FRAME_TIMEOUT_MS = 3000 };

typedef struct {
  const char* name;
  int file;
  struct v4l2_pix_format format;
  size_t frame_bytes; /* to the end of the last row's last pixel */
  unsigned count;
  struct {
    void* data;
    size_t size_bytes;
  } buffers[BUFFERS];
} camera;

static volatile sig_atomic_t stopped;

static void stop(int number) {
  (void)number;
  stopped = 1;
}

static int complain(const camera* c, const char* what) {
  fprintf(stderr, "piqi_v4l2: %s: %s%s%s\n", c->name, what, errno ? ": " : "", errno ? strerror(errno) : "");
  return 0;
}

static int control(const camera* c, unsigned long request, void* argument) {
  int result;
  do result = ioctl(c->file, request, argument);
  while (result < 0 && errno == EINTR);
  return result == 0;
}

/* A format that can be converted, as near to the wanted size as the camera gets. */
static int choose_format(camera* c, unsigned width, unsigned height) {
  static const uint32_t known[] = {V4L2_PIX_FMT_RGB24, V4L2_PIX_FMT_BGR24, V4L2_PIX_FMT_YUYV,
                                   V4L2_PIX_FMT_GREY};
  size_t i;
  for (i = 0; i < sizeof known / sizeof known[0]; ++i) {
    struct v4l2_format format;
    memset(&format, 0, sizeof format);
    format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    format.fmt.pix.width = width;
    format.fmt.pix.height = height;
    format.fmt.pix.pixelformat = known[i];
    format.fmt.pix.field = V4L2_FIELD_ANY;
    /* The driver answers with another format where it has not this one. */
    if (control(c, VIDIOC_S_FMT, &format) && format.fmt.pix.pixelformat == known[i]) {
      const uint32_t bytes = known[i] == V4L2_PIX_FMT_GREY ? 1 : known[i] == V4L2_PIX_FMT_YUYV ? 2 : 3;
      c->format = format.fmt.pix;
      if (c->format.bytesperline < c->format.width * bytes) c->format.bytesperline = c->format.width * bytes;
      c->frame_bytes = (size_t)c->format.bytesperline * (c->format.height - 1) + c->format.width * bytes;
      return 1;
    }
  }
  errno = 0;
  return complain(c, "has none of the formats RGB24, BGR24, YUYV, GREY");
}

static int map_buffers(camera* c) {
  struct v4l2_requestbuffers wanted;
  memset(&wanted, 0, sizeof wanted);
  wanted.count = BUFFERS;
  wanted.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  wanted.memory = V4L2_MEMORY_MMAP;
  if (!control(c, VIDIOC_REQBUFS, &wanted)) return complain(c, "gives no buffers");
  for (c->count = 0; c->count < wanted.count && c->count < BUFFERS; ++c->count) {
    struct v4l2_buffer buffer;
    void* data;
    memset(&buffer, 0, sizeof buffer);
    buffer.type = wanted.type;
    buffer.memory = wanted.memory;
    buffer.index = c->count;
    if (!control(c, VIDIOC_QUERYBUF, &buffer)) return complain(c, "hides its buffers");
    if (buffer.length < c->frame_bytes) return complain(c, "gives buffers that are too small");
    data = mmap(NULL, buffer.length, PROT_READ | PROT_WRITE, MAP_SHARED, c->file, (off_t)buffer.m.offset);
    if (data == MAP_FAILED) return complain(c, "buffers cannot be mapped");
    c->buffers[c->count].data = data;
    c->buffers[c->count].size_bytes = buffer.length;
    if (!control(c, VIDIOC_QBUF, &buffer)) return complain(c, "does not take its buffer");
  }
  return c->count ? 1 : complain(c, "gives no buffers");
}

static int open_camera(camera* c, unsigned width, unsigned height) {
  struct v4l2_capability capability;
  int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  uint32_t has;
  memset(&capability, 0, sizeof capability);
  c->file = open(c->name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (c->file < 0) return complain(c, "cannot be opened as a camera");
  if (!control(c, VIDIOC_QUERYCAP, &capability)) return complain(c, "is no V4L2 device");
  has = capability.capabilities & V4L2_CAP_DEVICE_CAPS ? capability.device_caps : capability.capabilities;
  errno = 0;
  if (!(has & V4L2_CAP_VIDEO_CAPTURE) || !(has & V4L2_CAP_STREAMING))
    return complain(c, "cannot capture by streaming (single-planar)");
  if (!choose_format(c, width, height) || !map_buffers(c)) return 0;
  return control(c, VIDIOC_STREAMON, &type) ? 1 : complain(c, "does not start");
}

static void close_camera(camera* c) {
  int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  if (c->file < 0) return;
  control(c, VIDIOC_STREAMOFF, &type);
  while (c->count-- > 0) munmap(c->buffers[c->count].data, c->buffers[c->count].size_bytes);
  close(c->file);
}

static uint8_t clamped(int value) {
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* ITU-R BT.601, 16..235, in 1/256. `stride`: bytes of a source row; the target's rows touch. */
static void yuyv_to_rgb(const uint8_t* source, size_t stride, unsigned width, unsigned height,
                        uint8_t* target) {
  unsigned x, y;
  for (y = 0; y < height; ++y, source += stride)
    for (x = 0; x < width; ++x, target += 3) {
      const uint8_t* pair = source + 4 * (size_t)(x / 2);
      const int luma = 298 * (pair[x % 2 ? 2 : 0] - 16) + 128, u = pair[1] - 128, v = pair[3] - 128;
      target[0] = clamped((luma + 409 * v) / 256);
      target[1] = clamped((luma - 100 * u - 208 * v) / 256);
      target[2] = clamped((luma + 516 * u) / 256);
    }
}

/* Into the pool. What the camera's format leaves as it is, the daemon converts. */
static void copy_frame(const camera* c, const void* data, uint8_t* target, piqi_request* request) {
  const struct v4l2_pix_format* f = &c->format;
  request->width = f->width;
  request->height = f->height;
  if (f->pixelformat == V4L2_PIX_FMT_YUYV) {
    request->format = PIQI_RGB8;
    request->stride = 0;
    yuyv_to_rgb((const uint8_t*)data, f->bytesperline, f->width, f->height, target);
    return;
  }
  request->format = f->pixelformat == V4L2_PIX_FMT_GREY    ? PIQI_GREY8
                    : f->pixelformat == V4L2_PIX_FMT_RGB24 ? PIQI_RGB8
                                                           : PIQI_BGR8;
  request->stride = f->bytesperline;
  memcpy(target, data, c->frame_bytes);
}

/* The newest frame goes to the pool: older ones that wait are given back unseen. 1, or 0 with a message. */
static int next_frame(camera* c, uint8_t* target, piqi_request* request) {
  struct v4l2_buffer newest, buffer;
  struct pollfd ready;
  int have = 0;
  ready.fd = c->file;
  ready.events = POLLIN;
  errno = 0;
  if (poll(&ready, 1, FRAME_TIMEOUT_MS) <= 0) return stopped ? 0 : complain(c, "gives no frame");
  memset(&newest, 0, sizeof newest);
  for (;;) {
    memset(&buffer, 0, sizeof buffer);
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer.memory = V4L2_MEMORY_MMAP;
    if (!control(c, VIDIOC_DQBUF, &buffer)) break;
    if (have && !control(c, VIDIOC_QBUF, &newest)) return complain(c, "does not take its buffer");
    newest = buffer;
    have = 1;
  }
  if (!have) return errno == EAGAIN ? 1 : complain(c, "lost its frame");
  if (newest.index >= c->count) return complain(c, "gives an unknown buffer");
  if (newest.bytesused >= c->frame_bytes) /* else a damaged frame: the one before once more */
    copy_frame(c, c->buffers[newest.index].data, target, request);
  return control(c, VIDIOC_QBUF, &newest) ? 1 : complain(c, "does not take its buffer");
}

static int stream(camera* c, piqi_client* client, const char* model, long frames) {
  piqi_request request;
  piqi_result* result = (piqi_result*)malloc(sizeof *result);
  int good = result != NULL, status = PIQI_OK;
  memset(&request, 0, sizeof request);
  request.model = model;
  request.top_k = 1;
  while (good && !stopped && frames != 0) {
    good = next_frame(c, (uint8_t*)piqi_pool(client), &request);
    if (!good || !request.width) continue;
    status = piqi_infer(client, &request, result);
    if (status == PIQI_OK && result->decoded_count)
      printf("%-24s %6.3f  point %d, %.1f %%, %.1f ms%s%s\n", result->decoded[0].label,
             result->decoded[0].score, result->point, result->accuracy,
             1e-3 * (result->latency_us + result->queue_us), result->degraded[0] ? ", not kept: " : "",
             result->degraded);
    else if (status != PIQI_OK)
      fprintf(stderr, "piqi_v4l2: %s\n", piqi_message(client));
    /* A frame that came too late or whose processor failed is one frame lost; the camera goes on. */
    if (status != PIQI_OK && status != PIQI_DROPPED && status != PIQI_DEADLINE &&
        status != PIQI_BACKEND_FAILED && status != PIQI_BACKEND_HUNG)
      good = 0;
    if (frames > 0) --frames;
    fflush(stdout);
  }
  free(result);
  return good || stopped;
}

int main(int argc, char** argv) {
  camera c;
  piqi_options options;
  piqi_limits limits;
  piqi_client* client = NULL;
  struct sigaction action;
  unsigned width = 640, height = 480;
  long frames = -1;
  int option, good = 1;
  memset(&c, 0, sizeof c);
  memset(&options, 0, sizeof options);
  memset(&limits, 0, sizeof limits);
  memset(&action, 0, sizeof action);
  c.name = "/dev/video0";
  c.file = -1;
  options.name = "piqi_v4l2";
  while ((option = getopt(argc, argv, "d:g:n:s:m:l:")) != -1) {
    if (option == 'd') c.name = optarg;
    if (option == 'g' && sscanf(optarg, "%5ux%5u", &width, &height) != 2) good = 0;
    if (option == 'n') frames = atol(optarg);
    if (option == 's') options.socket_path = optarg;
    if (option == 'm') limits.model = optarg;
    if (option == 'l') limits.max_latency_ms = atof(optarg);
    if (option == '?') good = 0;
  }
  if (!good || optind != argc) {
    fprintf(
        stderr,
        "usage: %s [-d DEVICE] [-g WIDTHxHEIGHT] [-n FRAMES] [-s SOCKET] [-m MODEL] [-l MAX_LATENCY_MS]\n",
        argv[0]);
    return 2;
  }
  action.sa_handler = stop;
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  good = open_camera(&c, width, height);
  if (good) {
    /* Room for either: rows as the camera pads them, or as RGB. */
    const size_t row =
        c.format.bytesperline > 3 * c.format.width ? c.format.bytesperline : 3 * c.format.width;
    options.pool_bytes = row * c.format.height;
    good = piqi_open(&options, &client) == PIQI_OK &&
           (limits.max_latency_ms <= 0 || piqi_set_limits(client, &limits, NULL) == PIQI_OK);
    if (!good) fprintf(stderr, "piqi_v4l2: %s\n", piqi_message(client));
    good = good && stream(&c, client, limits.model, frames);
  }
  piqi_close(client);
  close_camera(&c);
  return !good;
}
