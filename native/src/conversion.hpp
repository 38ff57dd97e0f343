// The kernel that turns a tensor's data type and quantisation into another.
#pragma once

#include <memory>
#include <string>

#include "piqi/channel.hpp"
#include "piqi/kernel.hpp"

namespace piqi {

/// `name`: of the tensor, for errors. The layout stays as it is.
std::shared_ptr<Kernel> make_conversion(const std::string& name, const Shape& shape, const Format& from,
                                        const Format& to);

}  // namespace piqi
