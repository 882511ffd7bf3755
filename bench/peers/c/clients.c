// Clients of a Unix domain socket, that cost little themselves.
//   clients PATH connect COUNT   makes so many connections, one after the other, and closes each at once
//   clients PATH hold COUNT      makes so many and holds them; prints "ready", and does what it reads line by line:
//     one ROUNDS    sends a byte over the first and waits for the answer, so many times; prints SECONDS P50 P99 (microseconds)
//     all ROUNDS    sends a byte over each, then takes the answer of each, so many times; prints SECONDS
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "measuring.h"

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int connect_one(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (void *)&address, sizeof address)) fail("connect");
  return fd;
}

static void say(int fd) {
  if (write(fd, "x", 1) != 1) fail("write");
}

static void hear(int fd) {
  char byte;
  if (read(fd, &byte, 1) != 1) fail("read");
}

int main(int values_count, char **values) {
  if (values_count != 4) return 2;
  strncpy(address.sun_path, values[1], sizeof address.sun_path - 1);
  long count = atol(values[3]);
  if (!strcmp(values[2], "connect")) {
    for (long i = 0; i < count; i++) close(connect_one());
    return 0;
  }
  int *fds = malloc(count * sizeof *fds);
  for (long i = 0; i < count; i++) fds[i] = connect_one();
  printf("ready\n");
  fflush(stdout);
  char what[8];
  long rounds;
  while (scanf("%7s %ld", what, &rounds) == 2) {
    double *latencies = malloc(rounds * sizeof *latencies), begun = now();
    for (long round = 0; round < rounds; round++) {
      double before = now();
      long last = !strcmp(what, "all") ? count : 1;
      for (long i = 0; i < last; i++) say(fds[i]);
      for (long i = 0; i < last; i++) hear(fds[i]);
      latencies[round] = now() - before;
    }
    double seconds = now() - begun;
    qsort(latencies, rounds, sizeof *latencies, by_size);
    printf("%.6f %.2f %.2f\n", seconds, latencies[rounds / 2] * 1e6, latencies[rounds * 99 / 100] * 1e6);
    fflush(stdout);
    free(latencies);
  }
}
