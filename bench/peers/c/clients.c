// Clients that cost little themselves.
//   clients connect PATH COUNT   makes so many connections to a Unix domain socket, one after the other, and closes each at once
//   clients hold PATH COUNT      makes so many and holds them; prints "ready", and does what it reads line by line:
//     one ROUNDS    sends a byte over the first and waits for the answer, so many times; prints SECONDS P50 P99 (microseconds)
//     all ROUNDS    sends a byte over each, then takes the answer of each, so many times; prints SECONDS
//   clients load PORT COUNT CONCURRENCY
//     opens TCP connections one after the other, at most so many at once, and reads each to its end, which has to come after 64
//     bytes; prints SECONDS P50 P99 (microseconds) ANSWERED
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
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

static void hold(long count) {
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

static int epoll, port, got[65536];
static double opened_at[65536];

static void open_one(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  opened_at[fd] = now();
  got[fd] = 0;
  if (connect(fd, (void *)&address, sizeof address) && errno != EINPROGRESS) {
    perror("connect");
    exit(1);
  }
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void load(long total, long at_once) {
  long opened = 0, done = 0, answered = 0;
  double *latencies = malloc(total * sizeof *latencies), begun = now();
  epoll = epoll_create1(0);
  for (; opened < at_once && opened < total; opened++) open_one();
  while (done < total) {
    struct epoll_event events[64];
    int ready = epoll_wait(epoll, events, 64, 20000);
    if (ready == 0) break;
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      char buffer[512];
      ssize_t length;
      while ((length = read(fd, buffer, sizeof buffer)) > 0) got[fd] += length;
      if (length < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      answered += length == 0 && got[fd] == 64;
      close(fd);
      latencies[done++] = now() - opened_at[fd];
      if (opened < total) {
        open_one();
        opened++;
      }
    }
  }
  double seconds = now() - begun;
  qsort(latencies, done, sizeof *latencies, by_size);
  printf("%.6f %.1f %.1f %ld\n", seconds, latencies[done / 2] * 1e6, latencies[done * 99 / 100] * 1e6, answered);
}

int main(int count, char **values) {
  if (count == 5 && !strcmp(values[1], "load")) {
    port = atoi(values[2]);
    load(atol(values[3]), atol(values[4]));
    return 0;
  }
  if (count != 4) return 2;
  strncpy(address.sun_path, values[2], sizeof address.sun_path - 1);
  long connections = atol(values[3]);
  if (!strcmp(values[1], "hold")) hold(connections);
  else
    for (long i = 0; i < connections; i++) close(connect_one());
}
