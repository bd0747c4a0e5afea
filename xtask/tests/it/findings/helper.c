/*
 * What the findings need of a process and safe Rust cannot do, or not in bulk. Each mode says
 * READY when it stands, and ends with its standard input.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        _exit(1);
    }
}

static int open_file(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    check(fd >= 0, path);
    return fd;
}

static void ready(void) {
    puts("READY");
    fflush(stdout);
}

static void until_end_of_input(void) {
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
}

/* State `Z` in /proc/PID/stat: join returns a moment before. */
static int main_thread_is_zombie(void) {
    char stat[256] = "";
    FILE *file = fopen("/proc/self/stat", "r");
    check(file != NULL, "/proc/self/stat");
    check(fgets(stat, sizeof stat, file) != NULL, "/proc/self/stat");
    fclose(file);
    return strstr(stat, ") Z ") != NULL;
}

static void *outlive_main(void *main_thread) {
    pthread_join(*(pthread_t *)main_thread, NULL);
    while (!main_thread_is_zombie()) {
        sched_yield();
    }
    ready();
    until_end_of_input();
    _exit(0);
}

/* LOCK: holds it in a process whose main thread has ended. */
static void without_main_thread(const char *lock) {
    static pthread_t main_thread;
    pthread_t other;
    main_thread = pthread_self();
    check(flock(open_file(lock), LOCK_EX | LOCK_NB) == 0, lock);
    check(pthread_create(&other, NULL, outlive_main, &main_thread) == 0, "pthread_create");
    pthread_exit(NULL);
}

static void *hold_alone(void *lock) {
    check(unshare(CLONE_FILES) == 0, "unshare");
    check(flock(open_file(lock), LOCK_EX | LOCK_NB) == 0, lock);
    ready();
    until_end_of_input();
    _exit(0);
}

/* LOCK: a thread holds it on a descriptor that the main thread does not have. */
static void in_a_thread(char *lock) {
    pthread_t other;
    check(pthread_create(&other, NULL, hold_alone, lock) == 0, "pthread_create");
    pthread_join(other, NULL);
}

/* FILE: holds a read lease on it, and does not give it up when asked. */
static void lease(const char *path) {
    close(open_file(path));
    int fd = open(path, O_RDONLY);
    signal(SIGIO, SIG_IGN);
    check(fd >= 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0, "F_SETLEASE");
    ready();
    until_end_of_input();
}

/* FOLDER: takes as many flocks on deleted files of it as each line of input says. */
static void flocks(const char *folder) {
    char line[32], path[4096];
    while (fgets(line, sizeof line, stdin)) {
        for (int left = atoi(line); left > 0; left--) {
            snprintf(path, sizeof path, "%s/flock-XXXXXX", folder);
            int fd = mkstemp(path);
            check(fd >= 0, path);
            unlink(path);
            check(flock(fd, LOCK_EX | LOCK_NB) == 0, "flock");
        }
        ready();
    }
}

/* FILE: takes and releases a flock on it, without a pause. */
static void toggle(const char *path) {
    int fd = open_file(path);
    struct pollfd input = {.fd = 0, .events = POLLIN};
    ready();
    while (poll(&input, 1, 0) == 0) {
        for (int i = 0; i < 64; i++) {
            flock(fd, LOCK_EX);
            flock(fd, LOCK_UN);
        }
    }
}

/* FILE: holds it by a descriptor that no process has: it is under way in a socket. */
static void in_flight(const char *path) {
    int fd = open_file(path), ends[2];
    check(flock(fd, LOCK_EX | LOCK_NB) == 0, "flock");
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    char byte = 0, room[CMSG_SPACE(sizeof fd)] = "";
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    check(sendmsg(ends[0], &message, 0) == 1, "sendmsg");
    close(fd);
    ready();
    until_end_of_input();
}

/* FOLDER: takes and releases flocks on many files there, without a pause. */
static void churn(const char *folder) {
    int fds[40];
    char path[4096];
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof path, "%s/churn-XXXXXX", folder);
        fds[i] = mkstemp(path);
        check(fds[i] >= 0, path);
        unlink(path);
    }
    struct pollfd input = {.fd = 0, .events = POLLIN};
    ready();
    while (poll(&input, 1, 0) == 0)
        for (int i = 0; i < 64; i++)
            flock(fds[rand() % 40], rand() % 2 ? LOCK_EX : LOCK_UN);
}

/* FILE PROCESSES DESCRIPTORS: so many processes with so many descriptors of it each. */
static void crowd(const char *path, int processes, int descriptors) {
    int fd = open_file(path), up[2];
    char byte = 0;
    check(pipe(up) == 0, "pipe");
    for (int i = 0; i < processes; i++) {
        pid_t pid = fork();
        check(pid >= 0, "fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (int more = 1; more < descriptors; more++) {
                check(dup(fd) >= 0, "dup");
            }
            check(write(up[1], "x", 1) == 1, "write");
            pause();
            _exit(1);
        }
    }
    for (int i = 0; i < processes; i++) {
        check(read(up[0], &byte, 1) == 1, "read");
    }
    ready();
    until_end_of_input();
}

int main(int argc, char **argv) {
    const char *mode = argc > 2 ? argv[1] : "";
    if (!strcmp(mode, "without-main-thread")) {
        without_main_thread(argv[2]);
    } else if (!strcmp(mode, "in-a-thread")) {
        in_a_thread(argv[2]);
    } else if (!strcmp(mode, "lease")) {
        lease(argv[2]);
    } else if (!strcmp(mode, "flocks")) {
        flocks(argv[2]);
    } else if (!strcmp(mode, "toggle")) {
        toggle(argv[2]);
    } else if (!strcmp(mode, "in-flight")) {
        in_flight(argv[2]);
    } else if (!strcmp(mode, "churn")) {
        churn(argv[2]);
    } else if (!strcmp(mode, "crowd") && argc == 5) {
        crowd(argv[2], atoi(argv[3]), atoi(argv[4]));
    } else {
        return 2;
    }
    return 0;
}
