// The one place that states the version: setup.py and CMake read it from here.
#pragma once

#define PIQI_VERSION "0.1.0"
