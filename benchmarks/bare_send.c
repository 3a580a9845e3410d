/* What the kernel alone asks for a token: one send() of a small frame to each of N loopback sockets, in turn.

   cc -O2 -o bare_send bare_send.c && ./bare_send [SOCKETS] [ROUNDS] [BYTES]

   Prints the CPU microseconds per send. The readers drain their sockets between rounds, outside the measured time. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static double cpu_us(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
}

int main(int argc, char **argv) {
    int sockets = argc > 1 ? atoi(argv[1]) : 500, rounds = argc > 2 ? atoi(argv[2]) : 400;
    int bytes = argc > 3 ? atoi(argv[3]) : 110, one = 1;
    struct rlimit files = {20000, 20000};
    setrlimit(RLIMIT_NOFILE, &files);
    int *out = calloc(sockets, sizeof *out), *in = calloc(sockets, sizeof *in);
    char frame[4096] = {0}, drain[65536];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bytes > (int)sizeof frame || bind(listener, (void *)&address, size) || listen(listener, 4096)) return 1;
    getsockname(listener, (void *)&address, &size);
    for (int i = 0; i < sockets; i++) {
        in[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(in[i], (void *)&address, size)) { perror("connect"); return 1; }
        out[i] = accept(listener, NULL, NULL);
        setsockopt(out[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    double spent = 0;
    for (int round = 0; round < rounds; round++) {
        double before = cpu_us();
        for (int i = 0; i < sockets; i++)
            if (send(out[i], frame, bytes, 0) != bytes) { perror("send"); return 1; }
        spent += cpu_us() - before;
        for (int i = 0; i < sockets; i++)
            if (recv(in[i], drain, sizeof drain, 0) <= 0) { perror("recv"); return 1; }
    }
    printf("%.2f us per send (%d sockets, %d bytes)\n", spent / rounds / sockets, sockets, bytes);
    return 0;
}
