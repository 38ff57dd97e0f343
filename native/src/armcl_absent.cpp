// In a build without the Arm Compute Library: the functions that make its backends say so.
#include "piqi/backend.hpp"

#if !defined(PIQI_ARMCL)
namespace piqi {
namespace {

[[noreturn]] void absent(const char* backend) {
  throw BackendError(std::string(backend) +
                     ": this build has no Arm Compute Library (its headers were not found)");
}

}  // namespace

std::shared_ptr<VendorBackend> make_armcl_neon_backend(size_t) {
  absent("armcl_neon");
}

std::shared_ptr<VendorBackend> make_armcl_cl_backend(bool) {
  absent("armcl_cl");
}

}  // namespace piqi
#endif
