/* Switches callgrind's counting on (SIGRTMIN + 5) and off (SIGRTMIN + 6) between two turns of a process's event loop.
 *
 * Preloaded into a gateway that runs under valgrind; see instructions.py. A signal only says what is wanted: it may come in the
 * middle of a request, so the switch is made where the loop asks the kernel for events. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <valgrind/callgrind.h>

static volatile sig_atomic_t wanted;
static int counting;

static void want(int number) {
    wanted = number == SIGRTMIN + 5;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {.sa_handler = want};
    sigaction(SIGRTMIN + 5, &action, NULL);
    sigaction(SIGRTMIN + 6, &action, NULL);
}

static void turn(void) {
    if (wanted == counting)
        return;
    counting = wanted;
    if (counting)
        CALLGRIND_START_INSTRUMENTATION;
    else
        CALLGRIND_STOP_INSTRUMENTATION;
}

int epoll_wait(int set, struct epoll_event *events, int most, int timeout) {
    static int (*real)(int, struct epoll_event *, int, int);
    if (real == NULL)
        real = (int (*)(int, struct epoll_event *, int, int)) dlsym(RTLD_NEXT, "epoll_wait");
    turn();
    return real(set, events, most, timeout);
}

int epoll_pwait(int set, struct epoll_event *events, int most, int timeout, const sigset_t *mask) {
    static int (*real)(int, struct epoll_event *, int, int, const sigset_t *);
    if (real == NULL)
        real = (int (*)(int, struct epoll_event *, int, int, const sigset_t *)) dlsym(RTLD_NEXT, "epoll_pwait");
    turn();
    return real(set, events, most, timeout, mask);
}
