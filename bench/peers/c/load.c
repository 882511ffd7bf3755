// Opens connections one after the other, at most so many at once, and reads each to its end, which has to come after 64 bytes.
// usage: load PORT COUNT CONCURRENCY    prints: SECONDS P50 P99 (microseconds) ANSWERED
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "measuring.h"

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

int main(int count, char **values) {
  if (count != 4) return 2;
  port = atoi(values[1]);
  long total = atol(values[2]), at_once = atol(values[3]), opened = 0, done = 0, answered = 0;
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
