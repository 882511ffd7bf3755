// Accepts connections on a Unix domain socket and closes each: accept4, close. Prints how long the last N took, behind as many for
// warm-up as are given. usage: accept PATH WARM-UP N    prints: ready, then SECONDS CPU
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "measuring.h"

int main(int count, char **values) {
  if (count != 4) return 2;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, values[1], sizeof address.sun_path - 1);
  long warm_up = atol(values[2]), total = warm_up + atol(values[3]);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 511)) {
    perror("listen");
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  double begun = now(), cpu_begun = cpu();
  for (long i = 0; i < total; i++) {
    if (i == warm_up) {
      begun = now();
      cpu_begun = cpu();
    }
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0) return 1;
    close(connection);
  }
  printf("%.6f %.6f\n", now() - begun, cpu() - cpu_begun);
}
