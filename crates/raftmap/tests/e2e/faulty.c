/* Makes calls to the disk fail in a real process that preloads this, while files of these names are in the folder that
   the environment variable FAULTS names: `fdatasync`, `pwrite` (both fail with EIO), `full` (pwrite fails with ENOSPC),
   `short` (pwrite writes half). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int told(const char *fault) {
    const char *folder = getenv("FAULTS");
    char path[4096];
    if (folder == NULL || snprintf(path, sizeof path, "%s/%s", folder, fault) >= (int)sizeof path) {
        return 0;
    }
    int before = errno;
    int there = access(path, F_OK) == 0;
    errno = before;
    return there;
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
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
