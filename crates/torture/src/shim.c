/* Makes calls of a real process fail, take long, or tell another time. Preloaded; does what files in the folder say that
   the environment variable FAULTS names, for as long as they are there:

   fdatasync, pwrite   these calls fail with EIO
   full                pwrite fails with ENOSPC
   short               pwrite writes half
   slow                fdatasync takes so many milliseconds longer as stand in the file
   clock               the wall clock is wrong by so many milliseconds as stand in the file; other clocks are right */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int path_of(const char *fault, char *path, size_t size) {
    const char *folder = getenv("FAULTS");
    return folder != NULL && snprintf(path, size, "%s/%s", folder, fault) < (int)size;
}

static int told(const char *fault) {
    char path[4096];
    int before = errno;
    int there = path_of(fault, path, sizeof path) && access(path, F_OK) == 0;
    errno = before;
    return there;
}

static long told_number(const char *fault) {
    char path[4096], text[32] = "";
    int before = errno;
    int file = path_of(fault, path, sizeof path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        ssize_t count = read(file, text, sizeof text - 1);
        text[count > 0 ? count : 0] = 0;
        close(file);
    }
    errno = before;
    return strtol(text, NULL, 10);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    /* In steps, so that it ends when it is told no more. */
    for (long waited = 0; waited < told_number("slow"); waited += 10) {
        struct timespec step = {0, 10 * 1000000};
        nanosleep(&step, NULL);
    }
    if (told("fdatasync")) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (told("pwrite")) {
        errno = EIO;
        return -1;
    }
    if (told("full")) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, told("short") ? count / 2 : count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

/* Asked for far more often than it changes: looked up ten times a second. Threads that look at the same time do it twice. */
static long wrong_by_ms(int (*real)(clockid_t, struct timespec *)) {
    static _Atomic long looked_at_ms = -1000, wrong_by = 0;
    struct timespec now;
    if (real(CLOCK_MONOTONIC_COARSE, &now) == 0) {
        long now_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
        if (now_ms - looked_at_ms >= 100) {
            looked_at_ms = now_ms;
            wrong_by = told_number("clock");
        }
    }
    return wrong_by;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*_Atomic found)(clockid_t, struct timespec *);
    int (*real)(clockid_t, struct timespec *) = found;
    if (real == NULL) {
        found = real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = real(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long by = wrong_by_ms(real);
        time->tv_sec += by / 1000;
        time->tv_nsec += by % 1000 * 1000000;
        if (time->tv_nsec < 0) {
            time->tv_sec -= 1;
            time->tv_nsec += 1000000000;
        } else if (time->tv_nsec >= 1000000000) {
            time->tv_sec += 1;
            time->tv_nsec -= 1000000000;
        }
    }
    return result;
}
