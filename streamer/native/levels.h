/* The directories that a walk is in, their names in the walk's order, and where it begins. Included by `walk.c`. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LEVELS 60        /* below `changeset.trail.OPEN`: that many directories are open at a time */
#define NAMES (64 << 10) /* bytes asked of getdents64 at a time */
#define LONGEST 8192     /* of a path; longer ones are handed over */

/* A directory that several threads use; the last one closes it. */
struct folder {
    int fd;
    atomic_int users;
};

struct level {
    int fd;
    struct folder *folder; /* who closes `fd`, where that is not the walk alone */
    char *names;        /* type byte, name, NUL; one after the other */
    uint32_t *order;    /* where each begins, in the order of the walk */
    size_t count, next;
    size_t prefix;      /* length of the path of this directory, with its slash */
};

struct walk {
    struct level levels[LEVELS];
    int depth;          /* levels in use */
    dev_t device;
    int64_t latest;     /* no mtime later than this, nanoseconds */
    uint64_t whole;     /* files larger than this are handed over */
    int strict;         /* a file must not have changed while it was read */
    int no_listxattrat;
    size_t root;        /* length of the prefix of every name */
    struct scout *scout; /* reads ahead, while that is of use */
    uint64_t passed;    /* entries done or handed over */
    char path[LONGEST + 512];
    char list[4096];
};

struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};

static int before(const void *a, const void *b, void *names) {
    return strcmp((char *)names + *(const uint32_t *)a + 1, (char *)names + *(const uint32_t *)b + 1);
}

static int list(struct level *level) {
    char *buffer = malloc(NAMES);
    size_t used = 0, room = 0, places = 0;
    if (buffer == NULL) return -1;
    for (;;) {
        long got = syscall(SYS_getdents64, level->fd, buffer, NAMES);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            free(buffer);
            if (got < 0) return -1;
            break;
        }
        for (long at = 0; at < got;) {
            struct linux_dirent64 *each = (struct linux_dirent64 *)(buffer + at);
            const char *name = each->d_name;
            at += each->d_reclen;
            if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) continue;
            size_t size = strlen(name) + 2;
            if (used + size > room) {
                room = 2 * room + size + 512;
                char *grown = room > UINT32_MAX ? NULL : realloc(level->names, room);
                if (grown == NULL) { free(buffer); errno = ENOMEM; return -1; }
                level->names = grown;
            }
            if (level->count == places) {
                places = 2 * places + 32;
                uint32_t *grown = realloc(level->order, places * sizeof *grown);
                if (grown == NULL) { free(buffer); errno = ENOMEM; return -1; }
                level->order = grown;
            }
            level->order[level->count++] = (uint32_t)used;
            level->names[used] = (char)each->d_type;
            memcpy(level->names + used + 1, name, size - 1);
            used += size;
        }
    }
    qsort_r(level->order, level->count, sizeof *level->order, before, level->names);
    return 0;
}

static void release(struct folder *folder) {
    if (atomic_fetch_sub(&folder->users, 1) != 1) return;
    close(folder->fd);
    free(folder);
}

static void leave(struct walk *walk) {
    struct level *level = &walk->levels[--walk->depth];
    if (level->folder != NULL) release(level->folder);
    else close(level->fd);
    free(level->names);
    free(level->order);
}

/* Takes `fd` over, also where it fails. */
static struct level *enter(struct walk *walk, int fd, size_t prefix) {
    struct level *level = &walk->levels[walk->depth];
    memset(level, 0, sizeof *level);
    level->fd = fd;
    level->prefix = prefix;
    walk->depth++;
    if (list(level) == 0) return level;
    int error = errno;
    leave(walk);
    errno = error;
    return NULL;
}

static struct walk *opened(int root, const char *prefix, size_t prefix_length, const char *after) {
    struct stat st;
    if (prefix_length >= LONGEST) { errno = ENAMETOOLONG; return NULL; }
    struct walk *walk = calloc(1, sizeof *walk);
    if (walk == NULL) return NULL;
    walk->root = prefix_length;
    memcpy(walk->path, prefix, prefix_length);
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct level *level = NULL;
    if (fd >= 0 && fstat(fd, &st) < 0) { close(fd); fd = -1; }
    if (fd >= 0) {
        walk->device = st.st_dev;
        level = enter(walk, fd, prefix_length);
    }
    if (level == NULL) {
        free(walk);
        return NULL;
    }
    while (*after) {
        const char *end = strchrnul(after, '/');
        size_t length = (size_t)(end - after), low = 0, high = level->count;
        if (length > 255) break;
        char name[256];
        memcpy(name, after, length);
        name[length] = 0;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (strcmp(level->names + level->order[middle] + 1, name) < 0) low = middle + 1;
            else high = middle;
        }
        level->next = low;
        after = *end ? end + 1 : end;
        if (low == level->count || strcmp(level->names + level->order[low] + 1, name) != 0) break;
        if (!*after) break;
        /* A directory that is entered without being told of. What it may be instead shows in the facts. */
        if (walk->depth == LEVELS || level->prefix + length + 2 > LONGEST) break;
        fd = openat(level->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) break;
        if (fstat(fd, &st) < 0 || st.st_dev != walk->device) { close(fd); break; }
        memcpy(walk->path + level->prefix, name, length);
        walk->path[level->prefix + length] = '/';
        level->next = low + 1;
        struct level *inside = enter(walk, fd, level->prefix + length + 1);
        if (inside == NULL) { level->next = low; break; }
        level = inside;
    }
    return walk;
}

static int open_file(int parent, const char *name) {
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    int fd = openat(parent, name, flags | O_NOATIME);
    return fd < 0 && errno == EPERM ? openat(parent, name, flags) : fd; /* O_NOATIME is for the owner */
}
