/* Does what lines on stdin say with the client and prints what came of it, a line each. Has piqi.c inside. */
#include "piqi.c"

static piqi_client* client;
static piqi_result result;
static char model[PIQI_NAME_BYTES];

static size_t from_hex(const char* text, uint8_t* target) {
  size_t size = 0;
  for (; text[0] && text[1] && hex_value(text[0]) >= 0; text += 2)
    target[size++] = (uint8_t)(16 * hex_value(text[0]) + hex_value(text[1]));
  return size;
}

static void print_hex(const void* data, size_t size) {
  size_t i;
  printf(" ");
  for (i = 0; i < size; ++i) printf("%02x", ((const uint8_t*)data)[i]);
}

static int told(int status) {
  printf("%s", piqi_status_name(status));
  if (status != PIQI_OK) printf(" %s", piqi_message(client));
  return status == PIQI_OK;
}

static piqi_request parsed(const char* line) {
  piqi_request request;
  unsigned format = 0;
  memset(&request, 0, sizeof request);
  request.model = model[0] ? model : NULL;
  sscanf(line, "%u %u %u %u %zu %d %d %zu %lf %lf %d", &format, &request.width, &request.height,
         &request.stride, &request.offset, &request.top_k, &request.want_outputs, &request.output_offset,
         &request.deadline_ms, &request.score, &request.latest);
  request.format = (piqi_format)format;
  return request;
}

static void print_result(void) {
  size_t i;
  printf(" %s %d %s %g late=%d degraded=%s timed=%d", result.model, result.point, result.order,
         result.accuracy, result.late, result.degraded, result.latency_us > 0 && result.queue_us >= 0);
  for (i = 0; i < result.decoded_count; ++i) {
    const piqi_decoded* d = &result.decoded[i];
    printf(" [%d %s %g %g %g %g %g]", d->index, d->label, d->score, d->x, d->y, d->width, d->height);
  }
  for (i = 0; i < result.output_count; ++i) {
    const piqi_output* o = &result.outputs[i];
    printf(" %s:%s:%d:%u", o->tensor.name, o->dtype, o->tensor.rank, o->tensor.shape[o->tensor.rank - 1]);
    print_hex(o->data, o->size_bytes);
  }
}

static void do_infer(const char* line) {
  const piqi_request request = parsed(line);
  if (told(piqi_infer(client, &request, &result))) print_result();
}

static void do_submit(const char* line) {
  const piqi_request request = parsed(line);
  int64_t id = 0;
  if (told(piqi_submit(client, &request, &id))) printf(" %lld", (long long)id);
}

static void do_receive(const char* line) {
  if (told(piqi_receive(client, strtoll(line, NULL, 10), &result))) print_result();
}

static void print_policy(const piqi_policy* p) {
  size_t i;
  printf(" %s %s rule=%s overridden=%d left=%g modes=", p->policy, p->mode, p->rule, p->overridden,
         p->seconds_left);
  for (i = 0; i < p->mode_count; ++i) printf("%s,", p->modes[i]);
}

/* "MODE SECONDS"; "-": none. */
static void do_set_policy(const char* line) {
  char mode[100];
  double seconds = 0;
  piqi_policy policy;
  sscanf(line, "%99s %lf", mode, &seconds);
  if (told(piqi_set_policy(client, strcmp(mode, "-") ? mode : NULL, seconds, &policy))) print_policy(&policy);
}

static void do_event(const char* line) {
  piqi_event e;
  if (told(piqi_next_event(client, atoi(line), &e)))
    printf(" %d missed=%u %s %d>%d %s timed=%d %s %g active=%d [%s] %s %s", e.kind, e.missed, e.model,
           e.old_point, e.point, e.order, e.prepare_ms > 0, e.processors, e.factor, e.active, e.degraded,
           e.code, e.message);
}

static void do_models(void) {
  piqi_model* models = (piqi_model*)calloc(4, sizeof *models);
  size_t count = 0, i;
  if (told(piqi_models(client, models, 4, &count)))
    for (i = 0; i < count && i < 4; ++i)
      printf(" %s %s %s %ux%ux%u %s %s %s %zu:%s %d %g %g", models[i].name, models[i].board,
             models[i].input.name, models[i].input.shape[1], models[i].input.shape[2],
             models[i].input.shape[3], models[i].preprocessing, models[i].fit, models[i].colour,
             models[i].output_count, models[i].outputs[0].name, models[i].points, models[i].float_accuracy,
             models[i].int8_accuracy);
  free(models);
}

static void do_limits(const char* line) {
  piqi_limits limits;
  piqi_limits_result chosen;
  memset(&limits, 0, sizeof limits);
  limits.model = model[0] ? model : NULL;
  sscanf(line, "%lf %lf %lf %lf", &limits.min_accuracy, &limits.max_power_mw, &limits.max_latency_ms,
         &limits.deadline_ms);
  if (told(piqi_set_limits(client, &limits, &chosen))) printf(" %d %s", chosen.point, chosen.degraded);
}

static void do_json(const char* hex) {
  json j;
  uint8_t* text = (uint8_t*)malloc(strlen(hex) / 2 + 1);
  const size_t size = from_hex(hex, text);
  char value[64];
  double number;
  memset(&j, 0, sizeof j);
  /* In a block of exactly its size: a sanitizer sees the first byte beyond. */
  text = (uint8_t*)realloc(text, size ? size : 1);
  if (!parse_message(&j, (const char*)text, (int)size)) {
    printf("no");
  } else {
    const int a = find(&j, 0, "a");
    printf("yes");
    if (get_text(&j, a, value, sizeof value)) print_hex(value, strlen(value));
    if (get_number(&j, a, &number)) printf(" %.17g", number);
  }
  free(text);
  free(j.tokens);
}

static void do_open(char* line) {
  static char path[200];
  piqi_options options;
  memset(&options, 0, sizeof options);
  sscanf(line, "%199s %d %zu", path, &options.timeout_ms, &options.pool_bytes);
  options.socket_path = path;
  options.name = "driver \"\\\n";
  piqi_close(client);
  told(piqi_open(&options, &client));
}

int main(void) {
  static char line[1 << 18];
  piqi_server server;
  piqi_policy policy;
  while (fgets(line, sizeof line, stdin)) {
    char* rest = strchr(line, ' ') ? strchr(line, ' ') + 1 : line + strlen(line);
    if (!strncmp(line, "open", 4)) do_open(rest);
    if (!strncmp(line, "hello", 5) && told(piqi_hello(client, &server)))
      printf(" %d %s %s %d", server.version, server.server, server.board, server.pid);
    if (!strncmp(line, "models", 6)) do_models();
    if (!strncmp(line, "model ", 6)) {
      sscanf(rest, "%255s", model);
      printf("%s", model);
    }
    if (!strncmp(line, "fill", 4)) {
      const size_t offset = (size_t)strtoul(rest, &rest, 10);
      printf("%zu", from_hex(rest + 1, (uint8_t*)piqi_pool(client) + offset));
    }
    if (!strncmp(line, "infer", 5)) do_infer(rest);
    if (!strncmp(line, "submit", 6)) do_submit(rest);
    if (!strncmp(line, "receive", 7)) do_receive(rest);
    if (!strncmp(line, "policy", 6) && told(piqi_get_policy(client, &policy))) print_policy(&policy);
    if (!strncmp(line, "set_policy", 10)) do_set_policy(rest);
    if (!strncmp(line, "subscribe", 9)) told(piqi_subscribe(client, (unsigned)atoi(rest)));
    if (!strncmp(line, "event", 5)) do_event(rest);
    if (!strncmp(line, "limits", 6)) do_limits(rest);
    if (!strncmp(line, "reconnect", 9)) told(piqi_reconnect(client));
    if (!strncmp(line, "pool", 4)) printf("%p %zu", piqi_pool(client), piqi_pool_bytes(client));
    if (!strncmp(line, "json", 4)) do_json(rest);
    printf("\n");
    fflush(stdout);
  }
  piqi_close(client);
  return 0;
}
