/* Counts what a process changes below one folder, and kills it at the n-th change.

   Loaded with LD_PRELOAD, so that the writes of libraries (SimpleITK, torch, isal) count too. A
   change is a file opened for writing, a write, a rename, a removal, a new folder or link. A write
   that is struck leaves half of its bytes: the worst that a killed process can leave. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096];
static long done = 0, kill_at = 0;
static pid_t armed = 0; /* children of the armed process count nothing */

void fault_arm(const char *folder, long at) {
    snprintf(root, sizeof root, "%s/", folder);
    done = 0;
    kill_at = at;
    armed = getpid();
}

long fault_count(void) { return done; }

static int inside(const char *path) {
    if (!path || armed != getpid()) return 0;
    return path[0] != '/' || strncmp(path, root, strlen(root)) == 0;
}

static int inside_fd(int fd) {
    char link[64], target[4096];
    if (armed != getpid()) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n < 0) return 0;
    target[n] = 0;
    return strncmp(target, root, strlen(root)) == 0;
}

static int struck(void) { return ++done == kill_at; }
static void count(int counts) {
    if (counts && struck()) kill(getpid(), SIGKILL);
}

#define REAL(name) \
    static __typeof__(name) *real = NULL; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))

int open(const char *p, int f, ...) { MODE(f); REAL(open); count(WRITES(f) && inside(p)); return real(p, f, mode); }
int open64(const char *p, int f, ...) { MODE(f); REAL(open64); count(WRITES(f) && inside(p)); return real(p, f, mode); }
int openat(int d, const char *p, int f, ...) { MODE(f); REAL(openat); count(WRITES(f) && inside(p)); return real(d, p, f, mode); }
int openat64(int d, const char *p, int f, ...) { MODE(f); REAL(openat64); count(WRITES(f) && inside(p)); return real(d, p, f, mode); }
FILE *fopen(const char *p, const char *m) { REAL(fopen); count(m[0] != 'r' && inside(p)); return real(p, m); }
FILE *fopen64(const char *p, const char *m) { REAL(fopen64); count(m[0] != 'r' && inside(p)); return real(p, m); }

ssize_t write(int fd, const void *b, size_t n) {
    REAL(write);
    if (inside_fd(fd) && struck()) { if (real(fd, b, n / 2) >= 0 || 1) kill(getpid(), SIGKILL); }
    return real(fd, b, n);
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { REAL(pwrite64); count(inside_fd(fd)); return real(fd, b, n, o); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); count(inside_fd(fd)); return real(fd, v, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); count(inside_fd(fd)); return real(fd, n); }

int rename(const char *a, const char *b) { REAL(rename); count(inside(b)); return real(a, b); }
int renameat(int d, const char *a, int e, const char *b) { REAL(renameat); count(inside(b)); return real(d, a, e, b); }
int unlink(const char *p) { REAL(unlink); count(inside(p)); return real(p); }
int unlinkat(int d, const char *p, int f) { REAL(unlinkat); count(inside(p)); return real(d, p, f); }
int rmdir(const char *p) { REAL(rmdir); count(inside(p)); return real(p); }
int mkdir(const char *p, mode_t m) { REAL(mkdir); count(inside(p)); return real(p, m); }
int symlink(const char *a, const char *b) { REAL(symlink); count(inside(b)); return real(a, b); }
int link(const char *a, const char *b) { REAL(link); count(inside(b)); return real(a, b); }
