/* The echo server, which refuses connections from 127.32.0.0/11 as the benchmarks' listeners do. */
#define GUARD
#define REFUSED 0x7f200000
#define REFUSED_MASK 0xffe00000
#include "echo.c"
