// Passing descriptors in C, in three ways. bench/README.md tells what w1 to w4 are, and what is printed.
//   blocking   UNP's write_fd and read_fd: one sendmsg, one recvmsg and one close for each message
//   epoll      the same on non-blocking sockets; a wake takes 1 to 64 messages, as many as the wakes before found
//   batch      sendmmsg and recvmmsg with up to 64 messages, close_range for descriptors in a row: fewer than one call of each
// usage: passing blocking|epoll|batch WORKLOAD N
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "measuring.h"

#define MOST_MESSAGES 64
#define MOST_FDS 253 // SCM_MAX_FD

enum { BLOCKING, EPOLL, BATCH } mode;

static long status(const char *key) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[256];
  long value = 0;
  while (fgets(line, sizeof line, file)) {
    if (!strncmp(line, key, strlen(key))) value = atol(line + strlen(key) + 1);
  }
  fclose(file);
  return value;
}

static int open_descriptors(void) {
  DIR *folder = opendir("/proc/self/fd");
  int count = 0;
  while (readdir(folder)) count++;
  closedir(folder);
  return count - 3; // . and .., and the folder itself
}

static int listen_on_loopback(int *port) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof address;
  if (bind(listener, (void *)&address, length) || listen(listener, 511)) fail("listen");
  getsockname(listener, (void *)&address, &length);
  if (port) *port = ntohs(address.sin_port);
  return listener;
}

// Waiting, in the modes that do.

static void await(int socket, uint32_t events) {
  static int epoll = -1;
  static uint32_t watched;
  struct epoll_event event = {.events = events, .data.fd = socket};
  if (epoll < 0) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event);
  } else if (watched != events) {
    epoll_ctl(epoll, EPOLL_CTL_MOD, socket, &event);
  }
  watched = events;
  while (epoll_wait(epoll, &event, 1, -1) < 0 && errno == EINTR) {
  }
}

// Messages of one byte.

typedef struct {
  struct iovec data;
  char byte;
  union {
    char bytes[CMSG_SPACE(MOST_FDS * sizeof(int))];
    struct cmsghdr aligned;
  } control;
} room_t;

static void lay_out(struct msghdr *message, room_t *room) {
  room->data = (struct iovec){&room->byte, 1};
  *message = (struct msghdr){.msg_iov = &room->data, .msg_iovlen = 1, .msg_control = &room->control, .msg_controllen = sizeof room->control};
}

static void lay_out_with(struct msghdr *message, room_t *room, const int *fds, int count) {
  lay_out(message, room);
  message->msg_controllen = count ? CMSG_SPACE(count * sizeof *fds) : 0;
  if (count == 0) return;
  struct cmsghdr *header = CMSG_FIRSTHDR(message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(count * sizeof *fds);
  memcpy(CMSG_DATA(header), fds, count * sizeof *fds);
}

static int take_out(struct msghdr *message, int *fds) {
  if (message->msg_flags & MSG_CTRUNC) fail("MSG_CTRUNC");
  struct cmsghdr *header = CMSG_FIRSTHDR(message);
  if (header == NULL) return 0;
  size_t length = header->cmsg_len - CMSG_LEN(0);
  memcpy(fds, CMSG_DATA(header), length);
  return length / sizeof *fds;
}

static void send_messages(int socket, const int *fds, int fd_count, long count) {
  static room_t room;
  struct msghdr message;
  lay_out_with(&message, &room, fds, fd_count);
  struct mmsghdr messages[MOST_MESSAGES];
  if (mode == BATCH) {
    for (int i = 0; i < MOST_MESSAGES; i++) messages[i].msg_hdr = message;
  }
  while (count > 0) {
    int sent = mode == BATCH ? sendmmsg(socket, messages, count < MOST_MESSAGES ? count : MOST_MESSAGES, 0)
                             : sendmsg(socket, &message, 0); // one byte: 1
    if (sent > 0) count -= sent;
    else if (errno == EAGAIN && mode != BLOCKING) await(socket, EPOLLOUT);
    else if (errno != EINTR) fail("sendmsg");
  }
}

// Calls `each` with every message until it returns 0 or the socket ends.
static void receive_messages(int socket, int each(int socket, int *fds, int count)) {
  static room_t rooms[MOST_MESSAGES];
  static int at_once = 1;
  struct mmsghdr messages[MOST_MESSAGES];
  int fds[MOST_FDS];
  for (;;) {
    int wanted = mode == BLOCKING ? 1 : at_once, received = 0;
    if (mode != BLOCKING) await(socket, EPOLLIN);
    if (mode == BATCH) {
      for (int i = 0; i < wanted; i++) lay_out(&messages[i].msg_hdr, &rooms[i]);
      received = recvmmsg(socket, messages, wanted, MSG_CMSG_CLOEXEC, NULL);
      if (received < 0 && errno != EAGAIN && errno != EINTR) fail("recvmmsg");
      for (int i = 0; i < received; i++) {
        if (messages[i].msg_len == 0) return;
        if (!each(socket, fds, take_out(&messages[i].msg_hdr, fds))) return;
      }
    } else {
      for (; received < wanted; received++) {
        struct msghdr *message = &messages[0].msg_hdr;
        lay_out(message, &rooms[0]);
        ssize_t length = recvmsg(socket, message, MSG_CMSG_CLOEXEC);
        if (length == 0) return;
        if (length < 0 && errno == EAGAIN) break;
        if (length < 0 && errno != EINTR) fail("recvmsg");
        if (length > 0 && !each(socket, fds, take_out(message, fds))) return;
      }
    }
    at_once = received < wanted ? (received < 1 ? 1 : received) : wanted * 2 < MOST_MESSAGES ? wanted * 2 : MOST_MESSAGES;
  }
}

static void close_all(const int *fds, int count) {
  for (int i = 0, end; i < count; i = end) {
    for (end = i + 1; mode == BATCH && end < count && fds[end] == fds[end - 1] + 1; end++) {
    }
    if (end - i > 1) close_range(fds[i], fds[end - 1], 0);
    else close(fds[i]);
  }
}

// The receiving end.

static int own;
static long warm_up, last, messages_received, fds_received, first_rss;
static double cpu_begun;

static int take(int socket, int *fds, int count) {
  (void)socket;
  if (messages_received++ == 0) first_rss = status("VmRSS:");
  if (messages_received == warm_up) cpu_begun = cpu();
  fds_received += count;
  close_all(fds, count);
  return 1;
}

static int take_and_answer(int socket, int *fds, int count) {
  take(socket, fds, count);
  send_messages(socket, &own, 1, 1);
  return 1;
}

static int take_and_acknowledge(int socket, int *fds, int count) {
  take(socket, fds, count);
  if (messages_received == warm_up || messages_received == last) send_messages(socket, NULL, 0, 1);
  return 1;
}

static int take_one(int socket, int *fds, int count) {
  (void)socket;
  close_all(fds, count);
  return 0;
}

static int answer_connection(int socket, int *fds, int count) {
  (void)socket;
  static char answer[64] = "answer";
  for (int i = 0; i < count; i++) {
    if (write(fds[i], answer, sizeof answer) < 0) perror("write");
    close(fds[i]);
  }
  return 1;
}

// The sending end.

// Until it is killed.
static void hand_out_connections(int socket) {
  int port, listener = listen_on_loopback(&port), epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  fcntl(listener, F_SETFL, O_NONBLOCK);
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  printf("%d\n", port);
  fflush(stdout);
  for (;;) {
    epoll_wait(epoll, &event, 1, -1);
    int connection, most = mode == BLOCKING ? 1 : MOST_MESSAGES;
    while (most-- > 0 && (connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
      send_messages(socket, &connection, 1, 1);
      close(connection);
    }
  }
}

int main(int count, char **values) {
  if (count != 4) return 2;
  mode = !strcmp(values[1], "batch") ? BATCH : !strcmp(values[1], "epoll") ? EPOLL : BLOCKING;
  const char *workload = values[2];
  long n = atol(values[3]);
  int is_w1 = !strcmp(workload, "w1"), is_w4 = !strcmp(workload, "w4"), pair[2], results[2];
  int fd_count = workload[1] == '3' ? atoi(workload + 3) : 1;
  warm_up = n / 10 + 1000;
  last = warm_up + n;
  if (socketpair(AF_UNIX, SOCK_STREAM | (mode == BLOCKING ? 0 : SOCK_NONBLOCK), 0, pair) || pipe(results)) fail("socketpair");
  if (fork() == 0) {
    close(pair[0]);
    own = listen_on_loopback(NULL);
    receive_messages(pair[1], is_w4 ? answer_connection : is_w1 ? take_and_answer : take_and_acknowledge);
    dprintf(results[1], "%f %ld %ld %ld %d\n", cpu() - cpu_begun, fds_received, first_rss, status("VmHWM:"), open_descriptors());
    return 0;
  }
  close(pair[1]);
  if (is_w4) hand_out_connections(pair[0]);
  own = listen_on_loopback(NULL);
  double cpu_begun, begun, cpu_ended, ended, *latencies = is_w1 ? malloc(n * sizeof *latencies) : NULL;
  if (is_w1) {
    for (long i = 0; i < warm_up; i++) {
      send_messages(pair[0], &own, 1, 1);
      receive_messages(pair[0], take_one);
    }
    cpu_begun = cpu();
    begun = ended = now();
    for (long i = 0; i < n; i++) {
      double before = ended;
      send_messages(pair[0], &own, 1, 1);
      receive_messages(pair[0], take_one);
      ended = now();
      latencies[i] = ended - before;
    }
    cpu_ended = cpu();
    qsort(latencies, n, sizeof *latencies, by_size);
  } else {
    int fds[MOST_FDS];
    for (int i = 0; i < fd_count; i++) fds[i] = own;
    send_messages(pair[0], fds, fd_count, warm_up);
    receive_messages(pair[0], take_one);
    cpu_begun = cpu();
    begun = now();
    send_messages(pair[0], fds, fd_count, n);
    receive_messages(pair[0], take_one);
    ended = now();
    cpu_ended = cpu();
  }
  close(pair[0]);
  double cpu_there;
  long received, rss_there, peak_rss;
  int open_there;
  if (fscanf(fdopen(results[0], "r"), "%lf %ld %ld %ld %d", &cpu_there, &received, &rss_there, &peak_rss, &open_there) != 5) return 1;
  wait(NULL);
  printf("{\"seconds\":%.6f,\"cpu\":%.6f,\"sent\":%ld,\"received\":%ld,\"firstRss\":%ld,\"peakRss\":%ld,\"open\":%d", ended - begun,
         cpu_ended - cpu_begun + cpu_there, last * fd_count, received, rss_there, peak_rss, open_there);
  if (is_w1) printf(",\"p50\":%.2f,\"p99\":%.2f", latencies[n / 2] * 1e6, latencies[n * 99 / 100] * 1e6);
  printf("}\n");
  return 0;
}
