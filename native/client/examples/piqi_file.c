/* Classifies (or finds boxes in) a picture: a binary PPM or PGM file, or raw pixels.
 *
 *     cc -std=c99 -I.. piqi_file.c ../piqi.c -o piqi_file
 *     ./piqi_file [-s SOCKET] [-m MODEL] [-k K | -b SCORE] [-n TIMES] [-r WIDTHxHEIGHT[:rgb8|bgr8|grey8]]
 * FILE
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "piqi.h"

enum { POOL_BYTES = 64 << 20 };

static int complain(const char* file, const char* what) {
  fprintf(stderr, "piqi_file: %s: %s\n", file, what);
  return 0;
}

/* A number of a PPM header; comments begin with #. */
static int header_number(FILE* file, uint32_t* value) {
  int c = getc(file);
  unsigned number;
  while (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = getc(file);
    c = getc(file);
  }
  ungetc(c, file);
  if (c < '0' || c > '9' || fscanf(file, "%9u", &number) != 1) return 0;
  *value = number;
  return 1;
}

/* Size and format from the header of a PPM (P6) or PGM (P5). */
static int read_header(FILE* file, const char* name, piqi_request* request) {
  uint32_t highest = 0;
  const int p = getc(file), kind = getc(file);
  if (p != 'P' || (kind != '5' && kind != '6'))
    return complain(name, "is not a binary PPM or PGM: use -r for raw pixels");
  request->format = kind == '6' ? PIQI_RGB8 : PIQI_GREY8;
  if (!header_number(file, &request->width) || !header_number(file, &request->height) ||
      !header_number(file, &highest) || getc(file) == EOF)
    return complain(name, "has a damaged header");
  if (highest != 255) return complain(name, "has not 255 as its highest value");
  return 1;
}

static int parse_raw(const char* text, piqi_request* request) {
  char format[16] = "rgb8";
  unsigned width, height;
  if (sscanf(text, "%9ux%9u:%15s", &width, &height, format) < 2) return 0;
  request->width = width;
  request->height = height;
  request->format = strcmp(format, "bgr8") == 0    ? PIQI_BGR8
                    : strcmp(format, "grey8") == 0 ? PIQI_GREY8
                                                   : PIQI_RGB8;
  return request->format != PIQI_RGB8 || strcmp(format, "rgb8") == 0;
}

static int read_picture(const char* name, int raw, piqi_request* request, void* pool, size_t pool_bytes) {
  FILE* file = fopen(name, "rb");
  uint64_t size;
  int good;
  if (!file) return complain(name, strerror(errno));
  good = raw || read_header(file, name, request);
  size = (uint64_t)request->width * request->height * (request->format == PIQI_GREY8 ? 1 : 3);
  if (good && (size == 0 || size > pool_bytes))
    good = complain(name, "has no pixels, or more than 64 MiB of them");
  if (good && fread(pool, 1, (size_t)size, file) != size) good = complain(name, "ends before its last pixel");
  fclose(file);
  return good;
}

static void print_result(const piqi_result* result) {
  size_t i;
  printf("%s: point %d (%s), %.1f %%, executor %.0f us, waited %.0f us%s%s\n", result->model, result->point,
         result->order, result->accuracy, result->latency_us, result->queue_us,
         result->degraded[0] ? ", limits not kept: " : "", result->degraded);
  for (i = 0; i < result->decoded_count; ++i) {
    const piqi_decoded* d = &result->decoded[i];
    printf("%8.4f  %4d %s", d->score, d->index, d->label);
    if (d->width > 0) printf("  at %.0f,%.0f size %.0fx%.0f", d->x, d->y, d->width, d->height);
    printf("\n");
  }
}

int main(int argc, char** argv) {
  piqi_options options;
  piqi_request request;
  piqi_result* result = (piqi_result*)malloc(sizeof *result);
  piqi_client* client = NULL;
  int times = 1, raw = 0, status, option, exit_code = 1;
  memset(&options, 0, sizeof options);
  memset(&request, 0, sizeof request);
  options.name = "piqi_file";
  options.pool_bytes = POOL_BYTES;
  request.top_k = 5;
  while ((option = getopt(argc, argv, "s:m:k:b:n:r:")) != -1) {
    if (option == 's') options.socket_path = optarg;
    if (option == 'm') request.model = optarg;
    if (option == 'k') request.top_k = atoi(optarg);
    if (option == 'n') times = atoi(optarg);
    if (option == 'b') {
      request.top_k = 0;
      request.score = atof(optarg);
    }
    if (option == 'r') raw = parse_raw(optarg, &request) ? 1 : -1;
    if (option == '?') raw = -1;
  }
  if (raw < 0 || optind + 1 != argc || !result) {
    fprintf(stderr,
            "usage: %s [-s SOCKET] [-m MODEL] [-k K | -b SCORE] [-n TIMES] [-r "
            "WIDTHxHEIGHT[:rgb8|bgr8|grey8]] FILE\n",
            argv[0]);
    free(result);
    return 2;
  }
  status = piqi_open(&options, &client);
  if (status == PIQI_OK &&
      read_picture(argv[optind], raw, &request, piqi_pool(client), piqi_pool_bytes(client))) {
    while (status == PIQI_OK && times-- > 0) {
      status = piqi_infer(client, &request, result);
      if (status == PIQI_OK) print_result(result);
    }
    exit_code = status != PIQI_OK;
  }
  if (status != PIQI_OK) fprintf(stderr, "piqi_file: %s\n", piqi_message(client));
  piqi_close(client);
  free(result);
  return exit_code;
}
