/* Client of PiQi's daemon (protocol version 1) in C99, also for C++. No dependencies but Linux (>= 3.17).
 *
 * A client connects to piqid, shares a pool of memory with it, writes frames there and asks for inference:
 *
 *     piqi_options options = {0};
 *     options.pool_bytes = 1 << 20;
 *     piqi_client *client;
 *     if (piqi_open(&options, &client) != PIQI_OK) { puts(piqi_message(client)); ... }
 *     read_frame(piqi_pool(client));
 *     piqi_request request = {0};
 *     request.format = PIQI_RGB8; request.width = 640; request.height = 480; request.top_k = 5;
 *     piqi_result result;
 *     if (piqi_infer(client, &request, &result) == PIQI_OK) puts(result.decoded[0].label);
 *     piqi_close(client);
 *
 * Every call returns PIQI_OK or another status and then piqi_message() says what happened. A call ends within
 * its timeout. Where the daemon has gone, a call waits for it, connects again with pool and limits as they
 * were, and repeats what it asked, until the timeout. A client is for one thread at a time. docs/clients.md
 * has more.
 */
#ifndef PIQI_H
#define PIQI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PIQI_PROTOCOL_VERSION 1
#define PIQI_DEFAULT_SOCKET "/run/piqi/piqid.sock"
#ifndef PIQI_DEFAULT_TIMEOUT_MS
#define PIQI_DEFAULT_TIMEOUT_MS 5000
#endif
#define PIQI_NAME_BYTES 256
#define PIQI_ORDER_BYTES 512
#define PIQI_MAX_RANK 8
#define PIQI_MAX_OUTPUTS 16
#define PIQI_MAX_DECODED 100
#define PIQI_MAX_SUBMITTED 16
#define PIQI_MAX_MODES 32
#define PIQI_MODE_BYTES 40
#define PIQI_MAX_EVENTS 32 /* that wait for piqi_next_event() */
#define PIQI_MESSAGE_BYTES 512
#define PIQI_MAX_POOL_BYTES ((size_t)256 << 20)

/* What a call returns. */
enum {
  PIQI_OK = 0,
  PIQI_ARGUMENT, /* what the caller passed */
  PIQI_MEMORY,   /* no memory, or no descriptor, for it */
  PIQI_CONNECT,  /* there is no daemon at this path, or no permission */
  PIQI_LOST,     /* the connection ended and the daemon did not come back in time */
  PIQI_TIMEOUT,  /* no answer in time */
  PIQI_PROTOCOL, /* an answer that is not of this protocol */
  /* The daemon's own codes, in the order of docs/protocol.md. */
  PIQI_BAD_MESSAGE = 100,
  PIQI_TOO_LARGE,
  PIQI_VERSION,
  PIQI_UNKNOWN_OP,
  PIQI_BAD_ARGUMENT,
  PIQI_UNKNOWN_MODEL,
  PIQI_BAD_POOL,
  PIQI_UNSEALED_POOL,
  PIQI_TOO_MANY_DESCRIPTORS,
  PIQI_DROPPED,
  PIQI_DEADLINE,
  PIQI_QUEUE_FULL,
  PIQI_UNAVAILABLE,
  PIQI_BACKEND_FAILED,
  PIQI_BACKEND_HUNG,
  PIQI_SHUTTING_DOWN,
  PIQI_INTERNAL,
  PIQI_UNKNOWN_CODE /* one that this client does not know: the message has it */
};

typedef struct piqi_client piqi_client;

/* All zero: the defaults. */
typedef struct piqi_options {
  const char* socket_path; /* NULL: the environment's PIQI_SOCKET, else PIQI_DEFAULT_SOCKET */
  const char* name;        /* what the daemon's journal calls this client; may be NULL */
  int timeout_ms;          /* of every call, with its reconnections; 0: PIQI_DEFAULT_TIMEOUT_MS */
  size_t pool_bytes;       /* shared memory for frames and outputs; 0: none */
} piqi_options;

typedef struct piqi_server {
  int version; /* of the protocol */
  int pid;
  char server[PIQI_NAME_BYTES]; /* "piqid 1.0" */
  char board[PIQI_NAME_BYTES];
} piqi_server;

typedef struct piqi_tensor {
  char name[PIQI_NAME_BYTES];
  int rank;
  uint32_t shape[PIQI_MAX_RANK]; /* NHWC */
} piqi_tensor;

typedef struct piqi_model {
  char name[PIQI_NAME_BYTES];
  char board[PIQI_NAME_BYTES];
  piqi_tensor input;
  char preprocessing[16]; /* signed, unit, raw */
  char fit[16];           /* crop, stretch, letterbox, exact */
  char colour[16];        /* rgb, bgr, grey; empty: the input is not an image */
  size_t output_count;
  piqi_tensor outputs[PIQI_MAX_OUTPUTS];
  int points;            /* operating points in its table */
  double float_accuracy; /* in percent */
  double int8_accuracy;
} piqi_model;

/* How a frame lies in the pool. PIQI_FLOAT32_RAW: exactly the model's input tensor; width, height, stride are
 * 0. */
typedef enum piqi_format { PIQI_RGB8, PIQI_BGR8, PIQI_GREY8, PIQI_FLOAT32_RAW } piqi_format;

/* All zero but width and height: an RGB frame at the pool's start for the only model, nothing but run. */
typedef struct piqi_request {
  const char* model; /* NULL: the only one */
  piqi_format format;
  uint32_t width, height; /* pixels; the daemon resizes */
  uint32_t stride;        /* bytes from row to row; 0: rows touch */
  size_t offset;          /* of the frame in the pool */
  double deadline_ms;     /* an answer later than this is of no use; 0: none */
  int want_outputs;       /* not 0: raw outputs go to the pool from output_offset (a multiple of 64) on */
  size_t output_offset;
  int top_k;    /* > 0: the best classes, decoded */
  double score; /* > 0: boxes with at least this score (0..1), decoded; not together with top_k */
  double iou;   /* boxes: how much two of a class may overlap; 0: the daemon's default */
  int latest;   /* not 0: takes the place of this client's last frame that still waits, which ends in
                   PIQI_DROPPED */
} piqi_request;

typedef struct piqi_output {
  piqi_tensor tensor;
  char dtype[16];   /* "float32"... */
  const void* data; /* in the pool, until the next call that writes there */
  size_t size_bytes;
} piqi_output;

/* A class or a box. A box is in the frame's pixels, x and y its upper left corner; else all four are 0. */
typedef struct piqi_decoded {
  int index;                   /* of the class */
  char label[PIQI_NAME_BYTES]; /* empty where the model has none */
  double score;
  double x, y, width, height;
} piqi_decoded;

typedef struct piqi_result {
  char model[PIQI_NAME_BYTES];
  int point; /* the operating point's index in the model's table; -1: the fallback after a fault */
  char order[PIQI_ORDER_BYTES];   /* its mapping, a letter a layer */
  double accuracy;                /* in percent, as the planner measured or predicted it */
  double latency_us;              /* of the executor */
  double queue_us;                /* how long the request waited */
  int late;                       /* not 0: done, but after the deadline */
  char degraded[PIQI_NAME_BYTES]; /* limits that could not be kept, by commas; empty: all were */
  size_t output_count;
  piqi_output outputs[PIQI_MAX_OUTPUTS];
  size_t decoded_count;
  piqi_decoded decoded[PIQI_MAX_DECODED]; /* best first */
} piqi_result;

/* What this client wants of a model; 0: no such limit. */
typedef struct piqi_limits {
  const char* model;   /* NULL: the only one */
  double min_accuracy; /* percent */
  double max_power_mw;
  double max_latency_ms;
  double deadline_ms; /* of every request that has none of its own */
} piqi_limits;

typedef struct piqi_limits_result {
  int point; /* chosen under them; -1: not told */
  char degraded[PIQI_NAME_BYTES];
} piqi_limits_result;

/* By which the daemon chooses operating points. */
typedef struct piqi_policy {
  char policy[PIQI_NAME_BYTES];
  char mode[PIQI_MODE_BYTES];
  char rule[PIQI_NAME_BYTES]; /* that chose the mode; empty: none */
  char reason[PIQI_NAME_BYTES];
  int overridden;      /* not 0: the mode was set by a client */
  double seconds_left; /* of that; 0: for good */
  size_t mode_count;   /* that there are to set */
  char modes[PIQI_MAX_MODES][PIQI_MODE_BYTES];
} piqi_policy;

/* Kinds of events; piqi_subscribe() takes several, joined by |. */
enum {
  PIQI_SWITCH = 1, /* another operating point: model, old_point, point, order, prepare_ms */
  PIQI_THROTTLE =
      2, /* a processor is slower than predicted, or no longer: model, processors, factor, active */
  PIQI_DEGRADE = 4, /* limits that no point keeps: model, degraded; active: there are some */
  PIQI_RELOAD = 8,  /* policy and bundles were read again: active: all of them; message */
  PIQI_FAULT = 16   /* a processor failed: model, code, message, processors, point */
};

/* What a kind does not have is 0 or empty. */
typedef struct piqi_event {
  int kind;
  unsigned missed; /* events that were dropped before this one, since nobody asked for them */
  char model[PIQI_NAME_BYTES];
  int old_point, point;
  char order[PIQI_ORDER_BYTES];
  double prepare_ms;
  char processors[32]; /* their letters */
  double factor;       /* measured / predicted latency */
  int active;
  char degraded[PIQI_NAME_BYTES]; /* by commas */
  char code[PIQI_MODE_BYTES];
  char message[PIQI_MESSAGE_BYTES];
} piqi_event;

/* Connects, greets, shares the pool. `*client` is set unless there is no memory for it at all, also on
 * failure: its message says why, the next call on it tries again, and piqi_close() frees it. `options` may be
 * NULL. */
int piqi_open(const piqi_options* options, piqi_client** client);

/* Ends the connection and unmaps the pool. NULL does nothing. */
void piqi_close(piqi_client* client);

/* Connects again, whatever was going on. The pool keeps its address and contents. */
int piqi_reconnect(piqi_client* client);

/* What the last call that failed said; "out of memory" for NULL. Valid until the next call. */
const char* piqi_message(const piqi_client* client);

/* "timeout", "bad_argument"... */
const char* piqi_status_name(int status);

/* The shared memory (aligned to a page; NULL without) and its size. The address stays the same until
 * piqi_close(). After a call that timed out the daemon may still read and write there until the next call has
 * returned PIQI_OK. */
void* piqi_pool(const piqi_client* client);
size_t piqi_pool_bytes(const piqi_client* client);

/* Who serves. */
int piqi_hello(piqi_client* client, piqi_server* server);

/* At most `capacity` models; `*count`: how many there are. */
int piqi_models(piqi_client* client, piqi_model* models, size_t capacity, size_t* count);

/* Runs the model on a frame in the pool. */
int piqi_infer(piqi_client* client, const piqi_request* request, piqi_result* result);

/* The first half of piqi_infer(): sends the request and returns; at most PIQI_MAX_SUBMITTED are under way.
 * The frame and the place of its outputs are the daemon's until piqi_receive() has ended for `*id`. While the
 * client's queue in the daemon is full this waits. */
int piqi_submit(piqi_client* client, const piqi_request* request, int64_t* id);

/* The second half, in any order of ids. After PIQI_TIMEOUT the request is still under way: ask again. After
 * any other status `id` is done with; PIQI_LOST: the connection ended, nothing is repeated by itself. */
int piqi_receive(piqi_client* client, int64_t id, piqi_result* result);

/* The policy's state. */
int piqi_get_policy(piqi_client* client, piqi_policy* policy);

/* Sets a mode for all clients, for `seconds` (0: for good); NULL: back to the policy's rules. `policy` (the
 * state afterwards) may be NULL. */
int piqi_set_policy(piqi_client* client, const char* mode, double seconds, piqi_policy* policy);

/* From now on these kinds of events come, and no others; also after a reconnection. */
int piqi_subscribe(piqi_client* client, unsigned kinds);

/* The next event; PIQI_TIMEOUT if there is none for `timeout_ms`. Events that come during other calls wait
 * here, PIQI_MAX_EVENTS of them; what happens while there is no connection is not told. */
int piqi_next_event(piqi_client* client, int timeout_ms, piqi_event* event);

/* Sets this client's limits for one model (all four: what is 0 is cleared). `result` may be NULL. */
int piqi_set_limits(piqi_client* client, const piqi_limits* limits, piqi_limits_result* result);

#ifdef __cplusplus
}
#endif
#endif
