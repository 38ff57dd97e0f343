/* See piqi.h. Three parts: JSON in, JSON out, the connection. C99, and C++ as it is. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create, seals */
#endif
#include "piqi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_MESSAGE 65536
#define MAX_DEPTH 32
#define MAX_LIMIT_SETS 8 /* models that a client has limits for */

/* ---- JSON in: a strict tokenizer (RFC 8259) over one message. ---- */

enum { T_OBJECT, T_ARRAY, T_STRING, T_NUMBER, T_TRUE, T_FALSE, T_NULL };

/* A value; children follow, then comes `next`. A member of an object is a string and behind it its value. */
typedef struct {
  int type, start, end, next; /* start, end: its text, without quotes */
} token;

typedef struct {
  const char* text;
  int at, size;
  token* tokens;
  int count, capacity;
} json;

static int add_token(json* j, int type) {
  if (j->count == j->capacity) {
    const int capacity = j->capacity ? 2 * j->capacity : 64; /* a message has at most 32768 values */
    token* tokens = (token*)realloc(j->tokens, (size_t)capacity * sizeof(token));
    if (!tokens) return -1;
    j->tokens = tokens;
    j->capacity = capacity;
  }
  j->tokens[j->count].type = type;
  j->tokens[j->count].start = j->tokens[j->count].end = j->at;
  return j->count++;
}

static int peek(const json* j) {
  return j->at < j->size ? (unsigned char)j->text[j->at] : -1;
}

static int skip(json* j, int c) {
  if (peek(j) != c) return 0;
  ++j->at;
  return 1;
}

static void skip_space(json* j) {
  while (peek(j) == ' ' || peek(j) == '\t' || peek(j) == '\n' || peek(j) == '\r') ++j->at;
}

static int is_digit(int c) {
  return c >= '0' && c <= '9';
}

static int skip_digits(json* j) {
  const int start = j->at;
  while (is_digit(peek(j))) ++j->at;
  return j->at > start;
}

static int hex_value(int c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Four hexadecimal digits, or -1; the text may end before. */
static long hex4(const char* text, const char* end) {
  long value = 0;
  int i;
  if (end - text < 4) return -1;
  for (i = 0; i < 4; ++i) {
    const int digit = hex_value((unsigned char)text[i]);
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

/* The bytes of the UTF-8 character at `text`, 0 if it is none (overlong and surrogates are not). */
static int utf8_length(const unsigned char* text, const unsigned char* end) {
  const int c = text[0];
  const int length = c < 0x80                ? 1
                     : c >= 0xC2 && c < 0xE0 ? 2
                     : c >= 0xE0 && c < 0xF0 ? 3
                     : c >= 0xF0 && c < 0xF5 ? 4
                                             : 0;
  int i;
  if (length == 0 || end - text < length) return 0;
  for (i = 1; i < length; ++i)
    if ((text[i] & 0xC0) != 0x80) return 0;
  if ((c == 0xE0 && text[1] < 0xA0) || (c == 0xED && text[1] > 0x9F)) return 0;
  if ((c == 0xF0 && text[1] < 0x90) || (c == 0xF4 && text[1] > 0x8F)) return 0;
  return length;
}

static int parse_string(json* j) {
  const int t = add_token(j, T_STRING);
  if (t < 0 || !skip(j, '"')) return 0;
  j->tokens[t].start = j->at;
  while (peek(j) != '"') {
    const unsigned char* text = (const unsigned char*)j->text + j->at;
    const int c = peek(j);
    if (c < 0x20) return 0; /* the end, too */
    if (c == '\\') {
      ++j->at;
      if (skip(j, 'u')) {
        if (hex4(j->text + j->at, j->text + j->size) < 0) return 0;
        j->at += 4;
      } else if (peek(j) <= 0 || !strchr("\"\\/bfnrt", peek(j))) {
        return 0;
      } else {
        ++j->at;
      }
    } else {
      const int length = utf8_length(text, (const unsigned char*)j->text + j->size);
      if (!length) return 0;
      j->at += length;
    }
  }
  j->tokens[t].end = j->at++;
  j->tokens[t].next = j->count;
  return 1;
}

static int parse_number(json* j) {
  const int t = add_token(j, T_NUMBER);
  if (t < 0) return 0;
  skip(j, '-');
  if (!skip(j, '0') && !skip_digits(j)) return 0;
  if (skip(j, '.') && !skip_digits(j)) return 0;
  if (skip(j, 'e') || skip(j, 'E')) {
    if (!skip(j, '-')) skip(j, '+');
    if (!skip_digits(j)) return 0;
  }
  j->tokens[t].end = j->at;
  j->tokens[t].next = j->count;
  return 1;
}

static int parse_word(json* j, const char* word, int type) {
  const int length = (int)strlen(word), t = add_token(j, type);
  if (t < 0 || j->size - j->at < length || memcmp(j->text + j->at, word, (size_t)length) != 0) return 0;
  j->at += length;
  j->tokens[t].end = j->at;
  j->tokens[t].next = j->count;
  return 1;
}

static int parse_value(json* j, int depth) {
  const int c = peek(j), close = c == '{' ? '}' : ']';
  int t;
  if (c == '"') return parse_string(j);
  if (c == '-' || is_digit(c)) return parse_number(j);
  if (c == 't') return parse_word(j, "true", T_TRUE);
  if (c == 'f') return parse_word(j, "false", T_FALSE);
  if (c == 'n') return parse_word(j, "null", T_NULL);
  if ((c != '{' && c != '[') || depth == MAX_DEPTH) return 0;
  t = add_token(j, c == '{' ? T_OBJECT : T_ARRAY);
  if (t < 0) return 0;
  ++j->at;
  skip_space(j);
  if (!skip(j, close)) {
    do {
      skip_space(j);
      if (c == '{') {
        if (!parse_string(j)) return 0;
        skip_space(j);
        if (!skip(j, ':')) return 0;
        skip_space(j);
      }
      if (!parse_value(j, depth + 1)) return 0;
      skip_space(j);
    } while (skip(j, ','));
    if (!skip(j, close)) return 0;
  }
  j->tokens[t].end = j->at;
  j->tokens[t].next = j->count;
  return 1;
}

/* Whether the message is one JSON object; it is then token 0. */
static int parse_message(json* j, const char* text, int size) {
  j->text = text;
  j->size = size;
  j->at = j->count = 0;
  skip_space(j);
  if (peek(j) != '{' || !parse_value(j, 0)) return 0;
  skip_space(j);
  return j->at == size;
}

/* A string's text, as much as fits, cut between characters. Whether all did; "" and 0 for what is no string.
 */
static int get_text(const json* j, int t, char* target, size_t capacity) {
  const char *text, *end;
  size_t size = 0;
  target[0] = '\0';
  if (t < 0 || j->tokens[t].type != T_STRING) return 0;
  text = j->text + j->tokens[t].start;
  end = j->text + j->tokens[t].end;
  while (text < end) {
    unsigned char piece[4];
    size_t length = 1;
    if (*text != '\\') {
      length = (size_t)utf8_length((const unsigned char*)text, (const unsigned char*)end);
      memcpy(piece, text, length);
      text += length;
    } else if (text[1] != 'u') {
      static const char names[] = "bfnrt", values[] = "\b\f\n\r\t";
      const char* name = strchr(names, text[1]);
      piece[0] = (unsigned char)(name ? values[name - names] : text[1]);
      text += 2;
    } else {
      unsigned long c = (unsigned long)hex4(text + 2, end);
      text += 6;
      if (c >= 0xD800 && c < 0xDC00 && end - text >= 6 && text[0] == '\\' && text[1] == 'u') {
        const long low = hex4(text + 2, end);
        if (low >= 0xDC00 && low < 0xE000) {
          c = 0x10000 + ((c - 0xD800) << 10) + (unsigned long)(low - 0xDC00);
          text += 6;
        }
      }
      if (c == 0 || (c >= 0xD800 && c < 0xE000)) c = 0xFFFD; /* what C or UTF-8 cannot hold */
      if (c < 0x80) {
        piece[0] = (unsigned char)c;
      } else {
        const unsigned char leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
        unsigned long rest = c;
        size_t i;
        length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (i = length - 1; i > 0; --i, rest >>= 6) piece[i] = (unsigned char)(0x80 | (rest & 0x3F));
        piece[0] = (unsigned char)(leads[length] | rest);
      }
    }
    if (size + length >= capacity) return 0;
    memcpy(target + size, piece, length);
    size += length;
    target[size] = '\0';
  }
  return 1;
}

/* The member's value, -1 if there is none or `object` is no object (-1, too). */
static int find(const json* j, int object, const char* key) {
  int i;
  if (object < 0 || j->tokens[object].type != T_OBJECT) return -1;
  for (i = object + 1; i < j->tokens[object].next; i = j->tokens[i + 1].next) {
    char name[32];
    if (get_text(j, i, name, sizeof name) && strcmp(name, key) == 0) return i + 1;
  }
  return -1;
}

static int is_type(const json* j, int t, int type) {
  return t >= 0 && j->tokens[t].type == type;
}

/* Without strtod: that reads what the locale says. Exact to about 1e-15. */
static int get_number(const json* j, int t, double* value) {
  const char *text, *end;
  double number = 0;
  int exponent = 0, written = 0, sign = 1, negative;
  if (!is_type(j, t, T_NUMBER)) return 0;
  text = j->text + j->tokens[t].start;
  end = j->text + j->tokens[t].end;
  negative = *text == '-';
  for (text += negative; text < end && is_digit((unsigned char)*text); ++text)
    number = number * 10 + (*text - '0');
  if (text < end && *text == '.')
    for (++text; text < end && is_digit((unsigned char)*text); ++text) {
      number = number * 10 + (*text - '0');
      --exponent;
    }
  if (text < end) { /* e or E */
    ++text;
    if (*text == '-' || *text == '+') sign = *text++ == '-' ? -1 : 1;
    for (; text < end; ++text)
      if (written < 10000) written = 10 * written + (*text - '0');
    exponent += sign * written;
  }
  for (; exponent > 0 && number != 0 && number <= 1e300; --exponent) number *= 10;
  if (exponent > 0 && number != 0) return 0; /* more than a double holds */
  if (exponent < 0) {
    double power = 1;
    for (; exponent < 0 && number != 0; ++exponent) {
      power *= 10;
      if (power >= 1e22) {
        number /= power;
        power = 1;
      }
    }
    number /= power;
  }
  if (number > 1e300) return 0;
  *value = negative ? -number : number;
  return 1;
}

static int get_integer(const json* j, int t, double low, double high, double* value) {
  return get_number(j, t, value) && *value >= low && *value <= high && (double)(long long)*value == *value;
}

static int get_int(const json* j, int t, int* value) {
  double number;
  if (!get_integer(j, t, -1, INT_MAX, &number)) return 0;
  *value = (int)number;
  return 1;
}

/* ---- JSON out. ---- */

typedef struct {
  char* data;
  size_t size, capacity;
  int overflow;
} writer;

#ifdef __GNUC__
__attribute__((format(printf, 2, 3)))
#endif
static void
put(writer* w, const char* format, ...) {
  va_list arguments;
  int size;
  va_start(arguments, format);
  size = vsnprintf(w->data + w->size, w->capacity - w->size, format, arguments);
  va_end(arguments);
  if (size < 0 || (size_t)size >= w->capacity - w->size)
    w->overflow = 1;
  else
    w->size += (size_t)size;
}

static void put_text(writer* w, const char* text) {
  put(w, "\"");
  for (; *text && !w->overflow; ++text) {
    const unsigned char c = (unsigned char)*text;
    if (c < 0x20 || c == '"' || c == '\\')
      put(w, "\\u%04x", c);
    else
      put(w, "%c", c);
  }
  put(w, "\"");
}

/* 0 <= value <= 1e9, to six places; without the locale's decimal point. */
static void put_number(writer* w, double value) {
  const long long millionths = (long long)(value * 1e6 + 0.5);
  put(w, "%lld.%06lld", millionths / 1000000, millionths % 1000000);
}

static void put_model(writer* w, const char* model) {
  if (!model) return;
  put(w, ",\"model\":");
  put_text(w, model);
}

/* ---- The connection. ---- */

typedef struct {
  char model[PIQI_NAME_BYTES]; /* empty: the only one */
  double values[4];
} limit_set;

static const char* const limit_names[4] = {"min_accuracy", "max_power_mw", "max_latency_ms", "deadline_ms"};

/* A request that was submitted. */
typedef struct {
  long long id; /* -1: none */
  int want_outputs;
  int lost;    /* its connection has ended */
  char* reply; /* its answer, if that came before it was asked for */
  int size;
} ticket;

struct piqi_client {
  int socket; /* -1: not connected */
  int timeout_ms;
  int pool_number;
  long long next_id, unanswered; /* unanswered: the last request whose answer was not waited for; -1: none */
  struct sockaddr_un address;
  char name[PIQI_NAME_BYTES];
  uint8_t* pool;
  int pool_descriptor; /* of a pool that no daemon has seen yet, else -1 */
  size_t pool_bytes;
  size_t limit_count;
  limit_set limits[MAX_LIMIT_SETS];
  ticket tickets[PIQI_MAX_SUBMITTED];
  unsigned kinds, missed; /* of events: subscribed to; dropped since the last that was taken */
  int event_first, event_count;
  piqi_event events[PIQI_MAX_EVENTS]; /* a ring */
  json reply;
  char message[2048];
  char body[MAX_MESSAGE]; /* what is sent: the members behind the id */
  char handshake[4096];   /* likewise, while `body` waits to be sent */
  char received[MAX_MESSAGE + 1];
};

static const char* const codes[] = {
    "bad_message",   "too_large",  "version",       "unknown_op",           "bad_argument",
    "unknown_model", "bad_pool",   "unsealed_pool", "too_many_descriptors", "dropped",
    "deadline",      "queue_full", "unavailable",   "backend_failed",       "backend_hung",
    "shutting_down", "internal"};
enum { code_count = sizeof codes / sizeof codes[0] };

const char* piqi_status_name(int status) {
  static const char* const own[] = {"ok", "argument", "memory", "connect", "lost", "timeout", "protocol"};
  if (status >= 0 && status < (int)(sizeof own / sizeof own[0])) return own[status];
  if (status >= PIQI_BAD_MESSAGE && status < PIQI_BAD_MESSAGE + code_count)
    return codes[status - PIQI_BAD_MESSAGE];
  return "unknown";
}

#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
static int
fail(piqi_client* c, int status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->message, sizeof c->message, format, arguments);
  va_end(arguments);
  return status;
}

static long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void disconnect(piqi_client* c) {
  int i;
  if (c->socket >= 0) close(c->socket);
  c->socket = -1;
  c->unanswered = -1;
  for (i = 0; i < PIQI_MAX_SUBMITTED; ++i) c->tickets[i].lost = !c->tickets[i].reply;
}

static int lost(piqi_client* c, const char* what) {
  const int status = fail(c, PIQI_LOST, "%s: the connection ended (%s)", c->address.sun_path, what);
  disconnect(c);
  return status;
}

/* Until the socket is ready. */
static int wait_for(piqi_client* c, short events, long long deadline) {
  for (;;) {
    const long long left = deadline - now_ms();
    struct pollfd ready;
    int count;
    ready.fd = c->socket;
    ready.events = events;
    ready.revents = 0;
    count = poll(&ready, 1, left > 0 ? (int)left : 0);
    if (count > 0) return PIQI_OK; /* an error shows when it is used */
    if (count < 0 && errno != EINTR) return fail(c, PIQI_MEMORY, "poll: %s", strerror(errno));
    if (left <= 0) return fail(c, PIQI_TIMEOUT, "%s: no answer in %d ms", c->address.sun_path, c->timeout_ms);
  }
}

static int send_request(piqi_client* c, const writer* body, int descriptor, long long deadline) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec parts[2];
  struct msghdr message;
  char head[48];
  memset(&message, 0, sizeof message);
  parts[0].iov_base = head;
  parts[0].iov_len = (size_t)snprintf(head, sizeof head, "{\"id\":%lld,", c->next_id);
  parts[1].iov_base = body->data;
  parts[1].iov_len = body->size;
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  if (descriptor >= 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
  }
  for (;;) {
    int status;
    if (sendmsg(c->socket, &message, MSG_NOSIGNAL) >= 0) return PIQI_OK;
    if (errno == EINTR) continue;
    if (errno == EMSGSIZE) return fail(c, PIQI_ARGUMENT, "the request is too large for the socket");
    if (errno != EAGAIN) return lost(c, strerror(errno));
    status = wait_for(c, POLLOUT, deadline);
    if (status != PIQI_OK) return status;
  }
}

static int not_protocol(piqi_client* c, const char* what) {
  disconnect(c);
  return fail(c, PIQI_PROTOCOL, "%s: %s", c->address.sun_path, what);
}

/* The next message; it is then `c->reply`. */
static int receive(piqi_client* c, long long deadline) {
  for (;;) {
    const ssize_t size = recv(c->socket, c->received, sizeof c->received, 0);
    int status;
    if (size > MAX_MESSAGE) return not_protocol(c, "a message of more than 65536 bytes");
    if (size > 0) {
      if (!parse_message(&c->reply, c->received, (int)size))
        return not_protocol(c, "a message that is no JSON object");
      return PIQI_OK;
    }
    if (size == 0) return lost(c, "closed by the daemon");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return lost(c, strerror(errno));
    status = wait_for(c, POLLIN, deadline);
    if (status != PIQI_OK) return status;
  }
}

/* The texts of a list, by commas. */
static void join_texts(const json* j, int list, char* target, size_t capacity) {
  size_t size = 0;
  int i;
  target[0] = '\0';
  if (!is_type(j, list, T_ARRAY)) return;
  for (i = list + 1; i < j->tokens[list].next; i = j->tokens[i].next) {
    if (size && size + 2 < capacity) target[size++] = ',';
    get_text(j, i, target + size, capacity - size);
    size += strlen(target + size);
  }
}

static const char* const event_names[] = {"switch", "throttle", "degrade", "reload", "fault"};
enum { event_kinds = sizeof event_names / sizeof event_names[0] };

/* Puts the event that came into the ring; one of a kind that is not known is passed over. */
static void keep_event(piqi_client* c) {
  const json* j = &c->reply;
  piqi_event* e;
  char name[PIQI_MODE_BYTES];
  int i;
  get_text(j, find(j, 0, "event"), name, sizeof name);
  for (i = 0; i < event_kinds && strcmp(name, event_names[i]) != 0; ++i) continue;
  if (i == event_kinds) return;
  if (c->event_count == PIQI_MAX_EVENTS) { /* the oldest goes */
    c->event_first = (c->event_first + 1) % PIQI_MAX_EVENTS;
    --c->event_count;
    ++c->missed;
  }
  e = &c->events[(c->event_first + c->event_count++) % PIQI_MAX_EVENTS];
  memset(e, 0, sizeof *e);
  e->kind = 1 << i;
  get_text(j, find(j, 0, "model"), e->model, sizeof e->model);
  get_int(j, find(j, 0, "old"), &e->old_point);
  if (!get_int(j, find(j, 0, "new"), &e->point)) get_int(j, find(j, 0, "point"), &e->point);
  get_text(j, find(j, 0, "order"), e->order, sizeof e->order);
  get_number(j, find(j, 0, "prepare_ms"), &e->prepare_ms);
  if (!get_text(j, find(j, 0, "processors"), e->processors, sizeof e->processors))
    get_text(j, find(j, 0, "processor"), e->processors, sizeof e->processors);
  get_number(j, find(j, 0, "factor"), &e->factor);
  join_texts(j, find(j, 0, "degraded"), e->degraded, sizeof e->degraded);
  e->active = is_type(j, find(j, 0, "throttled"), T_TRUE) || is_type(j, find(j, 0, "done"), T_TRUE) ||
              e->degraded[0] != '\0';
  get_text(j, find(j, 0, "code"), e->code, sizeof e->code);
  get_text(j, find(j, 0, "message"), e->message, sizeof e->message);
}

static ticket* find_ticket(piqi_client* c, long long id) {
  int i;
  for (i = 0; i < PIQI_MAX_SUBMITTED; ++i)
    if (c->tickets[i].id == id) return &c->tickets[i];
  return NULL;
}

/* What `c->reply` is: the answer to `id` (`*mine` is then set), or what is put aside: an event, an answer to
 * what was submitted. Answers that nobody waits for any more are passed over. */
static int sort_message(piqi_client* c, long long id, int* mine) {
  const json* j = &c->reply;
  const int t = find(j, 0, "id");
  ticket* other;
  double got;
  *mine = 0;
  if (t < 0 && find(j, 0, "event") >= 0) {
    keep_event(c);
    return PIQI_OK;
  }
  if (is_type(j, t, T_NULL) && is_type(j, find(j, 0, "ok"), T_FALSE)) {
    *mine = 1; /* of a request that the daemon could not read */
    return PIQI_OK;
  }
  if (!get_integer(j, t, 0, (double)(c->next_id - 1), &got))
    return not_protocol(c, "an answer to what nobody asked");
  *mine = (long long)got == id;
  other = *mine ? NULL : find_ticket(c, (long long)got);
  if (other && !other->reply) {
    other->reply = (char*)malloc((size_t)j->size);
    if (!other->reply) {
      other->lost = 1;
      return fail(c, PIQI_MEMORY, "no memory for an answer");
    }
    memcpy(other->reply, j->text, (size_t)j->size);
    other->size = j->size;
  }
  return PIQI_OK;
}

/* The answer to request `id`; it is then `c->reply`. */
static int receive_answer(piqi_client* c, long long id, long long deadline) {
  int mine = 0, status = PIQI_OK;
  while (status == PIQI_OK && !mine) {
    status = receive(c, deadline);
    if (status == PIQI_OK) status = sort_message(c, id, &mine);
  }
  return status;
}

/* What the daemon said: PIQI_OK or the code of its error. */
static int verdict(piqi_client* c) {
  const json* j = &c->reply;
  const int ok = find(j, 0, "ok"), error = find(j, 0, "error");
  char code[PIQI_NAME_BYTES], message[1500];
  int i;
  if (is_type(j, ok, T_TRUE)) return PIQI_OK;
  get_text(j, find(j, error, "message"), message, sizeof message);
  if (!is_type(j, ok, T_FALSE) || !get_text(j, find(j, error, "code"), code, sizeof code))
    return not_protocol(c, "an answer without ok, or an error without a code");
  for (i = 0; i < code_count; ++i)
    if (strcmp(code, codes[i]) == 0) return fail(c, PIQI_BAD_MESSAGE + i, "%s: %s", code, message);
  return fail(c, PIQI_UNKNOWN_CODE, "%s: %s", code, message);
}

/* Sends a request over the connection as it is; its id is then `c->next_id - 1`. */
static int send_body(piqi_client* c, const writer* body, int descriptor, long long deadline) {
  int status = PIQI_OK;
  if (body->overflow) return fail(c, PIQI_ARGUMENT, "the request has more than %d bytes", MAX_MESSAGE);
  if (c->unanswered >= 0) { /* the daemon may be using the pool for it */
    status = receive_answer(c, c->unanswered, deadline);
    if (status != PIQI_OK) return status;
    c->unanswered = -1;
  }
  status = send_request(c, body, descriptor, deadline);
  if (status == PIQI_OK) ++c->next_id;
  return status;
}

/* One request and its answer over the connection as it is. */
static int exchange(piqi_client* c, const writer* body, int descriptor, long long deadline) {
  int status = send_body(c, body, descriptor, deadline);
  if (status != PIQI_OK) return status;
  status = receive_answer(c, c->next_id - 1, deadline);
  if (status == PIQI_TIMEOUT) c->unanswered = c->next_id - 1;
  return status == PIQI_OK ? verdict(c) : status;
}

static writer start(char* data, size_t capacity, const char* op) {
  writer w;
  w.data = data;
  w.size = 0;
  /* The id stands before it. */
  w.capacity = capacity > MAX_MESSAGE - 48 ? MAX_MESSAGE - 48 : capacity;
  w.overflow = 0;
  put(&w, "\"op\":\"%s\"", op);
  return w;
}

/* A sealed memfd of the pool's size, mapped in the pool's place with its contents. */
static int make_pool(piqi_client* c) {
  const int descriptor = memfd_create("piqi-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  void* place = MAP_FAILED;
  /* Allocated now: a page that does not come later is a SIGBUS. */
  int error = descriptor < 0 ? errno : posix_fallocate(descriptor, 0, (off_t)c->pool_bytes);
  if (!error) {
    place = mmap(NULL, c->pool_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (place == MAP_FAILED || fcntl(descriptor, F_ADD_SEALS, seals) != 0) error = errno;
  }
  if (!error && c->pool) {
    memcpy(place, c->pool, c->pool_bytes);
    if (mremap(place, c->pool_bytes, c->pool_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, c->pool) == MAP_FAILED)
      error = errno;
    else
      place = c->pool;
  }
  if (error) {
    if (place != MAP_FAILED) munmap(place, c->pool_bytes);
    if (descriptor >= 0) close(descriptor);
    return fail(c, PIQI_MEMORY, "a pool of %zu bytes: %s", c->pool_bytes, strerror(error));
  }
  c->pool = (uint8_t*)place;
  c->pool_descriptor = descriptor;
  return PIQI_OK;
}

static void put_limits(writer* w, const limit_set* s) {
  int i;
  put_model(w, s->model[0] ? s->model : NULL);
  for (i = 0; i < 4; ++i) {
    put(w, ",\"%s\":", limit_names[i]);
    if (s->values[i] > 0)
      put_number(w, s->values[i]);
    else
      put(w, "null");
  }
  put(w, "}");
}

static void put_kinds(writer* w, unsigned kinds) {
  const char* comma = "";
  int i;
  put(w, ",\"events\":[");
  for (i = 0; i < event_kinds; ++i)
    if (kinds & (1u << i)) {
      put(w, "%s\"%s\"", comma, event_names[i]);
      comma = ",";
    }
  put(w, "]}");
}

/* What a new connection begins with: who, the pool, the limits, the events. */
static int greet(piqi_client* c, long long deadline) {
  writer w = start(c->handshake, sizeof c->handshake, "hello");
  int status;
  size_t i;
  put(&w, ",\"version\":%d", PIQI_PROTOCOL_VERSION);
  if (c->name[0]) {
    put(&w, ",\"client\":");
    put_text(&w, c->name);
  }
  put(&w, "}");
  status = exchange(c, &w, -1, deadline);
  if (status == PIQI_OK && c->pool_bytes) {
    /* A fresh one for each daemon: what the last connection still runs must not write into this one's. */
    if (c->pool_descriptor < 0) status = make_pool(c);
    if (status != PIQI_OK) return status;
    w = start(c->handshake, sizeof c->handshake, "pool");
    put(&w, "}");
    status = exchange(c, &w, c->pool_descriptor, deadline);
    close(c->pool_descriptor);
    c->pool_descriptor = -1;
    if (status == PIQI_OK && !get_int(&c->reply, find(&c->reply, 0, "pool"), &c->pool_number))
      status = not_protocol(c, "a pool without a number");
  }
  for (i = 0; status == PIQI_OK && i < c->limit_count; ++i) {
    w = start(c->handshake, sizeof c->handshake, "limits");
    put_limits(&w, &c->limits[i]);
    status = exchange(c, &w, -1, deadline);
  }
  if (status == PIQI_OK && c->kinds) {
    w = start(c->handshake, sizeof c->handshake, "subscribe");
    put_kinds(&w, c->kinds);
    status = exchange(c, &w, -1, deadline);
  }
  return status;
}

static int connect_once(piqi_client* c, long long deadline) {
  int status;
  disconnect(c);
  c->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (c->socket < 0) return fail(c, PIQI_MEMORY, "socket: %s", strerror(errno));
  while (connect(c->socket, (const struct sockaddr*)&c->address, sizeof c->address) != 0) {
    const int error = errno;
    if (error == EINTR) continue;
    if (error == EAGAIN && now_ms() < deadline) { /* many are connecting */
      poll(NULL, 0, 5);
      continue;
    }
    disconnect(c);
    return fail(c, PIQI_CONNECT, "%s: %s", c->address.sun_path, strerror(error));
  }
  status = greet(c, deadline);
  if (status != PIQI_OK) disconnect(c);
  return status;
}

/* Writes a request's members behind its id. Called for each connection: the pool's number changes. */
typedef void (*write_body)(piqi_client*, writer*, const void* what);

/* A request and, if it is waited for, its answer, over a new connection where the old one has gone. */
static int call_or_send(piqi_client* c, write_body write, const void* what, int wait, long long deadline) {
  int pause_ms = 10;
  for (;;) {
    int status = c->socket >= 0 ? PIQI_OK : connect_once(c, deadline);
    if (status == PIQI_OK) {
      writer body;
      write(c, &body, what);
      status = wait ? exchange(c, &body, -1, deadline) : send_body(c, &body, -1, deadline);
    }
    if (status != PIQI_LOST && status != PIQI_CONNECT) return status;
    if (now_ms() + pause_ms >= deadline) return status;
    poll(NULL, 0, pause_ms);
    if (pause_ms < 320) pause_ms *= 2;
  }
}

static int call(piqi_client* c, write_body write, const void* what) {
  return call_or_send(c, write, what, 1, now_ms() + c->timeout_ms);
}

/* ---- What piqi.h offers. ---- */

int piqi_open(const piqi_options* options, piqi_client** client) {
  piqi_client* c;
  int i;
  const char* path = options ? options->socket_path : NULL;
  if (!client) return PIQI_ARGUMENT;
  *client = c = (piqi_client*)calloc(1, sizeof *c);
  if (!c) return PIQI_MEMORY;
  c->socket = c->pool_descriptor = -1;
  c->unanswered = -1;
  for (i = 0; i < PIQI_MAX_SUBMITTED; ++i) c->tickets[i].id = -1;
  c->timeout_ms = options && options->timeout_ms ? options->timeout_ms : PIQI_DEFAULT_TIMEOUT_MS;
  c->pool_bytes = options ? options->pool_bytes : 0;
  if (!path) path = getenv("PIQI_SOCKET");
  if (!path) path = PIQI_DEFAULT_SOCKET;
  c->address.sun_family = AF_UNIX;
  snprintf(c->address.sun_path, sizeof c->address.sun_path, "%s", path);
  if (options && options->name) snprintf(c->name, sizeof c->name, "%s", options->name);
  if (strlen(path) >= sizeof c->address.sun_path || !*path)
    return fail(c, PIQI_ARGUMENT, "socket_path: expected 1 to %zu bytes, got %zu",
                sizeof c->address.sun_path - 1, strlen(path));
  if (c->timeout_ms < 0)
    return fail(c, PIQI_ARGUMENT, "timeout_ms: expected 0 or more, got %d", c->timeout_ms);
  if (c->pool_bytes > PIQI_MAX_POOL_BYTES)
    return fail(c, PIQI_ARGUMENT, "pool_bytes: expected at most %zu, got %zu", PIQI_MAX_POOL_BYTES,
                c->pool_bytes);
  if (c->pool_bytes && make_pool(c) != PIQI_OK) return PIQI_MEMORY;
  return connect_once(c, now_ms() + c->timeout_ms);
}

void piqi_close(piqi_client* c) {
  int i;
  if (!c) return;
  disconnect(c);
  for (i = 0; i < PIQI_MAX_SUBMITTED; ++i) free(c->tickets[i].reply);
  if (c->pool_descriptor >= 0) close(c->pool_descriptor);
  if (c->pool) munmap(c->pool, c->pool_bytes);
  free(c->reply.tokens);
  free(c);
}

int piqi_reconnect(piqi_client* c) {
  if (!c) return PIQI_ARGUMENT;
  return connect_once(c, now_ms() + c->timeout_ms);
}

const char* piqi_message(const piqi_client* c) {
  return c ? c->message : "out of memory";
}
void* piqi_pool(const piqi_client* c) {
  return c ? c->pool : NULL;
}
size_t piqi_pool_bytes(const piqi_client* c) {
  return c && c->pool ? c->pool_bytes : 0;
}

static void write_hello(piqi_client* c, writer* w, const void* unused) {
  (void)unused;
  *w = start(c->body, sizeof c->body, "hello");
  put(w, ",\"version\":%d}", PIQI_PROTOCOL_VERSION);
}

static void write_models(piqi_client* c, writer* w, const void* unused) {
  (void)unused;
  *w = start(c->body, sizeof c->body, "models");
  put(w, "}");
}

int piqi_hello(piqi_client* c, piqi_server* server) {
  const json* j;
  int status;
  if (!c) return PIQI_ARGUMENT;
  if (!server) return fail(c, PIQI_ARGUMENT, "server: must not be NULL");
  memset(server, 0, sizeof *server);
  status = call(c, write_hello, NULL);
  if (status != PIQI_OK) return status;
  j = &c->reply;
  if (!get_int(j, find(j, 0, "version"), &server->version)) return not_protocol(c, "hello without a version");
  get_int(j, find(j, 0, "pid"), &server->pid);
  get_text(j, find(j, 0, "server"), server->server, sizeof server->server);
  get_text(j, find(j, 0, "board"), server->board, sizeof server->board);
  return PIQI_OK;
}

static int get_tensor(const json* j, int t, piqi_tensor* tensor) {
  const int shape = find(j, t, "shape");
  int i;
  tensor->rank = 0;
  if (!get_text(j, find(j, t, "name"), tensor->name, sizeof tensor->name) || !is_type(j, shape, T_ARRAY))
    return 0;
  for (i = shape + 1; i < j->tokens[shape].next; i = j->tokens[i].next) {
    double size;
    if (tensor->rank == PIQI_MAX_RANK || !get_integer(j, i, 0, UINT32_MAX, &size)) return 0;
    tensor->shape[tensor->rank++] = (uint32_t)size;
  }
  return 1;
}

static int get_model(const json* j, int t, piqi_model* m) {
  const int input = find(j, t, "input"), outputs = find(j, t, "outputs");
  int i;
  memset(m, 0, sizeof *m);
  if (!get_text(j, find(j, t, "name"), m->name, sizeof m->name) || !get_tensor(j, input, &m->input)) return 0;
  if (!is_type(j, outputs, T_ARRAY)) return 0;
  get_text(j, find(j, t, "board"), m->board, sizeof m->board);
  get_text(j, find(j, input, "preprocessing"), m->preprocessing, sizeof m->preprocessing);
  get_text(j, find(j, input, "fit"), m->fit, sizeof m->fit);
  get_text(j, find(j, input, "colour"), m->colour, sizeof m->colour);
  get_int(j, find(j, t, "points"), &m->points);
  get_number(j, find(j, t, "float_accuracy"), &m->float_accuracy);
  get_number(j, find(j, t, "int8_accuracy"), &m->int8_accuracy);
  for (i = outputs + 1; i < j->tokens[outputs].next; i = j->tokens[i].next) {
    if (m->output_count == PIQI_MAX_OUTPUTS) return 0;
    if (!get_tensor(j, i, &m->outputs[m->output_count++])) return 0;
  }
  return 1;
}

int piqi_models(piqi_client* c, piqi_model* models, size_t capacity, size_t* count) {
  int status, list, i;
  if (!c) return PIQI_ARGUMENT;
  if (!count || (capacity && !models)) return fail(c, PIQI_ARGUMENT, "models, count: must not be NULL");
  *count = 0;
  status = call(c, write_models, NULL);
  if (status != PIQI_OK) return status;
  list = find(&c->reply, 0, "models");
  if (!is_type(&c->reply, list, T_ARRAY)) return not_protocol(c, "models without a list");
  for (i = list + 1; i < c->reply.tokens[list].next; i = c->reply.tokens[i].next, ++*count)
    if (*count < capacity && !get_model(&c->reply, i, &models[*count]))
      return not_protocol(c, "a model without name, input or outputs, or with too many");
  return PIQI_OK;
}

static int check_number(piqi_client* c, const char* field, double value, double high) {
  if (value >= 0 && value <= high) return PIQI_OK;
  return fail(c, PIQI_ARGUMENT, "%s: expected 0 to %g, got %g", field, high, value);
}

static int check_request(piqi_client* c, const piqi_request* r) {
  static const size_t pixel_bytes[] = {3, 3, 1};
  int status = check_number(c, "deadline_ms", r->deadline_ms, 1e9);
  if (status == PIQI_OK) status = check_number(c, "score", r->score, 1);
  if (status == PIQI_OK) status = check_number(c, "iou", r->iou, 1);
  if (status != PIQI_OK) return status;
  if (!c->pool_bytes) return fail(c, PIQI_ARGUMENT, "a frame needs a pool: pool_bytes was 0");
  if ((unsigned)r->format > PIQI_FLOAT32_RAW)
    return fail(c, PIQI_ARGUMENT, "format: unknown, %d", (int)r->format);
  if (r->top_k < 0 || r->top_k > PIQI_MAX_DECODED || (r->top_k && r->score > 0))
    return fail(c, PIQI_ARGUMENT, "top_k: expected 0 to %d, and 0 together with a score, got %d",
                PIQI_MAX_DECODED, r->top_k);
  if (r->format != PIQI_FLOAT32_RAW) {
    const uint64_t row = (uint64_t)r->width * pixel_bytes[r->format], stride = r->stride ? r->stride : row;
    if (!r->width || !r->height || stride < row)
      return fail(c, PIQI_ARGUMENT, "width, height, stride: expected a frame, got %ux%u at %u bytes",
                  r->width, r->height, r->stride);
    /* width and height have 32 bits, but the product of stride and height could have more than 64. */
    if (stride > c->pool_bytes || r->offset > c->pool_bytes ||
        stride * (r->height - 1) + row > c->pool_bytes - r->offset)
      return fail(c, PIQI_ARGUMENT,
                  "a frame of %ux%u pixels at offset %zu does not fit into the pool of %zu bytes", r->width,
                  r->height, r->offset, c->pool_bytes);
  }
  return PIQI_OK;
}

static void write_infer(piqi_client* c, writer* w, const void* request) {
  static const char* const names[] = {"rgb8", "bgr8", "grey8", "float32_raw"};
  static const uint32_t pixel_bytes[] = {3, 3, 1, 0};
  const piqi_request* r = (const piqi_request*)request;
  *w = start(c->body, sizeof c->body, "infer");
  put_model(w, r->model);
  put(w, ",\"input\":{\"pool\":%d,\"offset\":%zu,\"format\":\"%s\"", c->pool_number, r->offset,
      names[r->format]);
  if (r->format != PIQI_FLOAT32_RAW)
    put(w, ",\"width\":%u,\"height\":%u,\"stride\":%u", r->width, r->height,
        r->stride ? r->stride : r->width * pixel_bytes[r->format]);
  put(w, "}");
  if (r->want_outputs) put(w, ",\"output\":{\"pool\":%d,\"offset\":%zu}", c->pool_number, r->output_offset);
  if (r->top_k) put(w, ",\"decode\":{\"kind\":\"topk\",\"k\":%d}", r->top_k);
  if (r->score > 0) {
    put(w, ",\"decode\":{\"kind\":\"boxes\",\"score\":");
    put_number(w, r->score);
    if (r->iou > 0) {
      put(w, ",\"iou\":");
      put_number(w, r->iou);
    }
    put(w, "}");
  }
  if (r->latest) put(w, ",\"queue\":\"latest\"");
  if (r->deadline_ms > 0) {
    put(w, ",\"deadline_ms\":");
    put_number(w, r->deadline_ms);
  }
  put(w, "}");
}

static int get_output(const piqi_client* c, int t, piqi_output* output) {
  const json* j = &c->reply;
  double offset, size;
  if (!get_tensor(j, t, &output->tensor) ||
      !get_text(j, find(j, t, "dtype"), output->dtype, sizeof output->dtype))
    return 0;
  if (!get_integer(j, find(j, t, "size_bytes"), 0, (double)c->pool_bytes, &size)) return 0;
  if (!get_integer(j, find(j, t, "offset"), 0, (double)c->pool_bytes - size, &offset)) return 0;
  output->size_bytes = (size_t)size;
  output->data = c->pool + (size_t)offset;
  return 1;
}

static int get_decoded(const json* j, int t, piqi_decoded* d) {
  const int box = find(j, t, "box");
  if (!get_int(j, find(j, t, "class"), &d->index)) return 0;
  if (!get_number(j, find(j, t, "score"), &d->score)) d->score = NAN; /* null: the network gave no number */
  get_text(j, find(j, t, "label"), d->label, sizeof d->label);
  if (box < 0) return 1;
  return is_type(j, box, T_ARRAY) && j->tokens[box].next == box + 5 && get_number(j, box + 1, &d->x) &&
         get_number(j, box + 2, &d->y) && get_number(j, box + 3, &d->width) &&
         get_number(j, box + 4, &d->height);
}

/* The result that `c->reply` is. */
static int get_result(piqi_client* c, int want_outputs, piqi_result* result) {
  const json* j = &c->reply;
  int list, i;
  get_text(j, find(j, 0, "model"), result->model, sizeof result->model);
  get_text(j, find(j, 0, "order"), result->order, sizeof result->order);
  if (!get_int(j, find(j, 0, "point"), &result->point)) return not_protocol(c, "a result without a point");
  get_number(j, find(j, 0, "accuracy"), &result->accuracy);
  get_number(j, find(j, 0, "latency_us"), &result->latency_us);
  get_number(j, find(j, 0, "queue_us"), &result->queue_us);
  result->late = is_type(j, find(j, 0, "late"), T_TRUE);
  join_texts(j, find(j, 0, "degraded"), result->degraded, sizeof result->degraded);
  list = find(j, 0, "outputs");
  if (want_outputs) {
    if (!is_type(j, list, T_ARRAY)) return not_protocol(c, "a result without its outputs");
    for (i = list + 1; i < j->tokens[list].next; i = j->tokens[i].next)
      if (result->output_count == PIQI_MAX_OUTPUTS ||
          !get_output(c, i, &result->outputs[result->output_count++]))
        return not_protocol(c, "an output that is not in the pool, or too many");
  }
  list = find(j, 0, "decoded");
  if (!is_type(j, list, T_ARRAY)) return PIQI_OK;
  for (i = list + 1; i < j->tokens[list].next && result->decoded_count < PIQI_MAX_DECODED;
       i = j->tokens[i].next)
    if (!get_decoded(j, i, &result->decoded[result->decoded_count++]))
      return not_protocol(c, "a decoded class or box that is none");
  return PIQI_OK;
}

int piqi_infer(piqi_client* c, const piqi_request* request, piqi_result* result) {
  int status;
  if (!c) return PIQI_ARGUMENT;
  if (!request || !result) return fail(c, PIQI_ARGUMENT, "request, result: must not be NULL");
  memset(result, 0, sizeof *result);
  status = check_request(c, request);
  if (status == PIQI_OK) status = call(c, write_infer, request);
  return status == PIQI_OK ? get_result(c, request->want_outputs, result) : status;
}

int piqi_submit(piqi_client* c, const piqi_request* request, int64_t* id) {
  ticket* t;
  int status;
  if (!c) return PIQI_ARGUMENT;
  if (!request || !id) return fail(c, PIQI_ARGUMENT, "request, id: must not be NULL");
  *id = -1;
  t = find_ticket(c, -1);
  if (!t)
    return fail(c, PIQI_ARGUMENT, "expected at most %d requests under way: receive one", PIQI_MAX_SUBMITTED);
  status = check_request(c, request);
  if (status == PIQI_OK) status = call_or_send(c, write_infer, request, 0, now_ms() + c->timeout_ms);
  if (status != PIQI_OK) return status;
  t->id = *id = c->next_id - 1;
  t->want_outputs = request->want_outputs;
  t->lost = 0;
  return PIQI_OK;
}

int piqi_receive(piqi_client* c, int64_t id, piqi_result* result) {
  ticket* t;
  int status = PIQI_OK;
  if (!c) return PIQI_ARGUMENT;
  if (!result) return fail(c, PIQI_ARGUMENT, "result: must not be NULL");
  memset(result, 0, sizeof *result);
  t = id >= 0 ? find_ticket(c, id) : NULL;
  if (!t) return fail(c, PIQI_ARGUMENT, "id: nothing was submitted under %lld", (long long)id);
  if (t->reply) {
    memcpy(c->received, t->reply, (size_t)t->size);
    if (!parse_message(&c->reply, c->received, t->size))
      status = fail(c, PIQI_MEMORY, "no memory for an answer");
  } else if (t->lost) {
    status = fail(c, PIQI_LOST, "%s: the connection ended before the answer came", c->address.sun_path);
  } else {
    status = receive_answer(c, id, now_ms() + c->timeout_ms);
    if (status == PIQI_TIMEOUT || (status == PIQI_MEMORY && !t->lost)) return status;
  }
  free(t->reply);
  t->reply = NULL;
  t->id = -1;
  if (status == PIQI_OK) status = verdict(c);
  return status == PIQI_OK ? get_result(c, t->want_outputs, result) : status;
}

typedef struct {
  const char* mode;
  double seconds;
  int sets;
} policy_change;

static void write_policy(piqi_client* c, writer* w, const void* what) {
  const policy_change* change = (const policy_change*)what;
  *w = start(c->body, sizeof c->body, "policy");
  if (change->sets) put(w, ",\"mode\":");
  if (change->sets && !change->mode) put(w, "null");
  if (change->mode) put_text(w, change->mode);
  if (change->seconds > 0) {
    put(w, ",\"seconds\":");
    put_number(w, change->seconds);
  }
  put(w, "}");
}

static int change_policy(piqi_client* c, const policy_change* change, piqi_policy* policy) {
  const json* j;
  int status, override, modes, i;
  if (policy) memset(policy, 0, sizeof *policy);
  status = call(c, write_policy, change);
  if (status != PIQI_OK || !policy) return status;
  j = &c->reply;
  if (!get_text(j, find(j, 0, "mode"), policy->mode, sizeof policy->mode))
    return not_protocol(c, "a policy without a mode");
  get_text(j, find(j, 0, "policy"), policy->policy, sizeof policy->policy);
  get_text(j, find(j, 0, "rule"), policy->rule, sizeof policy->rule);
  get_text(j, find(j, 0, "reason"), policy->reason, sizeof policy->reason);
  override = find(j, 0, "override");
  policy->overridden = is_type(j, override, T_OBJECT);
  get_number(j, find(j, override, "seconds"), &policy->seconds_left);
  modes = find(j, 0, "modes");
  if (!is_type(j, modes, T_ARRAY)) return PIQI_OK;
  for (i = modes + 1; i < j->tokens[modes].next && policy->mode_count < PIQI_MAX_MODES; i = j->tokens[i].next)
    get_text(j, i, policy->modes[policy->mode_count++], PIQI_MODE_BYTES);
  return PIQI_OK;
}

int piqi_get_policy(piqi_client* c, piqi_policy* policy) {
  const policy_change nothing = {NULL, 0, 0};
  if (!c) return PIQI_ARGUMENT;
  if (!policy) return fail(c, PIQI_ARGUMENT, "policy: must not be NULL");
  return change_policy(c, &nothing, policy);
}

int piqi_set_policy(piqi_client* c, const char* mode, double seconds, piqi_policy* policy) {
  policy_change change;
  int status;
  if (!c) return PIQI_ARGUMENT;
  status = check_number(c, "seconds", seconds, 1e9);
  if (status != PIQI_OK) return status;
  if (!mode && seconds > 0)
    return fail(c, PIQI_ARGUMENT, "seconds: expected 0 without a mode, got %g", seconds);
  change.mode = mode;
  change.seconds = seconds;
  change.sets = 1;
  return change_policy(c, &change, policy);
}

static void write_subscribe(piqi_client* c, writer* w, const void* kinds) {
  *w = start(c->body, sizeof c->body, "subscribe");
  put_kinds(w, *(const unsigned*)kinds);
}

int piqi_subscribe(piqi_client* c, unsigned kinds) {
  int status;
  if (!c) return PIQI_ARGUMENT;
  if (kinds >> event_kinds) return fail(c, PIQI_ARGUMENT, "kinds: unknown, %#x", kinds);
  status = call(c, write_subscribe, &kinds);
  if (status == PIQI_OK) c->kinds = kinds;
  return status;
}

int piqi_next_event(piqi_client* c, int timeout_ms, piqi_event* event) {
  long long deadline;
  int status = PIQI_OK;
  if (!c) return PIQI_ARGUMENT;
  if (!event || timeout_ms < 0)
    return fail(c, PIQI_ARGUMENT, "event, timeout_ms: must not be NULL, below 0, got %d", timeout_ms);
  memset(event, 0, sizeof *event);
  deadline = now_ms() + timeout_ms;
  while (status == PIQI_OK && !c->event_count) {
    int mine;
    if (c->socket < 0) status = call_or_send(c, write_hello, NULL, 1, deadline);
    if (status == PIQI_OK) status = receive(c, deadline);
    if (status == PIQI_OK)
      status = sort_message(c, -1, &mine);
    else if (status == PIQI_LOST)
      status = PIQI_OK; /* a new one, then */
    else if (status == PIQI_TIMEOUT)
      fail(c, PIQI_TIMEOUT, "%s: no event in %d ms", c->address.sun_path, timeout_ms);
  }
  if (status != PIQI_OK) return status;
  *event = c->events[c->event_first];
  event->missed = c->missed;
  c->missed = 0;
  c->event_first = (c->event_first + 1) % PIQI_MAX_EVENTS;
  --c->event_count;
  return PIQI_OK;
}

static void write_limits(piqi_client* c, writer* w, const void* what) {
  *w = start(c->body, sizeof c->body, "limits");
  put_limits(w, (const limit_set*)what);
}

int piqi_set_limits(piqi_client* c, const piqi_limits* limits, piqi_limits_result* result) {
  static const double highest[4] = {100, 1e9, 1e9, 1e9};
  limit_set wanted;
  size_t i;
  int status;
  if (!c) return PIQI_ARGUMENT;
  if (!limits) return fail(c, PIQI_ARGUMENT, "limits: must not be NULL");
  memset(&wanted, 0, sizeof wanted);
  if (limits->model && strlen(limits->model) >= sizeof wanted.model)
    return fail(c, PIQI_ARGUMENT, "model: expected less than %d bytes, got %zu", PIQI_NAME_BYTES,
                strlen(limits->model));
  if (limits->model) snprintf(wanted.model, sizeof wanted.model, "%s", limits->model);
  wanted.values[0] = limits->min_accuracy;
  wanted.values[1] = limits->max_power_mw;
  wanted.values[2] = limits->max_latency_ms;
  wanted.values[3] = limits->deadline_ms;
  for (i = 0; i < 4; ++i) {
    status = check_number(c, limit_names[i], wanted.values[i], highest[i]);
    if (status != PIQI_OK) return status;
  }
  for (i = 0; i < c->limit_count && strcmp(c->limits[i].model, wanted.model) != 0; ++i) continue;
  if (i == MAX_LIMIT_SETS) return fail(c, PIQI_ARGUMENT, "limits for more than %d models", MAX_LIMIT_SETS);
  status = call(c, write_limits, &wanted);
  if (status != PIQI_OK) return status;
  c->limits[i] = wanted;
  if (i == c->limit_count) ++c->limit_count;
  if (!result) return PIQI_OK;
  memset(result, 0, sizeof *result);
  if (!get_int(&c->reply, find(&c->reply, 0, "point"), &result->point)) result->point = -1;
  join_texts(&c->reply, find(&c->reply, 0, "degraded"), result->degraded, sizeof result->degraded);
  return PIQI_OK;
}
