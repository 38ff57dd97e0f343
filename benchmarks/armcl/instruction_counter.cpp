// A plugin of qemu that counts the instructions a program executes. The declarations are those of version 1
// of its plugin interface (docs/devel/tcg-plugins), which are the same in all later ones that still take it.
#include <cstdint>
#include <cstdio>

extern "C" {

struct qemu_plugin_tb;
struct qemu_info_t;
using qemu_plugin_id_t = uint64_t;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t, qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(qemu_plugin_tb* block, int operation, void* value,
                                              uint64_t operand);
size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb* block);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t, void*),
                                    void* data);
void qemu_plugin_outs(const char* text);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 1;
static uint64_t executed = 0;

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t*, int, char**) {
  constexpr int add = 0;
  qemu_plugin_register_vcpu_tb_trans_cb(id, [](qemu_plugin_id_t, qemu_plugin_tb* block) {
    qemu_plugin_register_vcpu_tb_exec_inline(block, add, &executed, qemu_plugin_tb_n_insns(block));
  });
  qemu_plugin_register_atexit_cb(
      id,
      [](qemu_plugin_id_t, void*) {
        char text[64];
        std::snprintf(text, sizeof text, "executed %llu\n", static_cast<unsigned long long>(executed));
        qemu_plugin_outs(text);
      },
      nullptr);
  return 0;
}

}  // extern "C"
